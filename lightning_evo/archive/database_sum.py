"""The checksum of a run's database file, in a file of its own beside it, made whenever the writer has changed it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from lightning_evo.utils.checksums import checksum_holds, file_crc32, with_checksum
from lightning_evo.utils.files import write_atomically

__all__ = ["SUM", "DatabaseSum", "log_size"]

SUM = "-sum"
"""What the file's name adds to the database's."""


@dataclass(frozen=True)
class DatabaseSum:
    """What a SQLite file was when its writer last folded the write-ahead log into it.

    The log protects itself, by SQLite's own checksums; between two foldings the file doesn't change.

    Args:
        bytes: Its size.
        content: The CRC-32 of its content.
        sequence: Number of the last event in it.
        closed: Whether the writer has ended and left no log.
    """

    bytes: int
    content: int
    sequence: int
    closed: bool

    @classmethod
    def of(cls, file: Path, sequence: int, closed: bool) -> Self:
        """The checksum of a database as it is now; raises ``OSError`` where it can't be read."""
        return cls(file.stat().st_size, file_crc32(file), sequence, closed)

    @classmethod
    def read(cls, file: Path) -> Self | None:
        """What was written beside a database; ``None`` where there is nothing or it is damaged."""
        try:
            text = Path(f"{file}{SUM}").read_bytes()
        except OSError:
            return None
        if not checksum_holds(text):
            return None
        record = json.loads(text)
        return cls(record["bytes"], record["content"], record["sequence"], record["closed"])

    def write(self, file: Path) -> None:
        """Write it beside a database. One that can't be written is left out: without it, the journal is compared."""
        with suppress(OSError):
            write_atomically(Path(f"{file}{SUM}"), with_checksum(json.dumps(asdict(self)).encode()))

    def holds(self, file: Path) -> bool:
        """Whether a database is as it was then, but for what a living writer's log adds."""
        try:
            if file.stat().st_size != self.bytes or (self.closed and log_size(file)):
                return False
            return file_crc32(file) == self.content
        except OSError:
            return False


def log_size(file: Path | None) -> int:
    """Bytes in a database's write-ahead log."""
    try:
        return os.stat(f"{file}-wal").st_size
    except FileNotFoundError:
        return 0
