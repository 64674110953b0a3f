"""Atomic writing of files: whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["atomic_path", "copy_atomically", "write_atomically"]


@contextmanager
def atomic_path(target: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path to write to, whose file replaces ``target`` when the block ends, and is deleted if the block raises.

    Args:
        target: The file to be written. One that is there already stays until the block ends.
        sync: Have the content on the disk before the file gets its name, so that a power failure leaves one of both whole.

    Yields:
        ``.<name>.part`` in the same directory, hidden from patterns such as ``*.ckpt``.

    Raises:
        OSError: If the file can't be written; ``target`` is then as it was.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        if sync:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomically(target: Path, content: str | bytes) -> Path:
    """Write text (as UTF-8) or bytes to a file; see :func:`atomic_path`.

    Returns:
        ``target``.
    """
    with atomic_path(target) as part:
        part.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    return target


def copy_atomically(source: Path, target: Path) -> Path:
    """Copy a file's content; see :func:`atomic_path`.

    Returns:
        ``target``.
    """
    with atomic_path(target) as part:
        shutil.copyfile(source, part)
    return target
