"""Random search, the baseline that every other algorithm has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.individual import Individual
from lightning_evo.genome import Genome

if TYPE_CHECKING:
    from typing import Unpack

    from lightning_evo.algorithms.algorithm import Shared

__all__ = ["RandomSearch"]


class RandomSearch(Algorithm):
    """Sample every candidate from the whole space. Steady state: it never makes a slot wait.

    Args:
        population_size: Number of recent candidates that one line of the logbook describes (default 16).
        shared: ``initial``, ``duplicate_retries``, ``hall_of_fame_size`` and ``prescreen``: see :class:`Algorithm`.
    """

    survival_draws = False

    def __init__(
        self,
        population_size: int = 16,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            population_size,
            select=None,
            mate=None,
            mutate=None,
            survive=None,
            **shared,
        )

    def select_parents(self) -> list[Individual]:
        return []

    def vary(self, parents: list[Individual]) -> Genome:
        return self.initialise()

    def survive(self, population: list[Individual]) -> list[Individual]:
        return population[-self.population_size :]
