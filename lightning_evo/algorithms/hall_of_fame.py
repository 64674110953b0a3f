"""The best individuals so far: DEAP's hall of fame and Pareto front, faster and independent of the order of tells."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

import numpy
from deap import tools

from lightning_evo.algorithms.individual import Individual

__all__ = ["HallOfFame", "ParetoFront"]


def rank(individual: Individual) -> tuple[tuple[float, ...], int]:
    """The sort key of both: fitness, and among equals the candidate asked for first."""
    return individual.fitness.wvalues, -individual.id


def same_phenotype(first: Individual, second: Individual) -> bool:
    """Whether two individuals build the same network."""
    return first.phenotype == second.phenotype


class _Ranked(tools.HallOfFame):
    """Sorted by :func:`rank`, best first; holds the individuals themselves, which no longer change, not copies."""

    def insert(self, item: Individual) -> None:
        at = bisect_right(self.keys, rank(item))
        self.items.insert(len(self) - at, item)
        self.keys.insert(at, rank(item))


class HallOfFame(_Ranked):
    """The ``maxsize`` best individuals, one for each phenotype.

    Of two equals DEAP's keeps the one told first; this one keeps the one asked for first, so that the hall of fame
    doesn't depend on the order in which candidates end.

    Args:
        maxsize: Number of individuals to keep, at least 1.
    """

    def __init__(self, maxsize: int) -> None:
        super().__init__(maxsize, similar=same_phenotype)

    def update(self, population: Iterable[Individual]) -> None:
        for individual in population:
            full = len(self) >= self.maxsize
            if full and rank(individual) < self.keys[0]:
                continue
            twin = next((i for i, other in enumerate(self) if self.similar(individual, other)), None)
            if twin is not None:
                if rank(individual) < rank(self[twin]):
                    continue
                self.remove(twin)
            elif full:
                self.remove(-1)
            self.insert(individual)


class ParetoFront(_Ranked, tools.ParetoFront):
    """All individuals that no other dominates, one for each phenotype among equals; sorted by the first objective.

    DEAP's compares each newcomer with the whole front in Python. Here the fitness values of the front are in an array,
    so that 100,000 newcomers take seconds even if the front grows to thousands.

    Args:
        objectives: Number of objectives.
    """

    def __init__(self, objectives: int) -> None:
        tools.ParetoFront.__init__(self, similar=same_phenotype)
        self._wvalues = numpy.empty((objectives, 64))  # one column per individual, in the order of _members
        self._members: list[Individual] = []

    def update(self, population: Iterable[Individual]) -> None:
        for individual in population:
            values = individual.fitness.wvalues
            front = self._wvalues[:, : len(self._members)]
            above = numpy.logical_and.reduce([row >= value for row, value in zip(front, values, strict=True)])
            below = numpy.logical_and.reduce([row <= value for row, value in zip(front, values, strict=True)])
            if (above & ~below).any():
                continue
            gone = below & ~above
            for at in numpy.flatnonzero(above & below):
                if self.similar(self._members[at], individual):
                    gone[at] = self._members[at].id > individual.id
                    if not gone[at]:
                        break
            else:
                self._drop(gone)
                self.insert(individual)

    def insert(self, item: Individual) -> None:
        super().insert(item)
        count = len(self._members)
        if count == self._wvalues.shape[1]:
            self._wvalues = numpy.concatenate([self._wvalues, numpy.empty_like(self._wvalues)], axis=1)
        self._wvalues[:, count] = item.fitness.wvalues
        self._members.append(item)

    def _drop(self, gone: numpy.ndarray) -> None:
        if not gone.any():
            return
        for at in numpy.flatnonzero(gone):
            self.remove(len(self) - 1 - bisect_left(self.keys, rank(self._members[at])))
        kept = self._wvalues[:, : len(self._members)][:, ~gone]
        self._wvalues[:, : kept.shape[1]] = kept
        self._members = [member for member, out in zip(self._members, gone, strict=True) if not out]

    def clear(self) -> None:
        super().clear()
        self._members.clear()
