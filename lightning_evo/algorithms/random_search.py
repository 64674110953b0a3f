"""What does a search find that learns nothing? The baseline every other algorithm has to beat."""

from __future__ import annotations

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.prescreen import Prescreen
from lightning_evo.genome import Genome, Json

__all__ = ["RandomSearch"]


class RandomSearch(Algorithm):
    """Draw every candidate from the whole space. Steady state: it never makes a slot wait.

    Args:
        population_size: How many of the candidates told last one line of the logbook describes (default 16).
        initial: Genomes to start from; what one leaves out is sampled.
        duplicate_retries: How often a genome that was asked before is drawn again (default 10).
        hall_of_fame_size: How many of the best to keep (default 10).
        prescreen: Breed many children and train the one a predictor expects most of. Default: train every child.
    """

    survival_draws = False

    def __init__(
        self,
        population_size: int = 16,
        initial: list[dict[str, Json]] | None = None,
        duplicate_retries: int = 10,
        hall_of_fame_size: int = 10,
        prescreen: Prescreen | None = None,
    ) -> None:
        super().__init__(
            population_size,
            initial=initial,
            duplicate_retries=duplicate_retries,
            hall_of_fame_size=hall_of_fame_size,
            prescreen=prescreen,
        )

    def select_parents(self) -> list[Individual]:
        return []

    def vary(self, parents: list[Individual]) -> Genome:
        return self.initialise()

    def survive(self, population: list[Individual]) -> list[Individual]:
        return population[-self.population_size :]
