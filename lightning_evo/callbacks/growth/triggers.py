"""Triggers, which decide when a network grows and where, and how they are combined."""

from __future__ import annotations

import inspect
import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from lightning_evo.utils.seeds import derive_seed

if TYPE_CHECKING:
    from lightning_evo.predictors import CurvePredictor

__all__ = [
    "AllOf",
    "AnyOf",
    "Decision",
    "EntropySaturation",
    "EntropyTrend",
    "FixedInterval",
    "Gap",
    "GrowthState",
    "GrowthTrigger",
    "Not",
    "Plateau",
    "RandomTrigger",
]


@dataclass(frozen=True)
class GrowthState:
    """Information for triggers at the start of an epoch.

    Args:
        epoch: The epoch that is about to start, counted from 0.
        max_epochs: Total number of epochs of the training; ``None`` if unknown.
        metric: The monitored metric of each finished epoch, NaN where it is missing.
        mode: Whether the metric is maximized or minimized.
        train_metric: The same metric on training data (for :class:`Gap`); empty if not monitored.
        entropies: For each sampled layer the entropy of its activations in each finished epoch, in [0, 1], NaN where it
            wasn't sampled (before the layer was added).
        grown: Epochs at whose start the network has grown, ascending.
        parameters: Current number of parameters.
        seed: Seed of all random draws.
    """

    epoch: int
    max_epochs: int | None = None
    metric: tuple[float, ...] = ()
    mode: Literal["max", "min"] = "max"
    train_metric: tuple[float, ...] = ()
    entropies: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    grown: tuple[int, ...] = ()
    parameters: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Decision:
    """Whether to grow, why (or why not), and where.

    Args:
        grow: Whether to grow.
        why: The reason, in words.
        layers: Layer -> need for growth, in [0, 1]; empty if the trigger doesn't rank layers.
    """

    grow: bool
    why: str
    layers: Mapping[str, float] = field(default_factory=dict)


class GrowthTrigger(ABC):
    """Decides whether to grow, from the state alone, so that a resumed run decides as an uninterrupted one would.

    Your own implements :meth:`decide`. ``a & b`` grows where both do, ``a | b`` where either does, ``~a`` where ``a``
    doesn't. Constructor arguments are plain, and kept under their own names.
    """

    needs_entropy: bool = False
    """Whether activations' entropy must be sampled for it."""
    needs_metric: bool = False
    """Whether a metric must be monitored for it."""
    needs_train_metric: bool = False
    """Whether its counterpart on training data must be."""

    @abstractmethod
    def decide(self, state: GrowthState) -> Decision:
        """Decide whether to grow at the start of ``state.epoch``."""

    def __and__(self, other: GrowthTrigger) -> AllOf:
        return AllOf([self, other])

    def __or__(self, other: GrowthTrigger) -> AnyOf:
        return AnyOf([self, other])

    def __invert__(self) -> Not:
        return Not(self)

    def __repr__(self) -> str:
        names = list(inspect.signature(type(self)).parameters)
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name, ...)!r}' for name in names)})"


class AllOf(GrowthTrigger):
    """Grow if all triggers agree: ``a & b``.

    The layers are those named by every trigger that names any, with the smallest need; if there is none, it doesn't
    grow.

    Args:
        triggers: One or more.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from lightning_evo.callbacks.growth.triggers import EntropySaturation, Gap, Plateau
        >>> both = EntropySaturation() & Plateau() & Gap(0.1)
        >>> len(both.triggers), both.needs_entropy, both.needs_train_metric
        (3, True, True)
    """

    def __init__(self, triggers: list[GrowthTrigger]) -> None:
        self.triggers = _flat(triggers, AllOf)
        _take_needs(self, self.triggers)

    def decide(self, state: GrowthState) -> Decision:
        decisions = [trigger.decide(state) for trigger in self.triggers]
        against = [decision.why for decision in decisions if not decision.grow]
        if against:
            return Decision(False, "; ".join(against))
        opinions = [decision.layers for decision in decisions if decision.layers]
        common = {
            layer: min(each[layer] for each in opinions)
            for layer in (opinions[0] if opinions else ())
            if all(layer in each for each in opinions)
        }
        if opinions and not common:
            return Decision(False, "triggers agree on no layer: " + "; ".join(decision.why for decision in decisions))
        return Decision(True, "; ".join(decision.why for decision in decisions), common)


