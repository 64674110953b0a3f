"""Regularized evolution, in which the oldest dies rather than the worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator

if TYPE_CHECKING:
    from typing import Unpack

    from lightning_evo.algorithms.algorithm import Shared

__all__ = ["RegularizedEvolution"]


class RegularizedEvolution(Algorithm):
    """Aging evolution (Real et al. 2019, arXiv:1802.01548): mutate the winner of a tournament; remove the oldest.

    Steady state: it never makes a slot wait. The population is a queue in the order in which results arrive, so on
    several slots the candidates depend on which ends first (a resumed search follows the recorded order).

    Args:
        population_size: Length of the queue, and number of initial random candidates (default 16).
        tournament_size: Number of individuals, drawn with replacement, that compete to be the parent (default 8: half
            of the population; with a budget of thousands, a quarter explores more). With several objectives,
            ``selTournamentDCD`` is used instead.
        select: Operator that replaces the tournament.
        mutate: Operator that makes a child (default ``per_gene``: each gene with probability 1 / number of genes, at
            least one).
        shared: ``initial``, ``duplicate_retries``, ``hall_of_fame_size`` and ``prescreen``: see :class:`Algorithm`.

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.
    """

    survival_draws = False

    def __init__(
        self,
        population_size: int = 16,
        tournament_size: int = 8,
        select: Operator | None = None,
        mutate: Operator | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            population_size,
            select=select,
            mutate=mutate,
            mate=None,
            survive=None,
            **shared,
        )
        check_at_least("tournament_size", tournament_size, 1)
        self.tournament_size = tournament_size

    def select_parents(self) -> list[Individual]:
        return self.toolbox.select(self.population, 1)

    def survive(self, population: list[Individual]) -> list[Individual]:
        return population[-self.population_size :]
