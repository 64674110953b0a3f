"""Output files that users name: checked before anything is computed, and written completely or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_evo.archive.entries import run_that_holds
from lightning_evo.utils.files import atomic_path

__all__ = ["check_output", "output_file"]

_BEGINNINGS = {
    ".html": (b"<!doctype html", b"<html"),
    ".htm": (b"<!doctype html", b"<html"),
    ".json": (b"{",),
    ".pdf": (b"%pdf",),
    ".png": (b"\x89png",),
    ".svg": (b"<?xml", b"<svg"),
}
"""How files begin, in lower case, by the ending of their names."""


@contextmanager
def output_file(to: Path, option: str, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces ``to`` when the block ends and is deleted if it raises.

    Args:
        to: The file to write.
        option: The option or argument that named it (``--csv``, ``to:``), for error messages.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ValueError: If the file can't be written or already exists.
    """
    check_output(to, option, overwrite)
    try:
        with atomic_path(to) as part:
            yield part
            check_output(to, option, overwrite)  # another process may have written it in the meantime
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise ValueError(f"{option} {to}: cannot write the file ({reason})") from error


def check_output(to: Path, option: str, overwrite: bool = False) -> None:
    """Refuse a path that can't be written, before anything is computed.

    Args:
        to: The file to write; its directory must exist.
        option: The option or argument that named it (``--csv``, ``to:``), for error messages.
        overwrite: Whether an existing file may be replaced. A file that belongs to a search never is, nor one that isn't
            what the ending of its name says.

    Raises:
        ValueError: Naming the option, the path and the problem.
    """
    # os.path returns False where access is denied; Path's methods would raise.
    if os.path.isdir(to):
        raise ValueError(f"{option} {to}: is a directory; give a file name")
    if not os.path.isdir(to.absolute().parent):
        raise ValueError(f"{option} {to}: the directory {to.absolute().parent} does not exist")
    if os.path.exists(to) and not overwrite:
        raise ValueError(f"{option} {to}: the file already exists; choose another name or replace it (--overwrite)")
    if (run := run_that_holds(to)) is not None:
        raise ValueError(f"{option} {to}: belongs to the search in {run}; give another file")
    beginnings = _BEGINNINGS.get(to.suffix.lower())
    if beginnings and os.path.exists(to) and not _begins(to, beginnings):
        raise ValueError(f"{option} {to}: the file already exists and is no {to.suffix[1:]} file; give another name")


def _begins(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    """Whether a file is empty or begins in one of these ways."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return True  # whatever keeps it from being read is the writing's to report
    return not start or start.startswith(beginnings)
