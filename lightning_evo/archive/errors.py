"""What can go wrong with an archive, in words a user can act on."""

from __future__ import annotations

__all__ = ["ArchiveError", "Damaged", "DiskFull"]


class ArchiveError(Exception):
    """An archive that cannot be read or written; the message names the file, what was found and what to do."""


class Damaged(ArchiveError):
    """A database or journal whose content is broken; opening for writing repairs one of them from the other."""


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
