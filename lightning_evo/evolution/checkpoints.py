"""Checkpoints of a run that are kept: those of the best candidates, and those that others may still inherit from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deap import base, tools

from lightning_evo.archive import ArchiveWriter
from lightning_evo.archive.meta import CheckpointUsage
from lightning_evo.archive.seals import CHECKPOINTS, CONFIG_FILE, StoredCheckpoint
from lightning_evo.callbacks.fitness import CURVE_FILE
from lightning_evo.callbacks.search import Inherited
from lightning_evo.evolution.errors import SearchError
from lightning_evo.execution.results import RESULT_FILE
from lightning_evo.execution.worker import OUTPUT_FILE
from lightning_evo.genome import COMPLETED, FAILED, Candidate, Objective, Result
from lightning_evo.utils.checkpoints import DamagedCheckpoint, kind_of
from lightning_evo.utils.files import OutsideError, inside, remove_tree

__all__ = ["CANDIDATES", "Checkpoints", "look_at", "lost_its_start", "untrusted"]

CANDIDATES = "candidates"
"""The directory of candidates' own directories."""

_OTHER_FILES = (CONFIG_FILE, CURVE_FILE, OUTPUT_FILE, RESULT_FILE)
"""The other files in a candidate's directory."""


@dataclass
class _Ranked:
    id: int
    fitness: Any


