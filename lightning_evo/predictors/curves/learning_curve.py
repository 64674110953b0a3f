"""Prediction of the final fitness from the beginning of a learning curve: what every predictor takes and gives.

:class:`CurvePredictor` is the contract, :class:`KnownCurve` what it learns from, and :class:`FinalFitness` what it predicts.
:class:`LastValue` is the simplest predictor; the others are :class:`~lightning_evo.predictors.BayesianCurve` (the default)
and :class:`~lightning_evo.predictors.RegressionCurve`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Self

import numpy
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

__all__ = [
    "CurvePredictor",
    "FinalFitness",
    "Floats",
    "Integers",
    "KnownCurve",
    "LastValue",
    "Mode",
    "Target",
    "bounded",
    "check_mode",
    "check_target",
    "fingerprint",
    "oriented",
]

Floats = NDArray[numpy.float64]
Integers = NDArray[numpy.int64]
Mode = Literal["max", "min"]
Target = Literal["last", "best"]

_BISECTIONS = 50
"""Halvings of the bracket around a quantile, down to 1e-15 of its width."""


class CurvePredictor(ABC):
    """Predicts the final fitness from the beginning of a learning curve.

    A predictor of your own implements :meth:`predict`, and :meth:`fit` if it learns. The arguments alone must determine the
    results of both, so that a resumed search predicts what an uninterrupted one would have. Keep constructor arguments
    under their own names: two searches are compared by them.
    """

    minimum_epochs: int = 2
    """How many epochs must have a finite value before it predicts."""

    def fit(self, known: Sequence[KnownCurve]) -> Self:
        """Learn from other candidates' curves and forget what was learned before; by default it learns nothing.

        It is called before every prediction, mostly with curves it has seen before: cache what is costly.

        Args:
            known: Finished candidates and those stopped early (``complete`` tells them apart), in any order.
        """
        return self

    @abstractmethod
    def predict(
        self,
        curve: Sequence[float],
        horizon: int,
        target: Target = "last",
        mode: Mode = "max",
        features: Sequence[float] = (),
    ) -> FinalFitness:
        """The distribution of the fitness after ``horizon`` epochs.

        Args:
            curve: The metric so far, one value per epoch from the first; NaN and infinities count as missing.
            horizon: How many epochs the training would have altogether.
            target: ``last``: the value after the last epoch. ``best``: the best of all epochs, those to come included.
            mode: Whether the metric is maximized or minimized.
            features: The candidate's genome as numbers, as in :class:`KnownCurve`.

        Raises:
            ValueError: If fewer than :attr:`minimum_epochs` values are finite, the curve is longer than ``horizon``, or
                ``target`` or ``mode`` is none of the accepted.
        """


@dataclass(frozen=True)
class KnownCurve:
    """The learning curve of another candidate of the search.

    Args:
        id: Of the candidate.
        curve: The monitored metric, one value per epoch, NaN where it is missing.
        final: Its fitness; the predicted one if it was stopped early.
        features: Its genome as numbers; all known curves have as many, or none.
        cost: What it took, by name (``params``, ``flops``, ``seconds``).
        complete: Whether it was trained to the end.
    """

    id: int
    curve: tuple[float, ...]
    final: float
    features: tuple[float, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    complete: bool = True


class FinalFitness:
    """The predictive distribution of a candidate's final fitness, in the metric's own units.

    A mixture of Gaussians, censored to [low, high]: what falls outside counts as the bound itself. So the best value so
    far, below which the best of all epochs can't fall, and the bounds of an accuracy are respected exactly.

    Args:
        weights: (k,) of the components; not negative, scaled to sum to 1.
        means: (k,) of the components.
        stds: (k,) of the components; 0 makes a point mass.
        explained: Whether the predictor can explain the curve; if not, no decision should rest on this.
        low: No value is below it. Default: unbounded.
        high: No value is above it. Default: unbounded.

    Raises:
        ValueError: If the lengths differ, nothing is given, a number isn't finite, or a weight or deviation is negative.

    Example:
        >>> final = FinalFitness.normal(0.9, 0.01)
        >>> round(final.probability_above(0.9), 3), [round(bound, 3) for bound in final.interval(0.9)]
        (0.5, [0.884, 0.916])
        >>> FinalFitness([1, 1], [0.5, 1.2], [0.1, 0.1], high=1.0).probability_above(1.0)
        0.0
    """

    def __init__(
        self,
        weights: Sequence[float] | Floats,
        means: Sequence[float] | Floats,
        stds: Sequence[float] | Floats,
        explained: bool = True,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        self.weights, self.means, self.stds = (
            numpy.atleast_1d(numpy.asarray(each, dtype=numpy.float64)) for each in (weights, means, stds)
        )
        if not len(self.weights) == len(self.means) == len(self.stds) > 0:
            raise ValueError(
                f"a mixture needs as many weights as means and stds, not "
                f"{len(self.weights)}, {len(self.means)} and {len(self.stds)}"
            )
        numbers = numpy.concatenate([self.weights, self.means, self.stds])
        if (
            not numpy.isfinite(numbers).all()
            or self.weights.min() < 0
            or self.stds.min() < 0
            or self.weights.max() <= 0
        ):
            raise ValueError("weights, means and stds must be finite, weights and stds not negative, a weight above 0")
        if not low <= high:
            raise ValueError(f"low: {low!r} is not at most high {high!r}")
        self.weights = self.weights / self.weights.sum()
        self.explained, self.low, self.high = bool(explained), float(low), float(high)

    @classmethod
    def normal(cls, mean: float, std: float, explained: bool = True) -> FinalFitness:
        """One Gaussian."""
        return cls([1.0], [mean], [std], explained)

    def __repr__(self) -> str:
        low, high = self.interval()
        doubt = "" if self.explained else ", unexplained"
        return f"FinalFitness({self.mean:.6g} ± {self.std:.3g}, 90 % in [{low:.6g}, {high:.6g}]{doubt})"

    @cached_property
    def mean(self) -> float:
        """The expected value."""
        return self._moments[0]

    @cached_property
    def std(self) -> float:
        """The standard deviation."""
        return self._moments[1]

    @cached_property
    def median(self) -> float:
        """The value exceeded with probability 1/2."""
        return self.quantile(0.5)

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """The central interval that holds the final fitness with probability ``level``.

        Raises:
            ValueError: If ``level`` is not between 0 and 1, both excluded.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: {level!r} is not between 0 and 1 (both excluded)")
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def quantile(self, probability: float) -> float:
        """The value below which the final fitness lies with ``probability``.

        Raises:
            ValueError: If ``probability`` is not between 0 and 1, both excluded.
        """
        if not 0 < probability < 1:
            raise ValueError(f"probability: {probability!r} is not between 0 and 1 (both excluded)")
        # A quantile of a mixture lies between the least and the greatest of its components' quantiles.
        each = self.means + float(ndtri(probability)) * self.stds
        left, right = float(each.min()), float(each.max())
        for _ in range(_BISECTIONS if right > left else 0):
            middle = 0.5 * (left + right)
            if self._uncensored(middle) < probability:
                left = middle
            else:
                right = middle
        return min(max(right, self.low), self.high)

    def probability_above(self, value: float) -> float:
        """P(final fitness > value)."""
        if value >= self.high:
            return 0.0
        return 1.0 if value < self.low else 1.0 - self._uncensored(value)

    def probability_below(self, value: float) -> float:
        """P(final fitness < value)."""
        if value <= self.low:
            return 0.0
        return 1.0 if value > self.high else self._uncensored(value, including=False)

    def probability_better(self, value: float, mode: Mode) -> float:
        """P(final fitness beats ``value``): is above it to maximize, below it to minimize."""
        return self.probability_above(value) if check_mode(mode) == "max" else self.probability_below(value)

    def sample(self, n: int, rng: numpy.random.Generator) -> Floats:
        """(n,): independent draws."""
        chosen = rng.choice(len(self.weights), size=n, p=self.weights)
        drawn = self.means[chosen] + self.stds[chosen] * rng.standard_normal(n)
        return numpy.clip(drawn, self.low, self.high)

    def _uncensored(self, value: float, including: bool = True) -> float:
        """The mixture's distribution function, as if there were no bounds; a point mass at ``value`` counts or not."""
        spread = self.stds > 0
        below = (self.means <= value if including else self.means < value).astype(numpy.float64)
        numpy.divide(value - self.means, self.stds, out=below, where=spread)
        below[spread] = ndtr(below[spread])
        return min(float(self.weights @ below), 1.0)

    @cached_property
    def _moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the censored mixture, each component's in closed form."""
        first, second = _censored(self.means, self.stds, self.low, self.high)
        mean = float(self.weights @ first)
        return mean, math.sqrt(max(float(self.weights @ (second + (first - mean) ** 2)), 0.0))


