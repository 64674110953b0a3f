"""Checkpoints of a run that are kept: those of the best candidates, and those that others may still inherit from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deap import base, tools

from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.meta import CheckpointUsage
from lightning_evo.callbacks.search import Inherited
from lightning_evo.genome import COMPLETED, Candidate, Objective, Result

__all__ = ["Checkpoints"]


@dataclass
class _Ranked:
    id: int
    fitness: Any


@dataclass(frozen=True)
class _Stored:
    path: str
    bytes: int


class Checkpoints:
    """The checkpoints of a run that are on disk, and which of them somebody still needs.

    Needed are those of the best ``count`` completed candidates (with several objectives by non-domination, then by
    crowding), and those of candidates that others may inherit from. So the disk holds at most ``count`` checkpoints, one
    per individual alive, and one per candidate in training.

    Args:
        directory: The run's directory, which paths are relative to.
        count: How many of the best to keep.
        objectives: What "best" means.
    """

    def __init__(self, directory: Path, count: int, objectives: Sequence[Objective]) -> None:
        self.directory = directory
        self.count = count
        self.peak_bytes = 0
        weights = tuple(objective.weight for objective in objectives)
        self._fitness: Any = type("Fitness", (base.Fitness,), {"weights": weights})
        self._best: list[_Ranked] = []
        self._stored: dict[int, _Stored] = {}

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def bytes(self) -> int:
        """What they take on disk."""
        return sum(stored.bytes for stored in self._stored.values())

    def add(self, candidate: Candidate, result: Result) -> None:
        """Take in a recorded result that has a checkpoint of its own."""
        if result.checkpoint is None or result.fitness is None or candidate.duplicate_of is not None:
            return
        self._stored[candidate.id] = _Stored(result.checkpoint, result.checkpoint_bytes or 0)
        self.peak_bytes = max(self.peak_bytes, self.bytes)
        if result.status != COMPLETED:
            return  # its fitness is predicted: it is no winner, though others may inherit from it
        self._best.append(_Ranked(candidate.id, self._fitness(tuple(result.fitness))))
        if len(self._best) > self.count:
            if len(self._fitness.weights) == 1:
                # Sorted is stable: among equals the earlier candidate stays.
                self._best.sort(key=lambda ranked: (ranked.fitness.wvalues, -ranked.id), reverse=True)
                del self._best[self.count :]
            else:
                self._best = tools.selNSGA2(self._best, self.count, nd="log")

    def drop(self, needed: Collection[int], writer: ArchiveWriter) -> None:
        """Delete those that are neither among the best nor ``needed``; the archive is told of each."""
        wanted = {ranked.id for ranked in self._best} | set(needed)
        for id in [id for id in self._stored if id not in wanted]:
            (self.directory / self._stored.pop(id).path).unlink(missing_ok=True)
            writer.update_checkpoint(id, None)

    def parent_of(self, candidate: Candidate, ancestor: Callable[[int], Candidate]) -> Inherited | None:
        """Whose checkpoint a candidate starts from: its parent's or, where that is gone, the nearest ancestor's.

        Args:
            candidate: The candidate.
            ancestor: Gives the candidate with an id.

        Returns:
            ``None`` where it inherits from nobody. Where no ancestor has a checkpoint any more, one whose path is empty.
        """
        if candidate.inherits is None:
            return None
        why = ""
        generation, seen = [candidate.inherits], set[int]()
        while generation:
            for id in generation:
                stored = self._stored.get(id)
                path = None if stored is None else self.directory / stored.path
                if stored is not None and path is not None and path.is_file() and path.stat().st_size == stored.bytes:
                    return Inherited(id, str(path.absolute()), candidate.inherits, why)
                fault = "is gone" if path is None or not path.is_file() else "is damaged"
                why = why or f"the checkpoint of candidate {id} {fault}"
            seen.update(generation)
            older = [parent for id in generation for parent in ancestor(id).parents]
            generation = [id for id in dict.fromkeys(older) if id not in seen]
        return Inherited(candidate.inherits, "", candidate.inherits, why)

    @property
    def usage(self) -> CheckpointUsage:
        """How many there are and what they take."""
        return CheckpointUsage(len(self), self.bytes, self.peak_bytes)
