"""Whether a database holds what was recorded: by its file's checksum or, where that doesn't tell, by the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Table, func, inspect, select

from lightning_evo.archive import schema
from lightning_evo.archive.database import JOURNAL, ArchiveLocation, in_memory, reading, translated
from lightning_evo.archive.database_sum import SUM, DatabaseSum
from lightning_evo.archive.errors import ArchiveError, Damaged, Unreadable
from lightning_evo.archive.events import Event, recorded
from lightning_evo.archive.journal import Journal, JournalState
from lightning_evo.archive.lock import writer_lives
from lightning_evo.archive.recovery import replay

__all__ = ["Diagnosis"]

T = TypeVar("T")

_BATCH = 5_000
_PATIENCE = 2.0
"""Seconds to wait for a living writer that is folding its log into the database just now."""

_OLD_BYTES = 8 << 20
"""The largest journal of an earlier version, without checksums, that every reader compares with its database (a second of
CPU). A larger one is compared when its search continues, and has checksums from then on."""


class Diagnosis:
    """The condition of a run's database and journal, determined on demand.

    Args:
        location: With a file.
        journal: The journal beside it, ``None`` where there can be none.
        thorough: For the writer: look at every line of the journal in any case, not only where it is needed.

    Attributes:
        fault: What is wrong with the database, ``None`` if nothing is.
        last: Number of the last event in it; 0 where it can't be read.
        proven: Whether its checksum says that the file is as it was written; ``None`` where there is no checksum.
        reached: Number of the last event that the journal had at least.
        sum: The database's checksum, where there is one.

    Raises:
        ArchiveError: If the database is sound, but no archive that this version can use; or if it belongs to another run
            than the journal.
    """

    def __init__(self, location: ArchiveLocation, journal: Journal | None, thorough: bool = False) -> None:
        assert location.file is not None
        self.location, self.file, self.journal = location, location.file, journal
        self._thorough = thorough
        self.last = 0
        self.proven: bool | None = None
        self._state: JournalState | None = None
        # Before the database is read: its writer commits first and then appends, so it can't be behind a line seen here.
        self.reached = self._reached()
        self.fault = self._find_fault()

    @property
    def behind(self) -> bool:
        """Whether the journal holds events that the database has lost."""
        return self.last < self.reached

    @property
    def complaint(self) -> str | None:
        """What keeps a reader from the database; ``None`` where it is sound and up to date."""
        if self.fault is None and self.behind:
            return f"behind its journal (it ends at event {self.last}, the journal at {self.reached})"
        if self.fault is None and self.proven is False and self.journal_fault:
            return "not as its checksum says"
        return self.fault

    def refuse(self) -> ArchiveError:
        """The error where neither database nor journal can be used."""
        remedy = ""
        if self.fault is None and not self.behind:
            remedy = f"; or remove {self.file.name}{SUM} and {JOURNAL}, to go on with the database as it is"
        if self.journal is None or not self.journal.path.exists():
            return ArchiveError(
                f"{self.file}: {self.complaint}; there is no journal ({JOURNAL}) to read or rebuild it from. Nothing was "
                f"changed. Put back a copy of the file{remedy}"
            )
        return ArchiveError(
            f"{self.file}: {self.complaint}, and the journal it could be rebuilt from cannot be used either: "
            f"{self.journal.path}: {self.journal_fault}. Nothing was changed. Put back a copy of one of the two files, or "
            f"name another directory to start a new search{remedy}"
        )

    @property
    def journal_state(self) -> JournalState:
        """All lines of the journal."""
        if self._state is None:
            self._state = JournalState(fault="there is none") if self.journal is None else self.journal.state()
        return self._state

    @property
    def journal_fault(self) -> str | None:
        """Why the journal can't stand in for the database; ``None`` where it can."""
        state = self.journal_state
        if not state.whole:
            more = f"; {state.damaged} of {state.lines} lines are damaged" if state.damaged else ""
            return f"{state.fault}{more}"
        # The last event may be in the database alone, if its writer was killed between the two.
        known = max(self.last - 1, self.sum.sequence if self.sum else 0)
        if state.last < known:
            return f"its end is missing (it ends at event {state.last}, the database at {known} or later)"
        return None

    def _reached(self) -> int:
        if self.journal is None or not self.journal.path.exists():
            return 0
        if not self._thorough:
            try:
                return self.journal.tail().last if self.journal.header() is not None else 0
            except Damaged:
                pass
            except ArchiveError:
                return 0  # not readable by this user, for instance: the database is there all the same
        return self.journal_state.reached

    # -- the database --------------------------------------------------------------------------------------------------

    def _find_fault(self) -> str | None:
        self.sum = DatabaseSum.read(self.file)
        if not self.file.exists():
            return "missing"
        if self.file.stat().st_size == 0:
            return "empty"
        self.proven = self._prove()
        engine = reading(self.location)
        try:
            with translated(self.location), engine.begin() as connection:
                if not self.proven:
                    verdict = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
                    if verdict != ["ok"]:
                        return "damaged: " + "; ".join(map(str, verdict))
                    if not inspect(connection).get_table_names():
                        return "empty"
                schema.check_version(connection, str(self.location))
                return self._find_difference(connection)
        except (Damaged, Unreadable) as damage:
            if self._thorough and isinstance(damage, Unreadable):
                raise  # nothing to be rebuilt: it may be sound
            return str(damage).removeprefix(f"{self.location}: ")
        finally:
            engine.dispose()

    def _prove(self) -> bool | None:
        """Whether the file is as its checksum says; a living writer is given the time to bring the two to agree."""
        until = time.monotonic() + _PATIENCE
        while self.sum is not None and not self.sum.holds(self.file):
            if self._thorough or time.monotonic() > until or not writer_lives(self.file.parent):
                return False
            time.sleep(0.02)
            self.sum = DatabaseSum.read(self.file)
        return None if self.sum is None else True

    def _find_difference(self, connection: Connection) -> str | None:
        """How the database differs from its own checksum or from the journal."""
        runs = connection.execute(select(schema.runs)).all()
        for run in runs:
            self.last = max(self.last, run.last_sequence)
            if (newest := _newest(connection, run.id)) != run.last_sequence:
                return f"damaged: it records {run.last_sequence} events but contains {newest}"
        if not runs or self.journal is None or not self.journal.path.exists():
            return None
        try:
            header = self.journal.header()
        except ArchiveError:  # a writer has been refused by now where it is another version's
            header = None
        if header is None:
            return None
        own = [run for run in runs if run.name == header.run]
        if not own:
            raise ArchiveError(
                f"{self.file.parent}: {self.file.name} holds the run {runs[0].name!r}, {self.journal.path.name} the run "
                f"{header.run!r}; they don't belong together. Move one of them away"
            )
        if self.proven or not self.journal_state.whole:
            return None
        old = self.proven is None and not self.journal_state.sealed
        if old and not self._thorough and self.journal.path.stat().st_size > _OLD_BYTES:
            return None
        try:
            difference = _compare(connection, own[0], self.journal, self.journal_state)
        except Damaged as damage:  # events of an earlier version, whose lines have no checksums
            self._state = replace(self.journal_state, fault=str(damage), damaged=1)
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            difference = f"a row can't be read: {error}"
        if difference is None:
            return None
        if old:
            raise ArchiveError(
                f"{self.file} and {self.journal.path} differ: {difference}. An earlier version wrote both, without "
                "checksums, so which of them is right isn't known. Nothing was changed. Move one of them away, to go on "
                "by the other"
            )
        return f"not what the journal says: {difference}"


