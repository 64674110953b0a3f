"""Whether to grow, why, and where: what triggers know, what they answer, and how they are combined."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["AllOf", "AnyOf", "Decision", "GrowthState", "GrowthTrigger", "Not"]


@dataclass(frozen=True)
class GrowthState:
    """What a trigger knows, at the start of an epoch.

    Args:
        epoch: The epoch that is about to begin, from 0; as many are finished.
        max_epochs: How many the training has altogether; ``None`` where nobody knows.
        metric: The monitored metric of each finished epoch, NaN where it is missing.
        mode: Whether it is maximised or minimised.
        train_metric: Its counterpart on training data (for :class:`Gap`); empty where none is monitored.
        entropies: For each sampled layer the entropy of its activations in each finished epoch, in [0, 1], NaN where it
            wasn't sampled (a layer that is younger).
        grown: Epochs at whose start the network has grown, ascending.
        parameters: How many it has now.
        seed: Decides what is drawn.
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
        grow: Whether.
        why: Why, or why not, in words.
        layers: Layer -> how much it needs it, in [0, 1]; empty where the trigger has no opinion.
    """

    grow: bool
    why: str
    layers: Mapping[str, float] = field(default_factory=dict)


class GrowthTrigger(ABC):
    """Decides whether to grow now; from its state alone, so that a resumed run decides as an undisturbed one would.

    A user's own implements :meth:`decide`. ``a & b`` grows where both do, ``a | b`` where either does, ``~a`` where ``a``
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
        """Whether to grow at the start of ``state.epoch``."""

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
    """Grow where all do: ``a & b``.

    Layers are those that all name which name any, the least need counting; if there is no such layer, it doesn't grow.

    Args:
        triggers: One or more.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from lightning_evo.callbacks.growth_triggers import EntropySaturation, Gap, Plateau
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
    """Grow where at least one does: ``a | b``. Layers are those that any of these names, the largest need counting.

    Args:
        triggers: One or more.

    Raises:
        ValueError: If there is none.

    Example:
        >>> from lightning_evo.callbacks.growth_triggers import FixedInterval, RandomTrigger
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
    """Grow where ``trigger`` doesn't: ``~a``. It names no layers.

    Args:
        trigger: Another one.

    Example:
        >>> from lightning_evo.callbacks.growth_triggers import FixedInterval
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
    """Triggers of the same kind are taken apart: (a & b) & c is a & b & c."""
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
