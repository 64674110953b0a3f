"""Local search over a predictor: fit it, search it, train the most promising candidate, fit it again."""

from __future__ import annotations

from lightning_evo.algorithms.algorithm import Algorithm
from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.individual import Individual
from lightning_evo.algorithms.operators import Operator
from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.algorithms.prescreen import Prescreen
from lightning_evo.genome import Json

__all__ = ["PredictorSearch"]


class PredictorSearch(Algorithm):
    """Alternate between fitting a predictor and local search over it (as BANANAS does: White et al. 2021, arXiv:1910.11858).

    Composed of the same parts as the other algorithms: parents are among the best so far, children are mutants of them,
    and a :class:`~lightning_evo.algorithms.Prescreen` with several ``rounds`` optimizes the prediction from there: in
    each round the most promising children are mutated further, and only the most promising child of all rounds is
    trained. Steady state: it never makes a slot wait. As long as the predictor doesn't beat its baseline, a mutant of
    one of the best is trained unfiltered.

    Args:
        predictor: Predictor of fitness. With several objectives, each has its own copy.
        population_size: Number of initial random candidates, and of best individuals kept (default 16).
        parents: Number of best individuals that can be parents (default 8).
        pool: Number of children bred in each round (default 20).
        rounds: Rounds of further mutation of the best children before one is trained (default 3).
        explore: Fraction of candidates trained without using the predictor (default 0.1).
        confidence: Standard deviations added to the predicted mean when children are compared (default 0.5).
        archives: Earlier searches over the same space to learn from as well.
        mutate: Operator that makes a child (default ``per_gene``: each gene with probability 1 / number of genes, at
            least one).
        survive: Operator that selects survivors (default ``selBest``; with several objectives ``selNSGA2``).
        initial: Genomes to start from; missing genes are sampled.
        duplicate_retries: How often to breed again when a child duplicates an earlier candidate (default 10).
        hall_of_fame_size: Number of best individuals to keep (default 10).

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

    def survive(self, population: list[Individual]) -> list[Individual]:
        return self.toolbox.survive(population, self.population_size)
