"""Errors of archives, with messages a user can act on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ArchiveError", "Damaged", "DiskFull", "Unreadable", "translated_file"]


class ArchiveError(Exception):
    """An archive that cannot be read or written; the message names the file, what was found and what to do."""


class Damaged(ArchiveError):
    """A database or journal whose content is broken; opening for writing repairs one of them from the other."""


class Unreadable(ArchiveError):
    """A database that can't be opened where it is; a journal beside it can be read all the same."""


class DiskFull(ArchiveError):
    """The disk is full.

    Args:
        message: What was asked for, and what to do.
        recorded: Whether the record this call was to make is in the archive all the same, in the reserve's space. Where
            it is not, nothing of it is.
    """

    def __init__(self, message: str, recorded: bool = False) -> None:
        super().__init__(message)
        self.recorded = recorded


@contextmanager
def translated_file(path: Path) -> Iterator[None]:
    """Raises the file system's errors at ``path`` as :class:`ArchiveError`, a full disk as :class:`DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path}: the disk is full") from error
        raise ArchiveError(f"{path}: cannot be used ({error.strerror})") from error