class Checkpoints:
    """The checkpoints of a run that are on disk, and which of them somebody still needs.

    Needed are those of the best ``count`` completed candidates (with several objectives by non-domination, then by
    crowding), and those of candidates that others may inherit from. So the disk holds at most ``count`` checkpoints, one
    per individual alive, and one per candidate in training.

    Args:
        directory: The run's directory, which paths are relative to.
        count: How many of the best to keep.
        objectives: What "best" means.
        trust: Whether to unpickle checkpoints that this user's searches didn't make.
    """

    def __init__(self, directory: Path, count: int, objectives: Sequence[Objective], trust: bool = False) -> None:
        self.directory = directory
        self.count = count
        self.trust = trust
        self.peak_bytes = 0
        weights = tuple(objective.weight for objective in objectives)
        self._fitness: Any = type("Fitness", (base.Fitness,), {"weights": weights})
        self._best: list[_Ranked] = []
        self._stored: dict[int, StoredCheckpoint] = {}
        self._more: dict[int, tuple[int, int]] = {}  # files of other checkpoints, and their bytes
        self.refused: list[str] = []
        """Checkpoints that the archive names and that aren't the run's own: neither read nor deleted."""
        self._looked_at: dict[tuple[int, ...], tuple[str, bool]] = {}

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def bytes(self) -> int:
        """Their size on disk."""
        own = sum(stored.bytes or 0 for stored in self._stored.values())
        return own + sum(size for _, size in self._more.values())

    def add(self, candidate: Candidate, result: Result) -> None:
        """Take in a recorded result that has a checkpoint of its own."""
        stored = StoredCheckpoint.of(result)
        if stored is None or result.fitness is None or candidate.duplicate_of is not None:
            self._remove_others(candidate.id)
            return
        try:
            inside(self.directory, stored.path)
            if not stored.path.startswith(place := f"{CANDIDATES}/{candidate.id:06d}/"):
                raise OutsideError(f"{stored.path}: doesn't lie in {place}")
            if Path(stored.path).name in _OTHER_FILES:
                raise OutsideError(f"{stored.path}: is no checkpoint")
        except OutsideError as error:
            self.refused.append(
                f"the checkpoint of candidate {candidate.id} is left alone, and counts as gone: {error}"
            )
            return
        self._stored[candidate.id] = stored
        if others := self._others(candidate.id):
            self._more[candidate.id] = (len(others), sum(others))
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
        """Delete those that are neither among the best nor ``needed``; each is recorded in the archive."""
        wanted = {ranked.id for ranked in self._best} | set(needed)
        for id in [id for id in self._stored if id not in wanted]:
            with suppress(OutsideError):  # what doesn't lie in the run's directory isn't the run's to delete
                checkpoint = inside(self.directory, self._stored.pop(id).path)
                if checkpoint.is_file():
                    checkpoint.unlink(missing_ok=True)
            self._remove_others(id)
            writer.update_checkpoint(id, None)

    def parent_of(self, candidate: Candidate, ancestor: Callable[[int], Candidate]) -> Inherited | None:
        """The checkpoint that a candidate starts from: its parent's or, where that is gone, the nearest ancestor's.

        Args:
            candidate: The candidate.
            ancestor: Gives the candidate with an id.

        Returns:
            ``None`` where it inherits from none. Where no ancestor has a checkpoint any more, one whose path is empty.
        """
        if candidate.inherits is None:
            return None
        why = ""
        generation, seen = [candidate.inherits], set[int]()
        while generation:
            for id in generation:
                fault, trusted = self._look_at(id)
                if not fault:
                    stored = self._stored[id]
                    path, digest = self.directory / stored.path, "" if stored.seal is None else stored.seal.digest
                    return Inherited(id, str(path.absolute()), candidate.inherits, why, trusted, digest)
                why = why or f"the checkpoint of candidate {id} {fault}"
            seen.update(generation)
            older = [parent for id in generation for parent in ancestor(id).parents]
            generation = [id for id in dict.fromkeys(older) if id not in seen]
        return Inherited(candidate.inherits, "", candidate.inherits, why)

    def look_again(self) -> None:
        """Take none for whole because it was so before."""
        self._looked_at.clear()

    def _look_at(self, id: int) -> tuple[str, bool]:
        """What is wrong with a candidate's checkpoint, and whether it may be unpickled; read once unless it changes."""
        stored = self._stored.get(id)
        if stored is None:
            return "is gone", False
        try:
            status = (self.directory / stored.path).lstat()
        except OSError:
            return look_at(self.directory, stored, self.trust)
        key = (id, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key not in self._looked_at:
            self._looked_at[key] = look_at(self.directory, stored, self.trust)
        return self._looked_at[key]

    @property
    def usage(self) -> CheckpointUsage:
        """How many there are and what they take."""
        kept = len(self) + sum(count for count, _ in self._more.values())
        return CheckpointUsage(kept, self.bytes, self.peak_bytes)

    def _others(self, id: int) -> list[int]:
        """Bytes of each file that the checkpoint callbacks of a candidate's own config have saved."""
        with suppress(OSError):
            found = [file for file in self._place_of_others(id).rglob("*") if file.is_file() and not file.is_symlink()]
            return [file.lstat().st_size for file in found]
        return []

    def _remove_others(self, id: int) -> None:
        self._more.pop(id, None)
        with suppress(OSError, OutsideError):
            place = self._place_of_others(id)
            if place.is_dir():
                remove_tree(inside(self.directory, f"{CANDIDATES}/{id:06d}/{CHECKPOINTS}"))

    def _place_of_others(self, id: int) -> Path:
        return self.directory / CANDIDATES / f"{id:06d}" / CHECKPOINTS


def look_at(directory: Path, stored: StoredCheckpoint, trust: bool) -> tuple[str, bool]:
    """What is wrong with a checkpoint, and whether it may be unpickled.

    Args:
        directory: The run's.
        stored: The checkpoint.
        trust: Whether to unpickle also what this user's searches didn't make.

    Raises:
        SearchError: If it could only be used by unpickling it, which it mustn't.
    """
    if fault := stored.fault(directory):
        return fault, False
    if stored.is_own:
        return "", True
    # Anybody may have made it; but if it holds tensors and plain data alone, reading it runs no code.
    kind = kind_of(directory / stored.path)
    if kind == "objects" and not trust:
        raise SearchError(untrusted(directory / stored.path))
    return ("is damaged", False) if kind == "damaged" else ("", trust)


def lost_its_start(result: Result) -> bool:
    """Whether a training failed because the checkpoint that it starts from was damaged after it was looked at."""
    return result.status == FAILED and (result.error_type or "").startswith(f"{DamagedCheckpoint.__name__}:")


def untrusted(checkpoint: Path) -> str:
    """The refusal of a checkpoint that holds more than tensors and plain data, in one line with what to do."""
    return (
        f"{checkpoint} holds objects that run code as they are read, and was not made by you on this machine: if you trust "
        "whoever made it, run the same again with --trust (in Python trust=True)"
    )