def _newest(connection: Connection, run: int) -> int:
    """Number of the last event whose rows are there: pages of different age in one file show by it."""
    newest = 0
    for table in (schema.candidates, schema.results, schema.weights, schema.meta):
        at = connection.scalar(select(func.max(table.c.sequence)).where(table.c.run_id == run))
        newest = max(newest, at or 0)
    return newest


def _compare(connection: Connection, run: Row, journal: Journal, state: JournalState) -> str | None:
    """The first difference between the rows of a run and those that the journal's events would write."""

    def read(query: Callable[[Connection], T]) -> T:
        return query(connection)

    def events() -> Iterator[Event]:
        for event in journal.read():
            if event["sequence"] > run.last_sequence:
                return
            yield event
        yield from recorded(read, run.id, state.last)

    assert state.header is not None
    engine = in_memory()
    try:
        replay(engine, state.header, journal.path, events(), run.id)
        with engine.connect() as expected:
            for table in schema.CONTENT:
                if difference := _compare_table(table, connection, expected, run.id):
                    return difference
    finally:
        engine.dispose()
    return None


def _compare_table(table: Table, found: Connection, expected: Connection, run: int) -> str | None:
    keys = [column for column in table.primary_key.columns if column.name != "run_id"]
    query = select(table).where(table.c.run_id == run).order_by(*keys)
    there: Iterable[Row] = _rows(found, query) if schema.holds(found, table) else ()
    for one, two in zip_longest(there, _rows(expected, query)):
        if one is None or two is None:
            row, lacks = (one, "the journal") if two is None else (two, "the database")
            return f"{lacks} lacks {_named(table, row)}"
        if tuple(one) != tuple(two):
            for name, value, other in zip(table.columns.keys(), one, two, strict=True):
                if value != other and _plain(value) != _plain(other):
                    return f"{_named(table, two)}: {name} is {_shown(value)}, in the journal {_shown(other)}"
    return None


def _rows(connection: Connection, query: Any) -> Iterator[Row]:
    rows = connection.execute(query)
    while batch := rows.fetchmany(_BATCH):
        yield from batch


def _named(table: Table, row: Any) -> str:
    keys = (column.name for column in table.primary_key.columns if column.name != "run_id")
    return f"{table.name} {', '.join(str(getattr(row, name)) for name in keys)}"


def _plain(value: Any) -> Any:
    """JSON text in one form, as earlier versions may have written it in another."""
    if isinstance(value, str):
        try:
            return json.dumps(json.loads(value), sort_keys=True)
        except ValueError:
            return value
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
