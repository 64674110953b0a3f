"""A genetic algorithm in generations: selection, crossover, mutation, replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least, check_probability
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator

if TYPE_CHECKING:
    from typing import Unpack

    from lightning_evo.algorithms.algorithm import Shared

__all__ = ["GenerationalEvolution"]


class GenerationalEvolution(Algorithm):
    """A genetic algorithm in generations: tournament, crossover, mutation, elitism.

    Synchronous: slots wait for the results of the whole generation, and the candidates are the same on any number of
    slots. Failed offspring are replaced by the best of the parents' generation.

    Args:
        population_size: Size of the population, μ (default 16).
        strategy: Selection of survivors. ``generational``: the ``elitism`` best parents and all offspring.
            ``mu+lambda``: the best of parents and offspring. ``mu,lambda``: the ``elitism`` best parents and the best
            offspring.
        offspring: Candidates per generation, λ (default μ, minus ``elitism`` in ``generational``, where it is fixed).
        elitism: Number of best parents that always survive (default 2); ``mu+lambda`` keeps the best anyway.
        tournament_size: Number of individuals that compete to be a parent (default 5). With several objectives,
            ``selTournamentDCD`` is used instead.
        crossover_probability: Probability that a child has two parents (default 0.5).
        mutation_probability: Probability that a child of two parents is also mutated (default 1); a child of one parent
            always is.
        select: Operator that replaces the tournament.
        mate: Crossover (default ``uniform``).
        mutate: Mutation (default ``per_gene``: each gene with probability 1 / number of genes, at least one).
        survive: Operator that ranks survivors (default ``selBest``; with several objectives ``selNSGA2``).
        shared: ``initial``, ``duplicate_retries``, ``hall_of_fame_size`` and ``prescreen``: see :class:`Algorithm`.

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.
    """

    synchronous = True

    def __init__(
        self,
        population_size: int = 16,
        strategy: Literal["generational", "mu+lambda", "mu,lambda"] = "generational",
        offspring: int | None = None,
        elitism: int = 2,
        tournament_size: int = 5,
        crossover_probability: float = 0.5,
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
        if strategy not in ("generational", "mu+lambda", "mu,lambda"):
            raise ValueError(f"strategy: {strategy!r} is not one of 'generational', 'mu+lambda', 'mu,lambda'")
        check_at_least("elitism", elitism, 0)
        check_at_least("tournament_size", tournament_size, 1)
        check_probability("crossover_probability", crossover_probability)
        check_probability("mutation_probability", mutation_probability)
        if elitism >= population_size and strategy != "mu+lambda":
            raise ValueError(f"elitism: {elitism} leaves no room for offspring in population_size {population_size}")
        if strategy == "generational" and offspring not in (None, population_size - elitism):
            raise ValueError(
                f"offspring: {offspring!r} is not population_size - elitism = {population_size - elitism}, as strategy "
                "'generational' requires; leave it out, or choose 'mu+lambda' or 'mu,lambda'"
            )
        if strategy == "generational":
            offspring = population_size - elitism
        elif offspring is None:
            offspring = population_size
        check_at_least("offspring", offspring, population_size - elitism if strategy == "mu,lambda" else 1)
        self.strategy = strategy
        self.offspring = offspring
        self.elitism = elitism
        self.tournament_size = tournament_size
        self.crossover_probability = crossover_probability
        self.mutation_probability = mutation_probability

    @property
    def generation_size(self) -> int:
        return self.offspring

    def survive(self, population: list[Individual]) -> list[Individual]:
        if self.strategy == "mu+lambda":
            return self.toolbox.survive(population, self.population_size)
        parents, offspring = population[: len(self.population)], population[len(self.population) :]
        ranked = self.toolbox.survive(parents, len(parents)) if parents else []
        elite, rest = ranked[: self.elitism], ranked[self.elitism :]
        kept = elite + self.toolbox.survive(offspring, self.population_size - len(elite))
        return kept + rest[: self.population_size - len(kept)]
