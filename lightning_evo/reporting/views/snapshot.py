"""A snapshot of one run, read once and shared by all views."""

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
from lightning_evo.archive.meta import FinalOutcome
from lightning_evo.callbacks.records import ContinuationRecord, EarlyFitnessRecord, GrowthRecord, InheritanceRecord
from lightning_evo.genome import COMPLETED, STOPPED, Objective
from lightning_evo.genome.records import ExtraEntry, StackRecord, UncountedFlopsRecord
from lightning_evo.reporting.outgoing import mask_of, masked_row
from lightning_evo.utils.masking import Mask

__all__ = ["RunSnapshot", "RunStatus", "read_snapshot", "run_status"]

E = TypeVar("E", bound=ExtraEntry)

RunStatus = Literal["running", "finished", "interrupted"]

PENDING = "pending"

MIN_PAUSE = 60.0
"""A run in which nothing was trained for this many seconds was paused: resumed later, or the machine was asleep."""

_JOURNAL_AGE = 30.0
"""If the search's process can't be checked, the search is running if its journal is at most this many seconds old."""


@dataclass(frozen=True, eq=False)
class RunSnapshot:
    """A run at one point in time.

    Args:
        run: Its name.
        directory: Its directory.
        meta: Its metadata, by key.
        objectives: Its objectives.
        rows: One mapping per candidate, ordered by id, from :meth:`~lightning_evo.Archive.candidates`.
        status: Whether the search is still running.
        read_at: Time of reading, in seconds since the epoch.
        early: Records of early stopping, by id.
        inherited: Records of weight inheritance, by id.
        continued: Records of continued trainings, by id.
        grown: Records of growth with at least one step, by id.
        stacked: ``Result.extra["stack"]``, by id.
        uncounted: Operations whose FLOPs aren't counted, by id.
        mask: What masked its secrets, for texts that are read later.
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
    stacked: Mapping[int, StackRecord] = field(default_factory=dict)
    uncounted: Mapping[int, UncountedFlopsRecord] = field(default_factory=dict)
    mask: Mask = field(default_factory=Mask)

    @cached_property
    def by_id(self) -> dict[int, Mapping[str, Any]]:
        """The rows by candidate id."""
        return {row["id"]: row for row in self.rows}

    @cached_property
    def created(self) -> float:
        """Start of the run, in seconds since the epoch; if unknown, when its first candidate was bred."""
        first = min((row["queued"] for row in self.rows), default=self.read_at)
        return float(self.meta.get("created", first))

    @property
    def monitors(self) -> list[str]:
        """The objectives' monitors."""
        return [objective.monitor for objective in self.objectives]

    def objective(self, monitor: str | None = None) -> Objective:
        """Return the objective with this monitor; default: the first.

        Raises:
            ValueError: If there is none; the message lists the objectives.
        """
        for objective in self.objectives:
            if monitor in (None, objective.monitor):
                return objective
        raise ValueError(
            f"{self.run} has no objective {monitor!r}; its objectives: {', '.join(self.monitors) or 'none'}"
        )

    def scored(self, *statuses: str, duplicates: bool = False) -> list[Mapping[str, Any]]:
        """The rows with a finite fitness for every objective, ordered by id.

        Args:
            statuses: The statuses to include; default: completed, and stopped (with a predicted fitness).
            duplicates: Whether to include duplicates.
        """
        wanted = statuses or (COMPLETED, STOPPED)
        rows = [row for row in self.rows if row["status"] in wanted and (duplicates or row["duplicate_of"] is None)]
        if not self.objectives:
            return []
        finite = numpy.isfinite(self.values(rows))
        return [row for at, row in enumerate(rows) if finite[at].all()]

    def values(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[numpy.float64]:
        """The fitness of rows; shape (rows, objectives), NaN where there is none."""
        found = [[row.get(monitor, numpy.nan) for monitor in self.monitors] for row in rows]
        return numpy.array(found, dtype=float).reshape(len(rows), len(self.objectives))

    @cached_property
    def best(self) -> int | None:
        """Id of the best completed candidate by the first objective; ``None`` if there is none."""
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
    def weight_source(self) -> dict[int, int | None]:
        """For each candidate, the id of the candidate whose weights it started from; ``None``: from scratch.

        This is what really happened where it is known (a checkpoint may have been deleted), otherwise what was planned.
        """
        actual = {id: inherited.parent for id, inherited in self.inherited.items()}
        actual |= {id: continued.parent for id, continued in self.continued.items()}
        return {row["id"]: actual.get(row["id"], row["inherits"]) for row in self.rows}

    @cached_property
    def pauses(self) -> list[tuple[float, float]]:
        """Periods of more than :data:`MIN_PAUSE` seconds without training: (from, to) in seconds since the epoch.

        There are none if the run's own clock (``elapsed``) shows that the search was running all the time.
        """
        times = [(row["started"], row["ended"]) for row in self.rows]
        spans = sorted(span for span in times if None not in span)
        if not spans:
            return []
        found, until = [], self.created
        for started, ended in spans:
            if started - until > MIN_PAUSE:
                found.append((until, started))
            until = max(until, ended)
        idle = (until - self.created) - float(self.meta.get("elapsed", 0.0))
        return found if "elapsed" not in self.meta or idle > MIN_PAUSE else []

    def seconds(self, at: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        """Convert times in seconds since the epoch to seconds of search since the start of the run, without pauses."""
        passed = at - self.created
        for start, end in self.pauses:
            passed = passed - numpy.clip(at - start, 0.0, end - start)
        return passed


def read_snapshot(archive: Archive) -> RunSnapshot:
    """Read a run once; secrets in it are masked.

    Args:
        archive: The run's archive; the search may still be writing it.

    Raises:
        ArchiveError: If it can't be read.
    """
    # Rows before extras: for a candidate that ends in between, there may then be more than its row shows, never less.
    mask = mask_of(archive)
    meta, rows = mask.data(archive.meta), [masked_row(row, mask) for row in archive.candidates()]
    ids = {row["id"] for row in rows}

    def entries(kind: type[E]) -> dict[int, E]:
        return {id: entry for id, entry in archive.entries(kind).items() if id in ids}

    return RunSnapshot(
        run=archive.run,
        directory=archive.directory,
        meta=meta,
        objectives=tuple(Objective(**objective) for objective in meta.get("objectives", [])),
        rows=rows,
        status=run_status(archive.directory, rows, meta),
        read_at=time.time(),
        early=entries(EarlyFitnessRecord),
        inherited=entries(InheritanceRecord),
        continued=entries(ContinuationRecord),
        grown={id: entry for id, entry in entries(GrowthRecord).items() if entry.steps},
        stacked=entries(StackRecord),
        uncounted=entries(UncountedFlopsRecord),
        mask=mask,
    )


def run_status(directory: Path, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> RunStatus:
    """Whether a search is running, finished, or was interrupted.

    The file ``lock`` names the search's process. If that is on this machine, it is checked whether it is alive; otherwise
    the search counts as running if its journal was written within the last 30 seconds.

    Args:
        directory: The run's directory.
        rows: Its candidates.
        meta: Its metadata.
    """
    alive = writer_lives(directory)
    if alive is None:
        try:
            alive = time.time() - (directory / JOURNAL).stat().st_mtime < _JOURNAL_AGE
        except OSError:
            alive = False
    if alive:
        return "running"
    if not rows or any(row["status"] == PENDING for row in rows):
        return "interrupted"
    # The reason for the end is empty while a search runs and after an interrupt; earlier versions didn't record it.
    return "finished" if meta.get("end", True) or FinalOutcome.key in meta else "interrupted"
