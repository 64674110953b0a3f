"""The quality of predictors: cross-validated rank correlation, compared with that of parameters and FLOPs."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy

from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.genome import Genome
from lightning_evo.utils.records import known_fields

__all__ = [
    "SIZES",
    "Quality",
    "QualityHistory",
    "cross_validate",
    "determination",
    "kendall",
    "measure_quality",
    "size_baseline",
]

SIZES = ("params", "flops")
"""The costs whose rank correlation with the fitness a predictor has to beat."""


@dataclass(frozen=True)
class Quality:
    """The result of one cross-validation of a predictor.

    Args:
        monitor: The objective it predicts.
        results: Number of the search's own results so far, without those of earlier archives.
        tau: Kendall's τ-b between predicted and true fitness of held-out results; 0 where it is undefined.
        r2: Coefficient of determination of the same predictions; below 0 if the mean would be better.
        baseline: The larger |τ| of parameters and FLOPs with the fitness; 0 if no costs are known.
        earned: Whether ``tau`` beats ``baseline``, so that the predictor is used.
        seconds: Wall-clock time of the validation.
    """

    monitor: str
    results: int
    tau: float
    r2: float
    baseline: float
    earned: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


@dataclass(frozen=True)
class QualityHistory:
    """Every validation of a search's predictors, as the archive's meta values hold them."""

    key: ClassVar[str] = "predictor_quality"

    validations: Sequence[Quality] = ()

    def to_dict(self) -> list[dict[str, Any]]:
        """As JSON: a list of validations."""
        return [quality.to_dict() for quality in self.validations]

    @classmethod
    def from_dict(cls, record: Sequence[Mapping[str, Any]]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls([Quality.from_dict(one) for one in record])


def cross_validate(
    predictor: Predictor,
    genomes: Sequence[Genome],
    fitness: Sequence[float],
    folds: int = 5,
    seed: int = 0,
    prior: tuple[Sequence[Genome], Sequence[float]] = ((), ()),
) -> numpy.ndarray:
    """Predict each result by a predictor fitted without it.

    Args:
        predictor: Bound to the search space; it is left fitted to the last fold.
        genomes: Distinct genomes.
        fitness: Their fitness, higher is better.
        folds: How many parts; each is predicted from the others.
        seed: Decides the parts.
        prior: Further genomes and their fitness, learned from in every fold and never predicted.

    Returns:
        Predicted means, of shape (number of genomes,).
    """
    order = list(range(len(genomes)))
    random.Random(seed).shuffle(order)
    predicted = numpy.empty(len(genomes))
    for fold in range(folds):
        held_out = order[fold::folds]
        if not held_out:
            continue
        unseen = set(held_out)
        seen = [i for i in range(len(genomes)) if i not in unseen]
        predictor.fit([*prior[0], *(genomes[i] for i in seen)], [*prior[1], *(fitness[i] for i in seen)])
        predicted[held_out], _ = predictor.predict([genomes[i] for i in held_out])
    return predicted


def measure_quality(
    monitor: str,
    results: int,
    predicted: Sequence[float] | numpy.ndarray,
    fitness: Sequence[float],
    costs: Sequence[Mapping[str, float]],
    started: float,
) -> Quality:
    """The quality of predictions for candidates with these costs; ``started``: ``time.perf_counter()`` before them."""
    r2, tau = determination(predicted, fitness), kendall(predicted, fitness)
    # A cost that is itself an objective is no baseline: it would be compared with itself.
    baseline = 0.0 if monitor.startswith("cost/") else size_baseline(fitness, costs)
    return Quality(
        monitor=monitor,
        results=results,
        tau=tau,
        r2=0.0 if min(fitness) == max(fitness) else r2,
        baseline=baseline,
        earned=tau - baseline > 1e-9,  # rounding may not earn it
        seconds=time.perf_counter() - started,
    )


def determination(predicted: Sequence[float] | numpy.ndarray, true: Sequence[float]) -> float:
    """R² of predictions; below 0 if the mean would be better, NaN if all true values are equal."""
    values = numpy.asarray(true, dtype=float)
    spread = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    return 1 - float(((values - numpy.asarray(predicted)) ** 2).sum()) / spread if spread else math.nan


def size_baseline(fitness: Sequence[float], costs: Sequence[Mapping[str, float]]) -> float:
    """The larger |Kendall's τ| of parameters and FLOPs with the fitness, over the results that have that cost."""
    known = [
        [(cost[name], value) for cost, value in zip(costs, fitness, strict=True) if name in cost] for name in SIZES
    ]
    return max(abs(kendall([size for size, _ in rows], [value for _, value in rows])) for rows in known)


def kendall(first: Sequence[float] | numpy.ndarray, second: Sequence[float] | numpy.ndarray) -> float:
    """Kendall's τ-b of two rows of numbers; 0 where one of them is constant."""
    from scipy.stats import kendalltau  # half a second to import, and only predictors need it

    tau = float(kendalltau(first, second).statistic) if len(first) > 1 else 0.0
    return 0.0 if numpy.isnan(tau) else tau
