"""Which candidates are not beaten in everything? Several objectives' trade-off, with the fronts behind the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from lightning_evo.archive.ranking import non_domination_ranks
from lightning_evo.genome import COMPLETED, Objective
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["Front", "front"]


@dataclass(frozen=True, eq=False)
class Front:
    """Completed candidates by their objectives.

    Args:
        objectives: What the columns of ``values`` are.
        ids: The candidates', by id; shape (candidates,).
        values: Their fitness in the objectives' own units; shape (candidates, objectives).
        ranks: How many fronts must be taken away until each is in the front; 0: it is. Shape (candidates,).
    """

    objectives: tuple[Objective, ...]
    ids: NDArray[numpy.int64]
    values: NDArray[numpy.float64]
    ranks: NDArray[numpy.int64]

    @property
    def best(self) -> list[int]:
        """Ids of the candidates that no other dominates."""
        return [int(id) for id in self.ids[self.ranks == 0]]


def front(recorded: Recorded) -> Front:
    """The Pareto front of a run, and all that is behind it.

    Candidates stopped early, duplicates, and those whose fitness isn't finite in every objective are left out. With one
    objective the front is whoever has the best fitness.

    Args:
        recorded: The run.
    """
    rows = recorded.scored(COMPLETED)
    values = recorded.values(rows)
    if len(recorded.objectives) == 1:
        # The rank among different values: what taking fronts away amounts to.
        ranks = numpy.unique(-recorded.objectives[0].weight * values[:, 0], return_inverse=True)[1]
    else:
        ranks = numpy.array(non_domination_ranks(values.tolist(), recorded.objectives), dtype=numpy.int64)
    ids = numpy.array([row["id"] for row in rows], dtype=numpy.int64)
    return Front(recorded.objectives, ids, values, ranks.reshape(len(rows)).astype(numpy.int64))
