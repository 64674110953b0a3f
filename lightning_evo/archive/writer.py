"""The writer of a run: every call is one transaction and one line of the journal."""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, and_, select

from lightning_evo.archive import schema
from lightning_evo.archive.database import (
    ARCHIVE,
    JOURNAL,
    ArchiveLocation,
    fold_log,
    inserted_id,
    translated,
    writing,
)
from lightning_evo.archive.database_sum import DatabaseSum, log_size
from lightning_evo.archive.entries import RESERVE, check_entries
from lightning_evo.archive.errors import ArchiveError, Damaged, DiskFull, translated_file
from lightning_evo.archive.events import ColumnNames, Event, apply, ask_event, known_columns
from lightning_evo.archive.integrity import Diagnosis
from lightning_evo.archive.journal import Header, Journal, encoded
from lightning_evo.archive.lock import DirectoryLock, network_file_system
from lightning_evo.archive.meta import RetriedRecord, read_meta
from lightning_evo.archive.reader import Archive
from lightning_evo.archive.recovery import last_sequence, rebuild, reconcile, set_aside
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.utils.files import write_atomically
from lightning_evo.utils.text import storable

__all__ = ["ArchiveWriter"]

RESERVE_BYTES = 1 << 20

_LOG_BYTES = 4 << 20
"""The write-ahead log is folded into the database when it is as large as this and as half of the database: folding, and the
checksum that follows, then cost the same per event in a database of any size."""


