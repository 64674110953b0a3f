"""The search that an algorithm is bound to, as one value."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lightning_evo.algorithms.predictor import Measure
from lightning_evo.genome import Genome, Objective, SearchSpace

__all__ = ["Prior", "SearchSetup"]

Prior = Sequence[tuple[Genome, tuple[float, ...]]]
"""Results of earlier searches over the same space: genomes and their fitness, one value per objective."""


@dataclass(frozen=True)
class SearchSetup:
    """Everything that an algorithm needs from the search, for :meth:`Algorithm.bind`.

    Args:
        space: The search space.
        objectives: The objectives, at least one.
        seed: Seed of every random choice (default 0).
        prior: Results of earlier searches that a prescreen's predictors learn from as well (default: none).
        measure: Measures zero-cost proxies for predictors; ``None`` (default) if no network can be built, as in the
            search over a plain function.
        inherits: Whether children start from their parents' weights (default ``False``).
        max_epochs: Epochs of a whole training, for an algorithm that trains in segments; ``None`` (default): unlimited.
        free_genes: Genes that may differ within a swarm: numbers that don't change the structure of the network.
            ``None`` (default): not examined.

    Raises:
        ValueError: If there is no objective, or one metric twice.

    >>> from lightning_evo.genome import Uniform
    >>> SearchSetup(SearchSpace({"x": Uniform(0, 1)}), [])
    Traceback (most recent call last):
    ValueError: objectives []: give at least one, and none twice
    """

    space: SearchSpace
    objectives: Sequence[Objective]
    seed: int = 0
    prior: Prior = ()
    measure: Measure | None = None
    inherits: bool = False
    max_epochs: int | None = None
    free_genes: Collection[str] | None = None

    def __post_init__(self) -> None:
        monitors = [objective.monitor for objective in self.objectives]
        if not monitors or len(set(monitors)) < len(monitors):
            raise ValueError(f"objectives {monitors}: give at least one, and none twice")
