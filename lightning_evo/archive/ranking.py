"""Orders over fitness and over any column; missing values always last."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lightning_evo.genome import Objective

__all__ = ["non_domination_ranks", "sort_key"]


def non_domination_ranks(fitness: Sequence[Sequence[float]], objectives: Sequence[Objective]) -> list[int]:
    """For each fitness, how many fronts must be taken away until it is in the front; 0 is the front itself.

    Equal fitnesses have equal ranks. NaN counts as the worst value there is.

    Args:
        fitness: One value per objective each.
        objectives: In the same order.

    >>> two = [Objective("val_acc", "max"), Objective("cost/params", "min")]
    >>> non_domination_ranks([(0.9, 10), (0.8, 20), (0.7, 5), (math.nan, 5)], two)
    [0, 1, 0, 1]
    """
    import moocore  # here, as it costs 0.15 s that a single objective need not pay

    # Only the order within each objective matters; ranks keep infinities out of the comparison.
    points = [
        [objective.worst if math.isnan(value) else value for value, objective in zip(values, objectives, strict=True)]
        for values in fitness
    ]
    if not points:
        return []
    ranks = moocore.pareto_rank(points, maximise=[objective.mode == "max" for objective in objectives])
    return (ranks - ranks.min()).tolist()  # moocore counted from 1 before it counted from 0


def sort_key(value: Any) -> tuple[int, float, str]:
    """A key by which any JSON values can be ordered: numbers first, then texts and everything else by its JSON."""
    if isinstance(value, (bool, int, float)):
        return 0, float(value), ""
    return 1, 0.0, value if isinstance(value, str) else json.dumps(value)
