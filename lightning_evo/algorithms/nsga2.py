"""How are several objectives improved at once? By keeping a front of trade-offs instead of one best."""

from __future__ import annotations

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_probability
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator, Role
from lightning_evo.algorithms.prescreen import Prescreen
from lightning_evo.genome import Genome, Json

__all__ = ["NSGA2"]


class NSGA2(Algorithm):
    """NSGA-II (Deb et al. 2002): rank by domination, then by distance to the neighbours on the front.

    Synchronous (μ + λ with λ = μ): slots wait until the whole generation is told, and the candidates are the same on
    any number of slots. With one objective it is an elitist genetic algorithm; for four objectives or more name
    ``survive: {name: selNSGA3, arguments: {ref_points: 12}}``.

    Args:
        population_size: How many individuals live at a time, and candidates per generation (default 20).
        crossover_probability: How likely a child has two parents (default 0.9).
        mutation_probability: How likely a child of two parents is mutated too (default 1); a child of one always is.
        select: Operator that chooses parents (default ``selTournamentDCD``: by domination, then by crowding).
        mate: Crossover (default ``uniform``).
        mutate: Mutation (default ``per_gene``: each gene at one in their number, at least one).
        survive: Operator that chooses who lives on (default ``selNSGA2``).
        initial: Genomes to start from; what one leaves out is sampled.
        duplicate_retries: How often a genome that was asked before is bred again (default 10).
        hall_of_fame_size: How many of the best to keep where there is one objective (default 10).
        prescreen: Breed many children and train the one a predictor expects most of. Default: train every child.

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.
    """

    synchronous = True

    def __init__(
        self,
        population_size: int = 20,
        crossover_probability: float = 0.9,
        mutation_probability: float = 1.0,
        select: Operator | None = None,
        mate: Operator | None = None,
        mutate: Operator | None = None,
        survive: Operator | None = None,
        initial: list[dict[str, Json]] | None = None,
        duplicate_retries: int = 10,
        hall_of_fame_size: int = 10,
        prescreen: Prescreen | None = None,
    ) -> None:
        super().__init__(
            population_size,
            select=select,
            mate=mate,
            mutate=mutate,
            survive=survive,
            initial=initial,
            duplicate_retries=duplicate_retries,
            hall_of_fame_size=hall_of_fame_size,
            prescreen=prescreen,
        )
        check_probability("crossover_probability", crossover_probability)
        check_probability("mutation_probability", mutation_probability)
        self.crossover_probability = crossover_probability
        self.mutation_probability = mutation_probability

    def default_operators(self) -> dict[Role, Operator]:
        pareto: dict[Role, Operator] = {"select": Operator("selTournamentDCD"), "survive": Operator("selNSGA2")}
        return {**super().default_operators(), **pareto}

    def select_parents(self) -> list[Individual]:
        return self.toolbox.select(self.population, 2 if self.rng.random() < self.crossover_probability else 1)

    def vary(self, parents: list[Individual]) -> Genome:
        return self.recombine(parents, self.mutation_probability)

    def survive(self, population: list[Individual]) -> list[Individual]:
        return self.toolbox.survive(population, self.population_size)