class AnyOf(GrowthTrigger):
    """Grow if at least one trigger does: ``a | b``. The layers are those named by any of them, with the largest need.

    Args:
        triggers: One or more.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from lightning_evo.callbacks.growth.triggers import FixedInterval, RandomTrigger
        >>> (FixedInterval(20) | RandomTrigger(1.0)).decide(GrowthState(epoch=1)).grow
        True
    """

    def __init__(self, triggers: list[GrowthTrigger]) -> None:
        self.triggers = _flat(triggers, AnyOf)
        _take_needs(self, self.triggers)

    def decide(self, state: GrowthState) -> Decision:
        decisions = [trigger.decide(state) for trigger in self.triggers]
        agreed = [decision for decision in decisions if decision.grow]
        layers: dict[str, float] = {}
        for layer, need in (item for decision in agreed for item in decision.layers.items()):
            layers[layer] = max(need, layers.get(layer, 0.0))
        return Decision(bool(agreed), "; ".join(decision.why for decision in agreed or decisions), layers)


class Not(GrowthTrigger):
    """Grow if ``trigger`` doesn't: ``~a``. It names no layers.

    Args:
        trigger: The trigger to negate.

    Example:
        >>> from lightning_evo.callbacks.growth.triggers import FixedInterval
        >>> (~FixedInterval(3)).decide(GrowthState(epoch=2)).grow
        True
    """

    def __init__(self, trigger: GrowthTrigger) -> None:
        self.trigger = trigger
        _take_needs(self, [trigger])

    def decide(self, state: GrowthState) -> Decision:
        decision = self.trigger.decide(state)
        return Decision(not decision.grow, f"not: {decision.why}")


def _flat(triggers: Sequence[GrowthTrigger], kind: type[AllOf] | type[AnyOf]) -> list[GrowthTrigger]:
    """Flatten triggers of the same kind: (a & b) & c is a & b & c."""
    if not triggers:
        raise ValueError(f"triggers: {kind.__name__} needs at least one")
    for trigger in triggers:
        if not isinstance(trigger, GrowthTrigger):
            raise ValueError(f"triggers: {trigger!r} is not a GrowthTrigger")
    return [each for trigger in triggers for each in (trigger.triggers if type(trigger) is kind else [trigger])]


def _take_needs(trigger: GrowthTrigger, of: Sequence[GrowthTrigger]) -> None:
    trigger.needs_entropy = any(each.needs_entropy for each in of)
    trigger.needs_metric = any(each.needs_metric for each in of)
    trigger.needs_train_metric = any(each.needs_train_metric for each in of)


class EntropySaturation(GrowthTrigger):
    """Grow if the activation entropy of a layer is high and has stopped rising.

    A layer is saturated when the entropies of the last ``window`` epochs since the network last grew, ``minimum`` at
    least, have a variance below ``variance`` and a mean above ``level``. It grows if at least one layer is saturated,
    and names the saturated layers with their mean as need.

    Args:
        window: Number of epochs to consider, at least 2 (default 10).
        variance: Upper bound of the population variance (default 0.01).
        level: Lower bound of the mean, in [0, 1) (default 0.5).
        minimum: Minimum number of sampled epochs since the last growth step, from 2 to ``window`` (default 3).

    Raises:
        ValueError: If a number is out of range.

    Source:
        NeuroExapt (https://github.com/WenyinWei/neuroexapt): a window of 10, a variance below 0.01 and a mean above a
        threshold that falls with the epochs, of the mean softmax entropy in nats.

    Example:
        >>> entropies = {"conv1": (0.50, 0.70, 0.78, 0.78, 0.78), "conv2": (0.1, 0.3, 0.5, 0.7, 0.9)}
        >>> decision = EntropySaturation(window=3, level=0.6).decide(GrowthState(epoch=5, entropies=entropies))
        >>> decision.grow, sorted(decision.layers)
        (True, ['conv1'])
    """

    needs_entropy = True

    def __init__(self, window: int = 10, variance: float = 0.01, level: float = 0.5, minimum: int = 3) -> None:
        _check_count("window", window, 2)
        _check_count("minimum", minimum, 2)
        if minimum > window:
            raise ValueError(f"minimum: {minimum!r} is not at most window {window!r}")
        _check_above("variance", variance, 0)
        _check_share("level", level)
        self.window, self.variance, self.level, self.minimum = window, variance, level, minimum

    def decide(self, state: GrowthState) -> Decision:
        spreads, saturated = [], {}
        for layer, entropies in _recent(state).items():
            values = _finite(entropies)[-self.window :]
            if len(values) < self.minimum:
                continue
            mean, spread = statistics.fmean(values), statistics.pvariance(values)
            spreads.append((layer, mean, spread))
            if spread < self.variance and mean > self.level:
                saturated[layer] = min(max(mean, 0.0), 1.0)
        if not spreads:
            return Decision(False, f"fewer than {self.minimum} epochs of entropy since it last grew")
        if not saturated:
            layer, mean, spread = max(spreads, key=lambda each: each[1])
            return Decision(False, f"no layer's entropy is saturated ({layer}: mean {mean:.3f}, variance {spread:.1e})")
        names = ", ".join(f"{layer} {mean:.3f}" for layer, mean in saturated.items())
        return Decision(True, f"entropy is saturated: {names}", saturated)


