"""Could a candidate still join the Pareto front? The probability that nothing on the front dominates it.

Settled: :func:`probability_not_dominated`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from lightning_evo.predictors.curves.fitness import FinalFitness, Floats, Mode

__all__ = ["probability_not_dominated"]

Booleans = NDArray[numpy.bool_]


def probability_not_dominated(
    predictions: Sequence[FinalFitness | float],
    front: Sequence[tuple[float, ...]],
    weights: Sequence[float],
    seed: int = 0,
    samples: int = 4096,
) -> float:
    """P(no point of ``front`` dominates the candidate), objectives taken as independent.

    A point dominates if it is at least as good in every objective and better in one. One uncertain objective beside
    known ones is computed in closed form; several by Monte Carlo.

    Args:
        predictions: Per objective, the final fitness's distribution, or a number where it is known (a cost).
        front: What has been reached, one value per objective; needn't be free of dominated points.
        weights: Per objective, positive to maximise and negative to minimise.
        seed: Decides the samples; the same seed gives the same probability.
        samples: How many, of several uncertain objectives (default 4096: a standard error of at most 0.008, and of
            0.0034 at 0.05).

    Raises:
        ValueError: If the lengths differ, there is no objective, a known number is NaN, a weight is 0, or ``samples`` < 1.

    Example:
        >>> accuracy = FinalFitness.normal(0.9, 0.01)
        >>> front = [(0.9, 1000.0), (0.95, 5000.0)]
        >>> round(probability_not_dominated([accuracy, 2000.0], front, weights=(1, -1)), 3)  # must beat 0.9
        0.5
        >>> probability_not_dominated([accuracy, 500.0], front, weights=(1, -1))  # smaller than all
        1.0
    """
    count = len(weights)
    if not count or len(predictions) != count or any(len(point) != count for point in front):
        raise ValueError(
            f"{len(predictions)} predictions, {count} weights and points of {sorted({len(point) for point in front})} "
            "values don't fit together: all need one per objective"
        )
    if any(not weight for weight in weights):
        raise ValueError(f"weights {tuple(weights)!r} contain a 0: positive maximises, negative minimises")
    if samples < 1:
        raise ValueError(f"samples {samples!r} is not at least 1")
    if any(not isinstance(each, FinalFitness) and math.isnan(each) for each in predictions):
        raise ValueError(f"predictions {tuple(predictions)!r} contain NaN")
    if not front:
        return 1.0
    signs = numpy.sign(numpy.asarray(weights, dtype=numpy.float64))
    points = numpy.asarray(front, dtype=numpy.float64) * signs
    uncertain = [i for i, each in enumerate(predictions) if isinstance(each, FinalFitness)]
    fixed = [i for i in range(count) if i not in uncertain]
    values = numpy.array([signs[i] * float(predictions[i]) for i in fixed])  # type: ignore[arg-type]
    # Only points at least as good in all that is known can dominate; where one is better there, a tie elsewhere will do.
    rivals = points[(points[:, fixed] >= values).all(axis=1)]
    if not len(rivals):
        return 1.0
    stricter: Booleans = numpy.asarray((rivals[:, fixed] > values).any(axis=1))
    if not uncertain:
        return float(not stricter.any())
    if len(uncertain) == 1:
        return _closed(predictions[uncertain[0]], signs[uncertain[0]], rivals[:, uncertain[0]], stricter)
    rng = numpy.random.default_rng(seed)
    drawn = numpy.stack([signs[i] * predictions[i].sample(samples, rng) for i in uncertain], axis=1)  # type: ignore[union-attr]
    theirs = rivals[:, uncertain]
    dominated = numpy.zeros(samples, dtype=bool)
    for point, already in zip(theirs, stricter, strict=True):
        dominated |= (point >= drawn).all(axis=1) & (already | (point > drawn).any(axis=1))
    return float(1.0 - dominated.mean())


def _closed(prediction: FinalFitness | float, sign: float, theirs: Floats, stricter: Booleans) -> float:
    """P(better than every rival): above the best of them, or level with it if no rival there is better elsewhere."""
    assert isinstance(prediction, FinalFitness)
    best = float(theirs.max())
    better: Mode = "max" if sign > 0 else "min"
    worse: Mode = "min" if sign > 0 else "max"
    if stricter[theirs == best].any():
        return prediction.probability_better(sign * best, better)
    return 1.0 - prediction.probability_better(sign * best, worse)
