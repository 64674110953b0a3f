"""Individuals, which DEAP's operators select: candidates with a comparable fitness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deap import base

from lightning_evo.genome import Candidate, Genome

__all__ = ["Fitness", "Individual", "Toolbox"]


class Fitness(base.Fitness):
    """DEAP's fitness, with the weights kept by the instance: it needs no class per set of objectives, and it pickles.

    Args:
        weights: +1.0 for each objective to maximize, -1.0 for each to minimize.
        values: One value per objective; empty until the candidate is told.

    >>> Fitness((-1.0,), (0.2,)) > Fitness((-1.0,), (0.3,))
    True
    """

    def __init__(self, weights: Sequence[float], values: Sequence[float] = ()) -> None:
        self.weights = tuple(weights)
        super().__init__(values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fitness:
        copy = type(self)(self.weights)
        copy.wvalues = self.wvalues
        return copy


@dataclass(eq=False)
class Individual:
    """A candidate as DEAP's operators see it; two are equal only if they are the same object.

    Args:
        candidate: The candidate.
        phenotype: Text that is equal for genomes that build the same network.
        fitness: Invalid (DEAP's term) until the candidate is told.
    """

    candidate: Candidate
    phenotype: str
    fitness: Fitness

    @property
    def id(self) -> int:
        """The candidate's id."""
        return self.candidate.id

    @property
    def genome(self) -> Genome:
        """The candidate's genome."""
        return self.candidate.genome

    def __len__(self) -> int:
        """The number of active genes: what DEAP's parsimony pressure (``selDoubleTournament``) keeps small."""
        return len(self.candidate.genome)


class Toolbox(Protocol):
    """DEAP's toolbox as an algorithm's operators are registered in it, for type checkers: DEAP itself has no types."""

    def select(self, individuals: Sequence[Individual], k: int) -> list[Individual]:
        """Choose ``k`` parents; one may be chosen more than once."""

    def mate(self, first: Genome, second: Genome) -> tuple[Genome, Genome]:
        """Cross two genomes; they stay as they are."""

    def mutate(self, genome: Genome) -> Genome:
        """Give a changed genome; the given one stays as it is."""

    def survive(self, individuals: Sequence[Individual], k: int) -> list[Individual]:
        """Choose the ``k`` that stay in the population."""
