"""Reconciliation of database and journal: what one of them lost is restored from the other; nothing is deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from lightning_evo.archive import schema
from lightning_evo.archive.database import ArchiveLocation, in_memory, inserted_id, translated, writing
from lightning_evo.archive.database_sum import SUM
from lightning_evo.archive.errors import ArchiveError, Damaged, translated_file
from lightning_evo.archive.events import Event, apply, known_columns, recorded
from lightning_evo.archive.journal import Header, Journal, JournalState

__all__ = ["from_journal", "last_sequence", "rebuild", "reconcile", "replay", "set_aside"]


T = TypeVar("T")


def last_sequence(connection: Connection, run: int) -> int:
    """Sequence number of the last event that the database holds of ``run``, locked until the transaction ends."""
    query = select(schema.runs.c.last_sequence).where(schema.runs.c.id == run)
    return connection.execute(query.with_for_update()).scalar_one()


def replay(engine: Engine, header: Header, journal: Path, events: Iterable[Event], run: int = 1) -> int:
    """Fill an empty database with a journal's events; returns the number of the last one.

    Args:
        engine: Of the database.
        header: The journal's header.
        journal: The journal's path, beside which the run's files are.
        events: What it holds.
        run: The run's number.

    Raises:
        Damaged: If an event isn't complete.
    """
    with engine.begin() as connection:
        schema.create(connection)
        row = {"name": header.run, "directory": str(journal.parent), "created": header.created, "last_sequence": 0}
        inserted_id(connection, schema.runs, {"id": run, **row})
        try:
            return apply(connection, run, events, set()) or 0
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Damaged(f"{journal}: damaged (an event isn't complete: {error!r})") from error
        except StatementError as error:
            if isinstance(error, OperationalError):
                raise  # the disk is full, for instance
            raise Damaged(f"{journal}: damaged (its events contradict each other: {error.orig})") from error


def from_journal(journal: Journal) -> Engine:
    """A database in memory with all that the journal holds, for reading where the database is damaged.

    Raises:
        ArchiveError: If there is no journal, or it is damaged as well.
    """
    header = journal.header()
    if header is None:
        raise ArchiveError(f"{journal.path}: no journal to read from")
    engine = in_memory()
    replay(engine, header, journal.path, journal.read())
    return engine


def rebuild(location: ArchiveLocation, fault: str, journal: Journal) -> str:
    """Replace a faulty SQLite file by one built from the journal; the faulty one is kept under another name.

    Args:
        location: With a file.
        fault: What is wrong with it.
        journal: The journal beside it, which is whole.

    Returns:
        What was done.

    Raises:
        Damaged: If the journal can't be read after all: then nothing is changed.
    """
    file = location.file
    assert file is not None
    new = ArchiveLocation(file.with_name(file.name + ".rebuilding"))
    header = journal.header()
    assert header is not None, "the journal is whole"
    _remove(new)
    engine = writing(new)
    try:
        with translated(new):
            events = replay(engine, header, journal.path, journal.read())
    except BaseException:
        _remove(new)
        raise
    finally:
        engine.dispose()
    incomplete = journal.tail().incomplete
    with translated_file(file):
        kept = set_aside(file)
        os.replace(str(new), file)
    return (
        f"{file} was {fault}: rebuilt from the journal's {events} events"
        + (" (an incomplete last line left out)" if incomplete else "")
        + (f"; the old file is kept as {kept.name}" if kept else "")
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove(location: ArchiveLocation) -> None:
    for suffix in ("", "-wal", "-shm", SUM):
        Path(f"{location}{suffix}").unlink(missing_ok=True)


def set_aside(file: Path, why: str = "damaged") -> Path | None:
    """Rename a file or folder to ``<name>.<why>-N``; a database's ``-wal`` and the like first: they'd spoil the next.

    Returns:
        The new name, ``None`` where there was nothing to rename.
    """
    present = [part for suffix in ("-wal", "-shm", SUM, "") if (part := Path(f"{file}{suffix}")).exists()]
    number = 1
    while any(file.parent.glob(f"{file.name}.{why}-{number}*")):
        number += 1
    kept = file.with_name(f"{file.name}.{why}-{number}")
    for part in present:
        part.rename(f"{kept}{str(part).removeprefix(str(file))}")
    return kept if present else None


def reconcile(
    location: ArchiveLocation,
    engine: Engine,
    run: int,
    header: Header,
    journal: Journal,
    state: JournalState | None = None,
) -> str | None:
    """Make a sound database and the journal hold the same events, and open the journal for writing.

    Args:
        location: Where the database is.
        engine: Of the database.
        run: The run's number in it.
        header: The run's name, and when it was created.
        journal: The journal.
        state: All its lines, where they were looked at: damage before its end is known by them alone.

    Returns:
        What was done, ``None`` where they agreed.

    Raises:
        ArchiveError: If the database lacks events that the journal holds but can't be read for.
    """

    def read(query: Callable[[Connection], T]) -> T:
        with translated(location), engine.begin() as connection:
            return query(connection)

    done = None
    last = read(lambda connection: last_sequence(connection, run))
    try:
        tail = journal.tail() if journal.header() is not None else None
    except Damaged as damage:
        tail, done = None, f"{damage}: rewritten from the database"
    if state is not None and state.fault and _size(journal.path):
        if state.reached > last:
            _catch_up(location, engine, run, last, state.reached, journal)
        count = f"{state.damaged} of {state.lines} lines" if state.damaged else state.fault
        tail, done = None, f"{journal.path} is damaged ({count}: {state.fault}): rewritten from the database"
    if tail is None:
        if done or _size(journal.path):
            kept = set_aside(journal.path)
            done = (done or f"{journal.path} was damaged: rewritten from the database") + f"; kept as {kept}"
        elif last:
            done = f"{journal.path} was missing: rewritten from the database's {last} events"
        journal.rewrite(header, recorded(read, run, 0))
        journal.open()
        return done
    if tail.last > last:
        _catch_up(location, engine, run, last, tail.last, journal)
        done = f"{location} ended at event {last}: events up to {tail.last} were restored from the journal"
    elif tail.last < last:
        done = f"{journal.path} ended at event {tail.last}: events up to {last} were restored from the database"
    elif tail.incomplete:
        done = f"{journal.path} ended in an incomplete line, which was removed: the database holds all {last} events"
    journal.open()
    for event in recorded(read, run, tail.last):
        journal.append(event)
    return done


def _catch_up(location: ArchiveLocation, engine: Engine, run: int, last: int, to: int, journal: Journal) -> None:
    try:
        with translated(location), engine.begin() as connection:
            apply(connection, run, journal.read(after=last), known_columns(connection, run))
    except (Damaged, DBAPIError) as damage:
        raise ArchiveError(
            f"{location} ends at event {last}, and the journal, which reaches event {to}, cannot be read from there: "
            f"{damage}. Nothing was changed. Put back a copy of one of the two files; or move {journal.path} away, to "
            f"go on without what happened after event {last}"
        ) from damage