class EntropyTrend(GrowthTrigger):
    """Grow if the activation entropy still rises while the metric stays flat, which suggests a lack of capacity.

    Over the last ``window`` epochs since the network last grew, the least-squares slope of a layer's entropy is above
    ``slope`` per epoch, and the metric's standard deviation below ``flat``. It names the layers with rising entropy,
    with their mean entropy as need.

    Args:
        window: Number of epochs to consider, all of which are required, at least 3 (default 5).
        slope: Minimum slope in entropy per epoch, at least 0 (default 0.001).
        flat: Maximum standard deviation of the metric, in its own unit (default 0.007).

    Raises:
        ValueError: If a number is out of range.

    Source:
        NeuroExapt (https://github.com/WenyinWei/neuroexapt): slope above 0.001 while the variance of the last 5
        accuracies, in percent, is below 0.5; the root of that is 0.7 points.

    Example:
        >>> entropies = {"conv1": (0.50, 0.52, 0.54, 0.56, 0.58)}
        >>> EntropyTrend().decide(GrowthState(epoch=5, metric=(0.8, 0.801, 0.8, 0.799, 0.8), entropies=entropies)).grow
        True
    """

    needs_entropy = True
    needs_metric = True

    def __init__(self, window: int = 5, slope: float = 0.001, flat: float = 0.007) -> None:
        _check_count("window", window, 3)
        if not 0 <= slope < math.inf:
            raise ValueError(f"slope: {slope!r} is not a finite number from 0 on")
        _check_above("flat", flat, 0)
        self.window, self.slope, self.flat = window, slope, flat

    def decide(self, state: GrowthState) -> Decision:
        metric = _finite(_since_growth(state, state.metric)[-self.window :])
        if len(metric) < self.window:
            return Decision(
                False, f"{len(metric)} of the {self.window} epochs whose metric it needs since it last grew"
            )
        spread = statistics.pstdev(metric)
        if not spread < self.flat:
            return Decision(False, f"the metric isn't flat: its standard deviation is {spread:.2g}")
        rising = {}
        for layer, entropies in _recent(state).items():
            values = _finite(entropies[-self.window :])
            if len(values) == self.window and _slope(values) > self.slope:
                rising[layer] = min(max(statistics.fmean(values), 0.0), 1.0)
        if not rising:
            return Decision(False, "no layer's entropy rises")
        return Decision(True, f"the metric is flat while entropy rises: {', '.join(rising)}", rising)


class Plateau(GrowthTrigger):
    """Grow if the monitored metric is expected to improve little with the current network.

    From the curve since the network last grew, the metric ``horizon`` epochs ahead is predicted. It grows if its mean
    is less than ``epsilon`` better than the best of that curve. A curve that the predictor can't explain
    (:attr:`FinalFitness.explained`), such as one that accelerates, is not a plateau.

    Args:
        epsilon: ε, the smallest gain worth waiting for, in the metric's own unit, above 0 (default 0.005).
        horizon: Number of epochs to predict ahead, at least 1 (default 3).
        minimum: Minimum number of epochs with a finite metric since the last growth step, at least 1 (default 8); the
            predictor's own minimum also applies. With fewer epochs the best one is often a lucky outlier, so that noise
            looks like a plateau.
        predictor: Predictor of the metric (default :class:`~lightning_evo.predictors.BayesianCurve`).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> flat, rising = (0.6, 0.8, 0.85, 0.86, 0.86, 0.86), (0.3, 0.36, 0.41, 0.455, 0.495, 0.53)
        >>> [Plateau(minimum=5).decide(GrowthState(epoch=6, metric=curve)).grow for curve in (flat, rising)]
        [True, False]
    """

    needs_metric = True

    def __init__(
        self, epsilon: float = 0.005, horizon: int = 3, minimum: int = 8, predictor: CurvePredictor | None = None
    ) -> None:
        _check_above("epsilon", epsilon, 0)
        _check_count("horizon", horizon, 1)
        _check_count("minimum", minimum, 1)
        self.epsilon, self.horizon, self.minimum, self.predictor = epsilon, horizon, minimum, predictor

    @cached_property
    def _predictor(self) -> CurvePredictor:
        if self.predictor is not None:
            return self.predictor
        from lightning_evo.predictors import BayesianCurve  # not before a plateau is looked for

        return BayesianCurve()

    def decide(self, state: GrowthState) -> Decision:
        curve = _since_growth(state, state.metric)
        values, needed = _finite(curve), max(self.minimum, self._predictor.minimum_epochs)
        if len(values) < needed:
            return Decision(False, f"{len(values)} of the {needed} epochs whose metric it needs since it last grew")
        ahead = self._predictor.predict(curve, len(curve) + self.horizon, "last", state.mode)
        gain = ahead.mean - max(values) if state.mode == "max" else min(values) - ahead.mean
        expected = f"gain expected of the next {self.horizon} epochs: {gain:.2g}, ε {self.epsilon:g}"
        if not ahead.explained:
            return Decision(False, f"the curve is not explained ({expected})")
        return Decision(gain < self.epsilon, expected)


