"""How good will a candidate be at the end, by its learning curve so far? What every predictor of curves offers.

Settled: :class:`KnownCurve`, :class:`CurvePredictor` and :class:`~lightning_evo.predictors.FinalFitness`.
The predictors: :class:`~lightning_evo.predictors.BayesianCurve` (the default),
:class:`~lightning_evo.predictors.RegressionCurve` and :class:`LastValue` here. What is decided by them:
:mod:`lightning_evo.predictors.curves.policies`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy

from lightning_evo.predictors.curves.fitness import (
    FinalFitness,
    Floats,
    Integers,
    Mode,
    Target,
    bounded,
    check_mode,
    check_target,
)

__all__ = ["CurvePredictor", "FinalFitness", "KnownCurve", "LastValue", "Mode", "Target", "fingerprint", "oriented"]


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


class CurvePredictor(ABC):
    """Predicts the final fitness from a learning curve's beginning.

    A user's own implements :meth:`predict`, and :meth:`fit` where it learns. Both are decided by their arguments alone:
    a resumed search predicts what an undisturbed one would have. Constructor arguments are kept under their own names,
    by which two searches are compared.
    """

    minimum_epochs: int = 2
    """How many epochs must have a finite value before it predicts."""

    def fit(self, known: Sequence[KnownCurve]) -> Self:
        """Learn from other candidates' curves, forgetting what was learned before; by default, nothing.

        It is called before every prediction, mostly with curves it has seen: what is costly, keep by their ids.

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
            mode: Whether the metric is maximised or minimised.
            features: The candidate's genome as numbers, as in :class:`KnownCurve`.

        Raises:
            ValueError: If fewer than :attr:`minimum_epochs` values are finite, the curve is longer than ``horizon``, or
                ``target`` or ``mode`` is none of the accepted.
        """


class LastValue(CurvePredictor):
    """The final fitness is about what it is now: Gaussian around the last value (or the best, for ``target="best"``).

    Its standard deviation is what the known curves still gained from here on (root mean square, of at least three), or
    else the root mean square difference between epochs so far, times √(epochs left), as of a random walk.

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
            raise ValueError(f"minimum_epochs {minimum_epochs!r} is not at least 2: one value has no spread")
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
    """What another curve had at ``epoch`` (or its best until then), larger is better; ``None`` if it has nothing there."""
    values = sign * numpy.asarray(known.curve[:epoch], dtype=numpy.float64)
    if len(values) < epoch or not math.isfinite(values[-1]):
        return None
    return float(values[numpy.isfinite(values)].max() if target == "best" else values[-1])


def fingerprint(known: Sequence[KnownCurve]) -> Hashable:
    """Equal for equal curves, NaN included (which isn't equal to itself)."""
    return tuple(
        (each.id, each.complete, len(each.curve), array("d", (*each.curve, each.final, *each.features)).tobytes())
        for each in known
    )


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
        raise ValueError(f"horizon {horizon!r} is not at least the {len(values)} epochs that the curve has already")
    finite = numpy.isfinite(values)
    if finite.sum() < predictor.minimum_epochs:
        raise ValueError(
            f"curve has {int(finite.sum())} finite values, and {type(predictor).__name__} needs {predictor.minimum_epochs}"
        )
    sign = 1.0 if check_mode(mode) == "max" else -1.0
    return numpy.flatnonzero(finite) + 1, sign * values[finite]
