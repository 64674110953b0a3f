"""NSGA-II: several objectives at once, by a front of trade-offs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_probability
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator, Role

if TYPE_CHECKING:
    from typing import Unpack

    from lightning_evo.algorithms.algorithm import Shared

__all__ = ["NSGA2"]


class NSGA2(Algorithm):
    """NSGA-II (Deb et al. 2002): rank by domination, then by crowding distance on the front.

    Synchronous (μ + λ with λ = μ): slots wait for the results of the whole generation, and the candidates are the same
    on any number of slots. With one objective it is an elitist genetic algorithm; for four or more objectives use
    ``survive: {name: selNSGA3, arguments: {ref_points: 12}}``.

    Args:
        population_size: Size of the population, and candidates per generation (default 20).
        crossover_probability: Probability that a child has two parents (default 0.9).
        mutation_probability: Probability that a child of two parents is also mutated (default 1); a child of one parent
            always is.
        select: Operator that chooses parents (default ``selTournamentDCD``: by domination, then by crowding).
        mate: Crossover (default ``uniform``).
        mutate: Mutation (default ``per_gene``: each gene with probability 1 / number of genes, at least one).
        survive: Operator that selects survivors (default ``selNSGA2``).
        shared: ``initial``, ``duplicate_retries``, ``hall_of_fame_size`` and ``prescreen``: see :class:`Algorithm`.

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
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(
            population_size,
            select=select,
            mate=mate,
            mutate=mutate,
            survive=survive,
            **shared,
        )
        check_probability("crossover_probability", crossover_probability)
        check_probability("mutation_probability", mutation_probability)
        self.crossover_probability = crossover_probability
        self.mutation_probability = mutation_probability

    def default_operators(self) -> dict[Role, Operator]:
        pareto: dict[Role, Operator] = {"select": Operator("selTournamentDCD"), "survive": Operator("selNSGA2")}
        return {**super().default_operators(), **pareto}

    def survive(self, population: list[Individual]) -> list[Individual]:
        return self.toolbox.survive(population, self.population_size)