class Gap(GrowthTrigger):
    """Don't grow while the network overfits: grow only if training isn't much better than validation.

    Args:
        limit: Maximum difference by which the metric on training data may be better than the monitored one, in their
            unit, at least 0 (default 0.05), in the last epoch with both.

    Raises:
        ValueError: If ``limit`` is negative.

    Example:
        >>> state = GrowthState(epoch=2, metric=(0.7, 0.75), train_metric=(0.72, 0.85))
        >>> Gap().decide(state).grow, Gap(limit=0.2).decide(state).grow
        (False, True)
    """

    needs_metric = True
    needs_train_metric = True

    def __init__(self, limit: float = 0.05) -> None:
        if not 0 <= limit < math.inf:
            raise ValueError(f"limit: {limit!r} is not a finite number from 0 on")
        self.limit = limit

    def decide(self, state: GrowthState) -> Decision:
        sign = 1.0 if state.mode == "max" else -1.0
        gaps = [sign * (train - held) for train, held in zip(state.train_metric, state.metric, strict=False)]
        known = _finite(gaps)
        if not known:
            return Decision(False, "no epoch has both the metric and its counterpart on training data")
        return Decision(known[-1] <= self.limit, f"training is {known[-1]:.3g} better than validation")


class FixedInterval(GrowthTrigger):
    """Grow at fixed intervals: every ``epochs`` epochs. A control that uses no information.

    Args:
        epochs: Interval, at least 1 (default 5), counted from the last growth step or the start.

    Raises:
        ValueError: If ``epochs`` is below 1.

    Example:
        >>> [epoch for epoch in range(12) if FixedInterval(5).decide(GrowthState(epoch, grown=())).grow]
        [5, 6, 7, 8, 9, 10, 11]
        >>> FixedInterval(5).decide(GrowthState(epoch=9, grown=(5,))).grow
        False
    """

    def __init__(self, epochs: int = 5) -> None:
        _check_count("epochs", epochs, 1)
        self.epochs = epochs

    def decide(self, state: GrowthState) -> Decision:
        passed = state.epoch - max(state.grown, default=0)
        return Decision(passed >= self.epochs, f"{passed} epochs passed, the interval is {self.epochs}")


class RandomTrigger(GrowthTrigger):
    """Grow at random: a control. The draws depend only on the seed and the epoch.

    Args:
        probability: Probability of growing per epoch, in [0, 1] (default 0.2).

    Raises:
        ValueError: If ``probability`` is not in [0, 1].

    Example:
        >>> [epoch for epoch in range(20) if RandomTrigger(0.2).decide(GrowthState(epoch, seed=0)).grow]
        [11, 15, 19]
    """

    def __init__(self, probability: float = 0.2) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability: {probability!r} is not in [0, 1]")
        self.probability = probability

    def decide(self, state: GrowthState) -> Decision:
        draw = derive_seed(state.seed, "growth", state.epoch) / 2**32
        return Decision(draw < self.probability, f"drew {draw:.3f}, grows below {self.probability:g}")


def _since_growth(state: GrowthState, curve: Sequence[float]) -> tuple[float, ...]:
    """Return the values of the epochs since the network last grew."""
    return tuple(curve[max(state.grown, default=0) : state.epoch])


def _recent(state: GrowthState) -> dict[str, tuple[float, ...]]:
    return {layer: _since_growth(state, entropies) for layer, entropies in state.entropies.items()}


def _finite(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line, per epoch."""
    return statistics.linear_regression(range(len(values)), values).slope


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: {value!r} is not an integer of at least {least}")


def _check_above(name: str, value: float, bound: float) -> None:
    if not bound < value < math.inf:
        raise ValueError(f"{name}: {value!r} is not a finite number above {bound}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: {value!r} is not in [0, 1)")
