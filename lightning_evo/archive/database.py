"""Opening databases: SQLite's settings, and translation of its errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, QueuePool, StaticPool, Table, create_engine, event, insert, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from lightning_evo.archive.errors import ArchiveError, Damaged, DiskFull, Unreadable, translated_file

__all__ = [
    "ARCHIVE",
    "JOURNAL",
    "ArchiveLocation",
    "fold_log",
    "in_memory",
    "inserted_id",
    "reading",
    "translated",
    "writing",
]

ARCHIVE = "archive.sqlite"
JOURNAL = "journal.jsonl"

_BUSY = 60.0
"""Seconds to wait for another writer of the same database (several runs may share one)."""


@dataclass(frozen=True)
class ArchiveLocation:
    """Where an archive's database is: a SQLite file, or another database's URL.

    Args:
        file: The SQLite file, if it is one.
        url: The URL, if it isn't.
        journal: The journal that belongs to it, where there may be one.
    """

    file: Path | None
    url: URL | None = None
    journal: Path | None = None

    @classmethod
    def of(cls, location: str | Path) -> ArchiveLocation:
        """The location meant by a run's directory, an archive file or a database URL.

        Raises:
            ArchiveError: If ``location`` looks like a URL and isn't one, its driver isn't installed, or it can't be the
                name of a file.
        """
        if isinstance(location, str) and "://" in location:
            shown = location
            try:
                url = make_url(location)
                shown = url.render_as_string(hide_password=True)
                url.get_dialect().import_dbapi()
            except (ArgumentError, NoSuchModuleError, ImportError) as error:
                raise ArchiveError(f"{shown}: not a database URL that SQLAlchemy can open: {error}") from error
            if url.get_backend_name() != "sqlite":
                return cls(None, url)
            if not url.database or url.database == ":memory:":
                raise ArchiveError(f"{location}: an in-memory archive isn't persistent; name a file")
            return cls(Path(os.path.expanduser(url.database)).absolute())
        if not str(location).strip() or "\0" in str(location):
            raise ArchiveError(f"{str(location)!r}: neither a directory, an archive file nor a database URL")
        path = Path(os.path.expanduser(location)).absolute()
        with translated_file(path):
            is_file = path.is_file()
        if is_file:
            return cls(path, journal=path.with_name(JOURNAL) if path.name == ARCHIVE else None)
        return cls(path / ARCHIVE, journal=path / JOURNAL)

    def __str__(self) -> str:
        return str(self.file) if self.url is None else self.url.render_as_string(hide_password=True)


def inserted_id(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Insert a row, and give its new key."""
    key = connection.execute(insert(table), values).inserted_primary_key
    assert key is not None, "one row has one key"
    return int(key[0])


def writing(location: ArchiveLocation, folding: bool = True) -> Engine:
    """An engine whose every transaction takes the write lock at its start: none fails halfway for want of it.

    Args:
        location: Where the database is.
        folding: Whether SQLite folds the write-ahead log into the file when it likes; otherwise :func:`fold_log` does.
    """
    if location.file is None:
        assert location.url is not None, "a location is a file or a URL"
        return create_engine(location.url)
    file = str(location.file)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=NORMAL")
        if not folding:
            connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin_immediate)
    return engine


def fold_log(engine: Engine, patience: float) -> None:
    """Fold a SQLite database's write-ahead log into its file, and empty the log where no reader needs it.

    Args:
        engine: Of :func:`writing`.
        patience: Seconds to wait for readers of earlier states. Where they take longer, as much is folded as they allow.
    """
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={round(1000 * patience)}").fetchall()
        try:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            cursor.execute(f"PRAGMA busy_timeout={round(1000 * _BUSY)}").fetchall()
    finally:
        connection.close()


def reading(location: ArchiveLocation) -> Engine:
    """An engine that cannot write, nor keep a writer waiting; the directory need not be writable."""
    if location.file is None:
        assert location.url is not None, "a location is a file or a URL"
        return create_engine(location.url)
    file = location.file

    def connect() -> sqlite3.Connection:
        try:
            return _open(f"{file.as_uri()}?mode=ro")
        except sqlite3.OperationalError as error:
            # Without its -wal file and in a directory where it can't be made: then nobody writes it either.
            if error.sqlite_errorname != "SQLITE_CANTOPEN" or Path(f"{file}-wal").exists():
                raise
            return _open(f"{file.as_uri()}?immutable=1")

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin)
    return engine


def in_memory() -> Engine:
    """An engine on an empty database in memory, the same one for every connection."""
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def _open(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # SQLite opens files at their first use
    except BaseException:
        connection.close()
        raise
    return connection


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def translated(location: ArchiveLocation) -> Iterator[None]:
    """Raises the database's errors as :class:`ArchiveError`: what was found at ``location`` and what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _translation(location, error.orig) from error
    except sqlite3.Error as error:
        raise _translation(location, error) from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{location}: damaged ({error})") from error


def _translation(location: ArchiveLocation, error: BaseException | None) -> ArchiveError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _no_space(location)):
        return DiskFull(f"{location}: the disk is full")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Damaged(f"{location}: damaged ({error})")
    if name == "SQLITE_ERROR" and "no such table" in str(error):
        return Damaged(f"{location}: damaged ({error})")
    if name.startswith("SQLITE_CANTOPEN"):
        return Unreadable(f"{location}: cannot be opened ({error})")
    if name.startswith("SQLITE_READONLY"):
        return ArchiveError(f"{location}: cannot be written ({error}); make it writable or name another directory")
    return ArchiveError(f"{location}: {error}")


def _no_space(location: ArchiveLocation) -> bool:
    return location.file is not None and shutil.disk_usage(location.file.parent).free < 64 * 1024