class ArchiveWriter:
    """Opens a run's archive for writing, creating or repairing it; the directory's lock is held until :meth:`close`.

    When a call returns, its record outlives the death of the process. Several threads may call.

    Args:
        directory: The run's directory; created where it doesn't exist.
        database: URL of a database that a team shares; default ``<directory>/archive.sqlite``.
        run: The run's name in that database; default: the one the directory already has, else a new one.

    Attributes:
        directory: The run's directory, absolute.
        run: The run's name.
        recovered: What had to be repaired at opening, to be shown to the user; ``None`` if nothing.
        warning: What is doubtful about the location (a network file system), to be shown to the user; ``None`` if nothing.

    Raises:
        ArchiveError: If the directory can't be written, another process writes it, it belongs to another run, a later
            version wrote it, or database and journal are both damaged.
        DiskFull: If there is no space to begin with.

    >>> import tempfile
    >>> from lightning_evo.genome import Candidate, Genome, Result
    >>> with tempfile.TemporaryDirectory() as directory, ArchiveWriter(directory) as writer:
    ...     writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
    ...     writer.record_candidate(Candidate(0, Genome({"model.lr": 0.1})), queued=0.0)
    ...     writer.record_result(0, Result("completed", fitness=(0.9,)))
    ...     [(row["id"], row["val_acc"]) for row in Archive(directory).best(1)]
    [(0, 0.9)]
    """

    def __init__(self, directory: str | Path, database: str | None = None, run: str | None = None) -> None:
        self.directory = Path(directory).absolute()
        self._location = ArchiveLocation.of(database) if database else ArchiveLocation(self.directory / ARCHIVE)
        with translated_file(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            check_entries(self.directory)
        self._database = database
        self._own = database is None
        self._mutex = threading.Lock()
        self._lock = DirectoryLock(self.directory)
        self._journal = Journal(self.directory / JOURNAL)
        self._reserve = self.directory / RESERVE
        self._closed = False
        self._last = 0
        self._log_bytes = _LOG_BYTES
        try:
            self._make_reserve()
            self._open(run)
        except BaseException:
            self._journal.close()
            self._lock.release()
            raise

    # -- recording -----------------------------------------------------------------------------------------------------

    def record_candidate(self, candidate: Candidate, queued: float) -> None:
        """Remember a candidate that was asked at ``queued`` (seconds since the epoch), before it is submitted.

        Raises:
            ArchiveError: If there is a candidate with this id already.
            DiskFull: Always once the disk was full, as what is left of it is for results.
        """
        if self._full:
            raise DiskFull(f"{self.directory}: the disk is full: candidate {candidate.id} was not recorded")

        def check(connection: Connection) -> None:
            if self._status(connection, candidate.id) is not None:
                raise ArchiveError(f"{self._location}: candidate {candidate.id} is already recorded")

        self._write(ask_event(candidate, queued), check, f"candidate {candidate.id}")

    def record_result(self, candidate_id: int, result: Result) -> None:
        """Remember how a candidate ended, before the algorithm is told.

        Raises:
            ArchiveError: If the candidate is unknown or already has a result; the first one stays.
            DiskFull: If the disk is full; ``recorded`` says whether the reserve sufficed.
        """

        def check(connection: Connection) -> None:
            status = self._status(connection, candidate_id)
            if status is None:
                raise ArchiveError(f"{self._location}: candidate {candidate_id} was never recorded, so it can't end")
            if status != "pending":
                raise ArchiveError(f"{self._location}: candidate {candidate_id} already has a result ({status})")

        event = {"kind": "result", "id": candidate_id, "result": result.to_dict()}
        self._write(event, check, f"the result of candidate {candidate_id}")

    def retry(self, candidate_ids: Collection[int]) -> None:
        """Remember that candidates are to be trained again, as their failures are not to stand: all of them, or none.

        Raises:
            ArchiveError: If one of them hasn't failed.
        """
        table = schema.results
        query = select(table.c.candidate_id, table.c.sequence).where(
            table.c.run_id == self._run_id, table.c.status == FAILED
        )
        with translated(self._location), self._engine.begin() as connection:
            failed = {row.candidate_id: row.sequence for row in connection.execute(query)}
        if unknown := sorted(set(candidate_ids) - failed.keys()):
            raise ArchiveError(f"{self._location}: candidate {unknown[0]} hasn't failed")
        now = {id: failed[id] for id in candidate_ids}
        with self.archive() as archive:
            known = read_meta(archive.meta, RetriedRecord) or RetriedRecord()
        if now:
            self.set_meta(
                RetriedRecord.key, RetriedRecord({**now, **known.places}, {**known.replaced, **now}).to_dict()
            )

    def replace_result(self, candidate_id: int, result: Result) -> None:
        """Remember how a candidate ended that was trained again after :meth:`retry`, in place of its failure.

        Raises:
            ArchiveError: If it isn't one of these, or was trained again already; the result that it has stays.
            DiskFull: If the disk is full; ``recorded`` says whether the reserve sufficed.
        """
        with self.archive() as archive:
            if candidate_id not in archive.waiting():
                raise ArchiveError(f"{self._location}: candidate {candidate_id} is not to be trained again")
        event = {"kind": "result", "id": candidate_id, "result": result.to_dict(), "again": True}
        self._write(event, lambda connection: None, f"the result of candidate {candidate_id}")

    def update_checkpoint(self, candidate_id: int, checkpoint: str | None, size: int | None = None) -> None:
        """Remember that a candidate's checkpoint was deleted (``None``) or lies elsewhere.

        Args:
            candidate_id: One that has a result.
            checkpoint: Path relative to the run's directory.
            size: Its size in bytes.
        """

        def check(connection: Connection) -> None:
            if self._status(connection, candidate_id) in (None, "pending"):
                raise ArchiveError(f"{self._location}: candidate {candidate_id} has no result, so no checkpoint either")

        event = {"kind": "checkpoint", "id": candidate_id, "checkpoint": checkpoint, "checkpoint_bytes": size}
        self._write(event, check, f"the checkpoint of candidate {candidate_id}")

    def set_meta(self, key: str, value: Any) -> None:
        """Remember a JSON value about the run, in place of an earlier one under this key."""
        self.update_meta({key: value})

    def update_meta(self, values: Mapping[str, Any]) -> None:
        """Remember several values about the run: all of them or, if that fails, none."""
        if values:
            self._write({"kind": "meta", "values": dict(values)}, lambda connection: None, ", ".join(values))

    # -- reading and closing -------------------------------------------------------------------------------------------

    def archive(self) -> Archive:
        """A read-only view of the same run."""
        return Archive._of_writer(self._database or self.directory, self.run)

    def start_over(self) -> ArchiveWriter:
        """Begin a new, empty run in this directory, which stays locked throughout; returns this writer.

        What was there (archive, journal, candidates' folders) is kept under names that end in ``.replaced-N``.
        """
        with self._mutex:
            self._journal.close()
            self._fold(closing=True)
            with translated_file(self.directory):
                for name in (ARCHIVE, JOURNAL, "candidates", "final", "tested.json"):
                    set_aside(self.directory / name, "replaced")
            self._open(None, new=True)
        return self

    def close(self) -> None:
        """Fold all that was recorded into the database file and release the directory; a second call does nothing."""
        with self._mutex:
            if not self._closed:
                self._closed = True
                try:
                    self._journal.close()
                    self._fold(closing=True)
                finally:
                    self._engine.dispose()
                    self._lock.release()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- opening -------------------------------------------------------------------------------------------------------

    def _open(self, run: str | None, new: bool = False) -> None:
        done: list[str | None] = []
        state = None
        if self._own:
            found = Diagnosis(self._location, self._journal, thorough=True)
            state = found.journal_state
            if found.fault is not None:
                if found.fault not in ("missing", "empty") or _size(self._journal.path):
                    if found.journal_fault is not None:
                        raise found.refuse()
                    done.append(rebuild(self._location, found.fault, self._journal))
            elif found.proven is False and found.journal_fault is not None:
                raise found.refuse()
        self._engine = writing(self._location, folding=not self._own)
        try:
            with translated(self._location), self._engine.begin() as connection:
                schema.create(connection)
                schema.check_version(connection, str(self._location))
                self._run_id, header = self._find_run(connection, run, new)
            self.run = header.run
            self._header = header
            done.append(reconcile(self._location, self._engine, self._run_id, header, self._journal, state))
            if state is not None and state.whole and not state.sealed:
                self._journal.seal(header)
            self._settled = False
            self._settle()
            self._fold()
        except BaseException:
            self._engine.dispose()
            raise
        self.recovered = "; ".join(text for text in done if text) or None
        kind = network_file_system(self.directory)
        self.warning = (
            f"{self.directory} is on a network file system ({kind}): SQLite's locks are unreliable there. Use a "
            "local directory, or a database URL for a shared archive"
            if kind
            else None
        )

    def _find_run(self, connection: Connection, asked: str | None, new: bool) -> tuple[int, Header]:
        """The run's number and header: the journal's run, else the directory's or the one asked for, else a new one."""
        table = schema.runs
        try:
            header = self._journal.header()
        except Damaged:
            header = None  # reconcile() keeps it aside and writes it anew
        rows = [] if new else connection.execute(select(table)).all()
        if header is None:
            here = [row for row in rows if self._own or row.directory == storable(str(self.directory))]
            mine = [row for row in here if asked in (None, row.name)] or [row for row in rows if row.name == asked]
            if self._own and here and not mine:
                raise ArchiveError(f"{self._location}: holds the run {here[0].name!r}, not {asked!r}")
            if mine:
                return mine[0].id, Header(mine[0].name, mine[0].created)
            header = Header(storable(asked or f"{self.directory.name}-{uuid.uuid4().hex[:8]}"), time.time())
        elif asked not in (None, header.run):
            raise ArchiveError(f"{self.directory}: holds the run {header.run!r}, not {asked!r}")
        for row in rows:
            if row.name == header.run:
                return row.id, header
        if self._own and rows:
            raise ArchiveError(
                f"{self.directory}: {ARCHIVE} holds the run {rows[0].name!r}, {JOURNAL} the run {header.run!r}; they "
                "don't belong together. Move one of them away"
            )
        directory = storable(str(self.directory))
        values = {"name": header.run, "directory": directory, "created": header.created, "last_sequence": 0}
        number = inserted_id(connection, table, values)
        return number, header

    def _make_reserve(self) -> None:
        """Keep space back for the results of what is in training when the disk fills up."""
        if self._reserve.exists() and self._reserve.stat().st_size == RESERVE_BYTES:
            self._full = False
            return
        try:
            with translated_file(self.directory):
                # Random bytes: file systems that compress would keep no space for zeros.
                write_atomically(self._reserve, os.urandom(RESERVE_BYTES))
        except DiskFull as error:
            self._reserve.unlink(missing_ok=True)
            raise DiskFull(
                f"{error}: not even {RESERVE_BYTES >> 20} MiB is free; free some space and run again"
            ) from error
        self._full = False

    # -- writing -------------------------------------------------------------------------------------------------------

    def _status(self, connection: Connection, candidate_id: int) -> str | None:
        candidates, results = schema.candidates, schema.results
        row = connection.execute(
            select(candidates.c.id, results.c.status)
            .outerjoin(
                results, and_(results.c.run_id == candidates.c.run_id, results.c.candidate_id == candidates.c.id)
            )
            .where(candidates.c.run_id == self._run_id, candidates.c.id == candidate_id)
        ).first()
        return None if row is None else row.status or "pending"

    def _write(self, event: Event, check: Callable[[Connection], None], what: str) -> None:
        with self._mutex:
            if self._closed:
                raise ArchiveError(f"{self._location}: {what} cannot be recorded, as the archive is closed")
            try:
                encoded(event)
            except (TypeError, ValueError) as error:
                raise ArchiveError(f"{self._location}: {what} cannot be recorded: {error}") from error
            try:
                self._commit(event, check)
            except DiskFull as full:
                self._full = True
                self._retry(event, check, what, full)

    def _retry(self, event: Event, check: Callable[[Connection], None], what: str, full: DiskFull) -> None:
        """Record once more, in the space of the reserve; always raises."""
        advice = "Free some space and run the same command again to continue"
        try:
            if not self._reserve.exists():
                raise full
            self._reserve.unlink()
            self._commit(event, check)
        except DiskFull as error:
            recorded = self._last >= event.get("sequence", math.inf)
            done = "was recorded, but not in the journal" if recorded else "was not recorded"
            raise DiskFull(f"{error}: {what} {done}. {advice}", recorded) from error
        raise DiskFull(f"{full}: {what} was recorded using the reserve. {advice}", recorded=True) from full

    def _commit(self, event: Event, check: Callable[[Connection], None]) -> None:
        """One transaction, then one line. What an interruption leaves undone, :meth:`_settle` does at the next call."""
        self._settle()
        if event.get("sequence", math.inf) <= self._last:
            return  # committed by the try before this one, and now in the journal as well
        event["sequence"] = self._last + 1
        self._settled = False
        with translated(self._location), self._engine.begin() as connection:
            if last_sequence(connection, self._run_id) != self._last:
                raise ArchiveError(
                    f"{self._location}: another search is writing the run {self.run!r}; stop one of them"
                )
            check(connection)
            apply(connection, self._run_id, [event], self._known)
        self._last = event["sequence"]
        self._journal.append(event)
        self._settled = True
        if self._own and log_size(self._location.file) > self._log_bytes:
            self._fold()

    def _fold(self, closing: bool = False) -> None:
        """Fold the write-ahead log into the database, which then gets a checksum; what fails is done the next time."""
        if self._location.file is None:
            return
        with suppress(ArchiveError), translated(self._location):
            # While the search goes on, nothing waits for readers.
            fold_log(self._engine, patience=2.0 if closing else 0.0)
        if closing:
            self._engine.dispose()
        if self._own:
            file = self._location.file
            with suppress(OSError):
                DatabaseSum.of(file, self._last, closed=closing and not log_size(file)).write(file)
                self._log_bytes = log_size(file) + max(_LOG_BYTES, file.stat().st_size // 2)

    def _settle(self) -> None:
        """Bring memory and journal to where the database is, after a call that was interrupted or failed."""
        if self._settled:
            return
        with translated(self._location), self._engine.begin() as connection:
            self._last = last_sequence(connection, self._run_id)
            self._known: ColumnNames = known_columns(connection, self._run_id)
        reconcile(self._location, self._engine, self._run_id, self._header, self._journal)
        self._settled = True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
