"""How far does climbing a predictor come? Fit it, search it locally, train what it hopes most of, and fit it again."""

from __future__ import annotations

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator
from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.algorithms.prescreen import Prescreen
from lightning_evo.genome import Genome, Json

__all__ = ["PredictorSearch"]


class PredictorSearch(Algorithm):
    """Alternate between fitting a predictor and local search over it (as BANANAS does: White et al. 2021, arXiv:1910.11858).

    A composition of the other algorithms' parts: parents are among the best so far, children mutants of them, and a
    :class:`~lightning_evo.algorithms.Prescreen` with several ``rounds`` climbs the predictor from there: in each round the
    most promising children are mutated further, and only the most promising of all rounds is trained. Steady state: it
    never makes a slot wait. Where the predictor hasn't earned its use, a mutant of one of the best is trained as it is.

    Args:
        predictor: What predicts fitness. With several objectives each has a copy of its own.
        population_size: How many random candidates come first, and how many of the best are kept (default 16).
        parents: How many of the best children descend from (default 8).
        pool: How many children each round breeds (default 20).
        rounds: How often the best children are mutated further before one is trained (default 3).
        explore: Fraction of children trained without asking the predictor (default 0.1).
        confidence: How many standard deviations are added to the mean that children are compared by (default 0.5).
        archives: Earlier searches over the same space that the predictor learns from too.
        mutate: Operator that makes a child (default ``per_gene``: each gene at one in their number, at least one).
        survive: Operator that ranks who is kept (default ``selBest``; with several objectives ``selNSGA2``).
        initial: Genomes to start from; what one leaves out is sampled.
        duplicate_retries: How often a genome that was asked before is bred again (default 10).
        hall_of_fame_size: How many of the best to keep (default 10).

    Raises:
        ValueError: For a value out of range, or an operator that doesn't exist or doesn't take its arguments.
    """

    def __init__(
        self,
        predictor: Predictor,
        population_size: int = 16,
        parents: int = 8,
        pool: int = 20,
        rounds: int = 3,
        explore: float = 0.1,
        confidence: float = 0.5,
        archives: list[str] | None = None,
        mutate: Operator | None = None,
        survive: Operator | None = None,
        initial: list[dict[str, Json]] | None = None,
        duplicate_retries: int = 10,
        hall_of_fame_size: int = 10,
    ) -> None:
        super().__init__(
            population_size,
            mutate=mutate,
            survive=survive,
            initial=initial,
            duplicate_retries=duplicate_retries,
            hall_of_fame_size=hall_of_fame_size,
            prescreen=Prescreen(predictor, pool, explore, confidence, rounds, list(archives or [])),
        )
        check_at_least("parents", parents, 1)
        self.predictor, self.parents, self.pool, self.rounds = predictor, parents, pool, rounds
        self.explore, self.confidence, self.archives = explore, confidence, list(archives or [])

    def select_parents(self) -> list[Individual]:
        best = self.toolbox.survive(self.population, min(self.parents, len(self.population)))
        return [self.rng.choice(best)]

    def vary(self, parents: list[Individual]) -> Genome:
        return self.recombine(parents)

    def survive(self, population: list[Individual]) -> list[Individual]:
        return self.toolbox.survive(population, self.population_size)
