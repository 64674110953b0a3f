"""What is looked at? One run as it was at one moment, read once, for all views to share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy
from numpy.typing import NDArray

from lightning_evo.archive import Archive
from lightning_evo.archive.database import JOURNAL
from lightning_evo.archive.lock import writer_lives
from lightning_evo.callbacks.records import ContinuationRecord, EarlyFitnessRecord, GrowthRecord, InheritanceRecord
from lightning_evo.genome import COMPLETED, STOPPED, Objective
from lightning_evo.genome.records import ExtraEntry

__all__ = ["Recorded", "RunStatus", "record", "run_status"]

E = TypeVar("E", bound=ExtraEntry)

RunStatus = Literal["running", "finished", "interrupted"]

PENDING = "pending"

PAUSE = 60.0
"""A run in which nobody trained for so many seconds was paused: resumed later, or its machine slept."""

_FRESH = 30.0
"""A journal written within so many seconds belongs to a search that runs, where its process can't be asked."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """A run as it was when it was read.

    Args:
        run: Its name.
        directory: Its directory.
        meta: What the archive knows about the run, by key.
        objectives: What it optimises.
        rows: One mapping per candidate, by id, as :meth:`~lightning_evo.Archive.candidates` gives them.
        status: Whether it is still searching.
        read_at: When it was read, in seconds since the epoch.
        early: What early stopping left of candidates, by id.
        inherited: What weight inheritance left, by id.
        continued: What continuing another one's training left, by id.
        grown: The steps of those that grew, by id.
        stacked: What stacks left (``Result.extra["stack"]``), by id.
    """

    run: str
    directory: Path
    meta: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    rows: Sequence[Mapping[str, Any]]
    status: RunStatus
    read_at: float
    early: Mapping[int, EarlyFitnessRecord] = field(default_factory=dict)
    inherited: Mapping[int, InheritanceRecord] = field(default_factory=dict)
    continued: Mapping[int, ContinuationRecord] = field(default_factory=dict)
    grown: Mapping[int, GrowthRecord] = field(default_factory=dict)
    stacked: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[int, Mapping[str, Any]]:
        """The rows by candidate id."""
        return {row["id"]: row for row in self.rows}

    @cached_property
    def created(self) -> float:
        """When the run began, in seconds since the epoch; where that isn't known, when its first candidate was asked."""
        first = min((row["queued"] for row in self.rows), default=self.read_at)
        return float(self.meta.get("created", first))

    @property
    def monitors(self) -> list[str]:
        """The objectives' monitors."""
        return [objective.monitor for objective in self.objectives]

    def objective(self, monitor: str | None = None) -> Objective:
        """The objective with this monitor; default: the first.

        Raises:
            ValueError: If there is none, naming those there are.
        """
        for objective in self.objectives:
            if monitor in (None, objective.monitor):
                return objective
        raise ValueError(f"{monitor!r} is no objective of {self.run}; it has {', '.join(self.monitors) or 'none'}")

    def scored(self, *statuses: str, duplicates: bool = False) -> list[Mapping[str, Any]]:
        """The rows with a finite fitness by every objective, by id.

        Args:
            statuses: Only those with one of these; default: completed and stopped ones (whose fitness is predicted).
            duplicates: Also those that were answered by another one's result.
        """
        wanted = statuses or (COMPLETED, STOPPED)
        rows = [row for row in self.rows if row["status"] in wanted and (duplicates or row["duplicate_of"] is None)]
        if not self.objectives:
            return []
        finite = numpy.isfinite(self.values(rows))
        return [row for at, row in enumerate(rows) if finite[at].all()]

    def values(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[numpy.float64]:
        """The fitness of rows, of shape (rows, objectives); NaN where there is none."""
        found = [[row.get(monitor, numpy.nan) for monitor in self.monitors] for row in rows]
        return numpy.array(found, dtype=float).reshape(len(rows), len(self.objectives))

    @cached_property
    def best(self) -> int | None:
        """Id of the best completed candidate by the first objective; ``None`` where there is none."""
        if not self.objectives:
            return None
        first = self.objectives[0]
        known = (
            (first.weight * row.get(first.monitor, numpy.nan), -row["id"])
            for row in self.rows
            if row["status"] == COMPLETED and row["duplicate_of"] is None
        )
        best = max((each for each in known if numpy.isfinite(each[0])), default=None)
        return None if best is None else -best[1]

    @cached_property
    def source(self) -> dict[int, int | None]:
        """For each candidate by id whose weights it started from; ``None`` where it began anew.

        What happened counts where it is known (a checkpoint may be gone by then), otherwise what was asked for.
        """
        known = {id: inherited.parent for id, inherited in self.inherited.items()}
        known |= {id: continued.parent for id, continued in self.continued.items()}
        return {row["id"]: known.get(row["id"], row["inherits"]) for row in self.rows}

    @cached_property
    def pauses(self) -> list[tuple[float, float]]:
        """Stretches of more than :data:`PAUSE` seconds in which nobody trained: (from, to) in seconds since the epoch.

        None where the run's own clock (``elapsed``) says that the search went on all the time.
        """
        times = [(row["started"], row["ended"]) for row in self.rows]
        spans = sorted(span for span in times if None not in span)
        if not spans:
            return []
        found, until = [], self.created
        for started, ended in spans:
            if started - until > PAUSE:
                found.append((until, started))
            until = max(until, ended)
        idle = (until - self.created) - float(self.meta.get("elapsed", 0.0))
        return found if "elapsed" not in self.meta or idle > PAUSE else []

    def seconds(self, at: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        """Seconds of search at moments given in seconds since the epoch: since the run began, pauses left out."""
        passed = at - self.created
        for start, end in self.pauses:
            passed = passed - numpy.clip(at - start, 0.0, end - start)
        return passed


def record(archive: Archive) -> Recorded:
    """Read a run once.

    Args:
        archive: The run's, which a search may be writing.

    Raises:
        ArchiveError: If it can't be read.
    """
    # What is known of candidates comes before what callbacks left of them: a candidate that ends in between then has more
    # than its row says, never less.
    meta, rows = archive.meta, archive.candidates()
    ids = {row["id"] for row in rows}

    def left(kind: type[E]) -> dict[int, E]:
        return {id: entry for id, entry in archive.entries(kind).items() if id in ids}

    return Recorded(
        run=archive.run,
        directory=archive.directory,
        meta=meta,
        objectives=tuple(Objective(**objective) for objective in meta.get("objectives", [])),
        rows=rows,
        status=run_status(archive.directory, rows, meta),
        read_at=time.time(),
        early=left(EarlyFitnessRecord),
        inherited=left(InheritanceRecord),
        continued=left(ContinuationRecord),
        grown={id: entry for id, entry in left(GrowthRecord).items() if entry.steps},
        stacked={id: kept for id, kept in archive.extras("stack").items() if id in ids and kept},
    )


def run_status(directory: Path, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> RunStatus:
    """Whether a search is still writing there; otherwise whether it came to its end.

    The search's process is named in the file ``lock``. It is asked whether it lives where it is on this machine; where it
    isn't, what was written within the last 30 seconds tells.

    Args:
        directory: The run's directory.
        rows: Its candidates.
        meta: What is known about the run.
    """
    alive = writer_lives(directory)
    if alive is None:
        try:
            alive = time.time() - (directory / JOURNAL).stat().st_mtime < _FRESH
        except OSError:
            alive = False
    if alive:
        return "running"
    if not rows or any(row["status"] == PENDING for row in rows):
        return "interrupted"
    # Why a search ended is empty while it goes on, and where it was stopped; archives of earlier versions don't say.
    return "finished" if meta.get("end", True) or "final" in meta else "interrupted"