def _censored(means: Floats, stds: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Means and variances of Gaussians clipped to [low, high]."""
    if math.isinf(low) and math.isinf(high):
        return means, stds**2
    clipped = numpy.clip(means, low, high)
    mean, variance = clipped.copy(), numpy.zeros_like(means)
    some = stds > 0
    mu, sd = means[some], stds[some]
    a, b = (low - mu) / sd, (high - mu) / sd
    below, above = ndtr(a), ndtr(-b)
    inside = 1.0 - below - above
    pa, pb = _density(a), _density(b)
    # Deviations from the clipped mean keep the differences small where a bound is far away.
    start = clipped[some]
    to_low = numpy.where(below > 0, low - start, 0.0) if math.isfinite(low) else numpy.zeros_like(mu)
    to_high = numpy.where(above > 0, high - start, 0.0) if math.isfinite(high) else numpy.zeros_like(mu)
    shift = mu - start
    first = to_low * below + to_high * above + shift * inside + sd * (pa - pb)
    edge = _product(a, pa) - _product(b, pb)
    second = (
        to_low**2 * below + to_high**2 * above + (shift**2 + sd**2) * inside + 2 * shift * sd * (pa - pb) + sd**2 * edge
    )
    mean[some] = start + first
    variance[some] = numpy.maximum(second - first**2, 0.0)
    return mean, variance


def _density(x: Floats) -> Floats:
    return numpy.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _product(x: Floats, density: Floats) -> Floats:
    """x · density(x), 0 at infinity."""
    return numpy.where(numpy.isfinite(x), x, 0.0) * density


class LastValue(CurvePredictor):
    """Predicts that the fitness stays what it is: Gaussian around the last value (or the best, for ``target="best"``).

    Its standard deviation is the root mean square of what at least three known curves still gained from here on, or else
    that of the differences between epochs so far, times √(epochs left), as of a random walk.

    Args:
        minimum_epochs: How many finite values it needs (default 2).

    Raises:
        ValueError: If ``minimum_epochs`` is below 2.

    Example:
        >>> LastValue().predict([0.5, 0.7, 0.8], horizon=10).median
        0.8
    """

    def __init__(self, minimum_epochs: int = 2) -> None:
        if minimum_epochs < 2:
            raise ValueError(f"minimum_epochs: {minimum_epochs!r} is not at least 2; one value has no spread")
        self.minimum_epochs = minimum_epochs
        self._known: Sequence[KnownCurve] = ()

    def fit(self, known: Sequence[KnownCurve]) -> Self:
        self._known = [each for each in known if each.complete and math.isfinite(each.final)]
        return self

    def predict(
        self,
        curve: Sequence[float],
        horizon: int,
        target: Target = "last",
        mode: Mode = "max",
        features: Sequence[float] = (),
    ) -> FinalFitness:
        epochs, values = oriented(self, curve, horizon, target, mode)
        sign = 1.0 if mode == "max" else -1.0
        now = values.max() if target == "best" else values[-1]
        last = int(epochs[-1])
        then = [(each.final, _now(each, last, target, sign)) for each in self._known]
        gains = [final - sign * was for final, was in then if was is not None]
        if last == horizon:
            std = 0.0
        elif len(gains) >= 3:
            std = float(numpy.sqrt(numpy.mean(numpy.square(gains))))
        else:
            steps = numpy.diff(values) / numpy.sqrt(numpy.diff(epochs))
            std = float(numpy.sqrt(numpy.mean(steps**2) * (horizon - last)))
        best = float(sign * now)
        low, high = bounded(best if target == "best" else None, mode)
        return FinalFitness([1.0], [best], [std], low=low, high=high)


def _now(known: KnownCurve, epoch: int, target: Target, sign: float) -> float | None:
    """What another curve had at ``epoch`` (or its best until then), larger is better; ``None`` if it has no value there."""
    values = sign * numpy.asarray(known.curve[:epoch], dtype=numpy.float64)
    if len(values) < epoch or not math.isfinite(values[-1]):
        return None
    return float(values[numpy.isfinite(values)].max() if target == "best" else values[-1])


def oriented(
    predictor: CurvePredictor, curve: Sequence[float], horizon: int, target: str, mode: str
) -> tuple[Integers, Floats]:
    """The epochs (from 1) that have a finite value, and those values, larger is better.

    Raises:
        ValueError: See :meth:`CurvePredictor.predict`.
    """
    check_target(target)
    values = numpy.asarray(curve, dtype=numpy.float64)
    if len(values) > horizon:
        raise ValueError(f"horizon: {horizon!r} is not at least the {len(values)} epochs that the curve has already")
    finite = numpy.isfinite(values)
    if finite.sum() < predictor.minimum_epochs:
        raise ValueError(
            f"curve has {int(finite.sum())} finite values, and {type(predictor).__name__} needs {predictor.minimum_epochs}"
        )
    sign = 1.0 if check_mode(mode) == "max" else -1.0
    return numpy.flatnonzero(finite) + 1, sign * values[finite]


def fingerprint(known: Sequence[KnownCurve]) -> Hashable:
    """A key that is equal for equal curves, also where they hold NaN."""
    return tuple(
        (each.id, each.complete, len(each.curve), array("d", (*each.curve, each.final, *each.features)).tobytes())
        for each in known
    )


def bounded(best: float | None, mode: Mode) -> tuple[float, float]:
    """The bounds (low, high) of a best value, which can only improve; unbounded for ``None``."""
    if best is None:
        return -math.inf, math.inf
    return (best, math.inf) if mode == "max" else (-math.inf, best)


def check_mode(mode: str) -> str:
    """Return ``mode``; raise ``ValueError`` unless it is ``max`` or ``min``."""
    if mode not in ("max", "min"):
        raise ValueError(f"mode: {mode!r} is not 'max' or 'min'")
    return mode


def check_target(target: str) -> str:
    """Return ``target``; raise ``ValueError`` unless it is ``last`` or ``best``."""
    if target not in ("last", "best"):
        raise ValueError(f"target: {target!r} is not 'last' or 'best'")
    return target
