"""Whose checkpoint is kept? The best few candidates'; the rest are deleted as better ones come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deap import base, tools

from lightning_evo.genome import Objective

__all__ = ["KeptCheckpoints"]


@dataclass
class _Kept:
    id: int
    fitness: Any


class KeptCheckpoints:
    """The ids of the best ``count`` candidates so far; with several objectives by non-domination, then by crowding.

    Args:
        count: How many to keep.
        objectives: What "best" means.
    """

    def __init__(self, count: int, objectives: Sequence[Objective]) -> None:
        self.count = count
        weights = tuple(objective.weight for objective in objectives)
        self._fitness: Any = type("Fitness", (base.Fitness,), {"weights": weights})
        self._kept: list[_Kept] = []

    def add(self, candidate_id: int, fitness: Sequence[float]) -> list[int]:
        """Take a candidate in; returns the ids whose checkpoints are no longer wanted, possibly its own."""
        self._kept.append(_Kept(candidate_id, self._fitness(tuple(fitness))))
        if len(self._kept) <= self.count:
            return []
        if len(self._fitness.weights) == 1:
            # Sorted is stable: among equals the earlier candidate stays.
            chosen = sorted(self._kept, key=lambda kept: kept.fitness.wvalues, reverse=True)[: self.count]
        else:
            chosen = tools.selNSGA2(self._kept, self.count, nd="log")
        ids = {kept.id for kept in chosen}
        dropped = [kept.id for kept in self._kept if kept.id not in ids]
        self._kept = [kept for kept in self._kept if kept.id in ids]
        return dropped
