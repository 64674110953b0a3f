"""The Pareto front: the trade-off between several objectives, and the fronts behind the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from lightning_evo.archive.ranking import non_domination_ranks
from lightning_evo.genome import COMPLETED, Objective
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Front", "front"]


@dataclass(frozen=True, eq=False)
class Front:
    """Completed candidates with their non-domination ranks.

    Args:
        objectives: The objectives, one per column of ``values``.
        ids: The candidates' ids, ascending; shape (candidates,).
        values: Their fitness in the objectives' own units; shape (candidates, objectives).
        ranks: Non-domination rank: 0 on the front, 1 on the front of the rest, and so on. Shape (candidates,).
    """

    objectives: tuple[Objective, ...]
    ids: NDArray[numpy.int64]
    values: NDArray[numpy.float64]
    ranks: NDArray[numpy.int64]

    @property
    def best(self) -> list[int]:
        """Ids of the candidates that no other dominates."""
        return [int(id) for id in self.ids[self.ranks == 0]]


def front(snapshot: RunSnapshot) -> Front:
    """The Pareto front of a run, and the candidates behind it.

    Candidates stopped early, duplicates, and those whose fitness isn't finite in every objective are left out. With one
    objective, the front is the candidates with the best fitness.

    Args:
        snapshot: The run.
    """
    rows = snapshot.scored(COMPLETED)
    values = snapshot.values(rows)
    if len(snapshot.objectives) == 1:
        # With one objective the non-domination rank is the rank among distinct values.
        ranks = numpy.unique(-snapshot.objectives[0].weight * values[:, 0], return_inverse=True)[1]
    else:
        ranks = numpy.array(non_domination_ranks(values.tolist(), snapshot.objectives), dtype=numpy.int64)
    ids = numpy.array([row["id"] for row in rows], dtype=numpy.int64)
    return Front(snapshot.objectives, ids, values, ranks.reshape(len(rows)).astype(numpy.int64))
