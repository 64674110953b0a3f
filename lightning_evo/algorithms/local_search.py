"""Hill climbing with restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator, Role
from lightning_evo.algorithms.search_setup import SearchSetup

if TYPE_CHECKING:
    from typing import Unpack

    from lightning_evo.algorithms.algorithm import Shared

__all__ = ["LocalSearch"]


class LocalSearch(Algorithm):
    """Hill climbing: mutate the best of this climb; restart after ``patience`` results without improvement.

    Steady state: it never makes a slot wait. With several objectives a candidate improves if it dominates.

    Args:
        population_size: Number of random candidates from which the first climb starts (default 4).
        patience: Number of consecutive results without improvement that end a climb (default 20).
        mutate: Operator that makes a neighbor (default: one gene mutates).
        shared: ``initial``, ``duplicate_retries``, ``hall_of_fame_size`` and ``prescreen``: see :class:`Algorithm`.

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.
    """

    survival_draws = False

    def __init__(
        self,
        population_size: int = 4,
        patience: int = 20,
        mutate: Operator | None = None,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            population_size,
            mutate=mutate,
            select=None,
            mate=None,
            survive=None,
            **shared,
        )
        check_at_least("patience", patience, 1)
        self.patience = patience

    @property
    def log_every(self) -> int:
        return self.patience

    def default_operators(self) -> dict[Role, Operator]:
        # At rate 0 no gene is hit, and then exactly one mutates.
        return {**super().default_operators(), "mutate": Operator("per_gene", {"rate": 0.0})}

    def bind(self, setup: SearchSetup) -> None:
        super().bind(setup)
        self._climb: set[int] = set()  # ids of all that were the best of this climb
        self._without_improvement = 0

    def select_parents(self) -> list[Individual]:
        return self.population

    def survive(self, population: list[Individual]) -> list[Individual]:
        *best, newcomer = population
        if newcomer.candidate.parents and not self._climb.intersection(newcomer.candidate.parents):
            return best  # bred in a climb that has ended meanwhile
        if not best or newcomer.fitness.dominates(best[0].fitness):
            self._climb.add(newcomer.id)
            self._without_improvement = 0
            return [newcomer]
        self._without_improvement += 1
        if self._without_improvement < self.patience:
            return best
        self._climb.clear()
        self._without_improvement = 0
        return []
