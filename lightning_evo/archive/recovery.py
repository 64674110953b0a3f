"""Reconciliation of database and journal: what one of them lost is restored from the other; nothing is deleted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, func, inspect, select
from sqlalchemy.exc import DBAPIError

from lightning_evo.archive import schema
from lightning_evo.archive.database import ArchiveLocation, in_memory, inserted_id, reading, translated, writing
from lightning_evo.archive.errors import ArchiveError, Damaged, translated_file
from lightning_evo.archive.events import apply, known_columns
from lightning_evo.archive.history import recorded
from lightning_evo.archive.journal import Header, Journal

__all__ = ["find_fault", "from_journal", "last_sequence", "rebuild", "reconcile", "set_aside"]


T = TypeVar("T")


def find_fault(location: ArchiveLocation) -> str | None:
    """What is wrong with a SQLite file, every page and index of it checked; ``None`` if nothing is.

    Opens it for reading only: a damaged file and its ``-wal`` stay as they are.

    Raises:
        ArchiveError: If it is sound, but no archive that this version can use.
    """
    assert location.file is not None
    if not location.file.exists():
        return "missing"
    if location.file.stat().st_size == 0:
        return "empty"
    engine = reading(location)
    try:
        with translated(location), engine.begin() as connection:
            verdict = connection.exec_driver_sql("PRAGMA integrity_check(3)").scalars().all()
            if verdict != ["ok"]:
                return "damaged: " + "; ".join(verdict)
            if not inspect(connection).get_table_names():
                return "empty"
            schema.check_version(connection, str(location))
            return _find_gap(connection)
    except Damaged as damage:
        return str(damage).removeprefix(f"{location}: ")
    finally:
        engine.dispose()


def _find_gap(connection: Connection) -> str | None:
    """Whether rows are missing that the run's last sequence number speaks of (pages of different age in one file)."""
    for run, last in connection.execute(select(schema.runs.c.id, schema.runs.c.last_sequence)).all():
        newest = 0
        for table in (schema.candidates, schema.results, schema.weights, schema.meta):
            at = connection.scalar(select(func.max(table.c.sequence)).where(table.c.run_id == run))
            newest = max(newest, at or 0)
        if newest != last:
            return f"damaged: it records {last} events but contains {newest}"
    return None


def last_sequence(connection: Connection, run: int) -> int:
    """Sequence number of the last event that the database holds of ``run``, locked until the transaction ends."""
    query = select(schema.runs.c.last_sequence).where(schema.runs.c.id == run)
    return connection.execute(query.with_for_update()).scalar_one()


def _replay(engine: Engine, header: Header, journal: Journal) -> int:
    """Fill an empty database from a journal; returns the number of the last event."""
    with engine.begin() as connection:
        schema.create(connection)
        row = {
            "name": header.run,
            "directory": str(journal.path.parent),
            "created": header.created,
            "last_sequence": 0,
        }
        run = inserted_id(connection, schema.runs, row)
        return apply(connection, run, journal.read(), set()) or 0


def from_journal(journal: Journal) -> Engine:
    """A database in memory with all that the journal holds, for reading where the database is damaged.

    Raises:
        ArchiveError: If there is no journal, or it is damaged as well.
    """
    header = journal.header()
    if header is None:
        raise ArchiveError(f"{journal.path}: no journal to read from")
    engine = in_memory()
    _replay(engine, header, journal)
    return engine


def rebuild(location: ArchiveLocation, fault: str, journal: Journal) -> str | None:
    """Replace a faulty SQLite file by one built from the journal; the faulty one is kept under another name.

    Args:
        location: With a file.
        fault: What :func:`find_fault` found.
        journal: The journal beside it.

    Returns:
        What was done; ``None`` where there is nothing yet, neither database nor journal.

    Raises:
        ArchiveError: If the journal is damaged too, or is missing: then nothing is changed.
    """
    file = location.file
    assert file is not None
    new = ArchiveLocation(file.with_name(file.name + ".rebuilding"))
    try:
        header = journal.header()
        if header is None:
            if fault in ("missing", "empty") and not _size(journal.path):
                return None
            found = "is missing" if not journal.path.exists() else "has no whole first line"
            raise Damaged(f"{journal.path} {found}")
        _remove(new)
        engine = writing(new)
        try:
            with translated(new):
                events = _replay(engine, header, journal)
        except BaseException:
            _remove(new)
            raise
        finally:
            engine.dispose()
    except Damaged as damage:
        raise ArchiveError(
            f"{file} is {fault}, and the journal it could be rebuilt from cannot be used either: {damage}. Nothing was "
            f"changed. Put back a copy of one of the two files, or name another directory to start a new search"
        ) from damage
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
    for suffix in ("", "-wal", "-shm"):
        Path(f"{location}{suffix}").unlink(missing_ok=True)


def set_aside(file: Path, why: str = "damaged") -> Path | None:
    """Rename a file or folder to ``<name>.<why>-N``; a database's ``-wal`` and ``-shm`` first: they'd spoil the next one.

    Returns:
        The new name, ``None`` where there was nothing to rename.
    """
    present = [part for suffix in ("-wal", "-shm", "") if (part := Path(f"{file}{suffix}")).exists()]
    number = 1
    while any(file.parent.glob(f"{file.name}.{why}-{number}*")):
        number += 1
    kept = file.with_name(f"{file.name}.{why}-{number}")
    for part in present:
        part.rename(f"{kept}{str(part).removeprefix(str(file))}")
    return kept if present else None


def reconcile(location: ArchiveLocation, engine: Engine, run: int, header: Header, journal: Journal) -> str | None:
    """Make a sound database and the journal hold the same events, and open the journal for writing.

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
