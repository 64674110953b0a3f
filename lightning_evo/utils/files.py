"""Files written whole or not at all, and paths that don't lead out of the directory they belong to."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

__all__ = [
    "OutsideError",
    "atomic_directory",
    "atomic_path",
    "copy_atomically",
    "digest_of",
    "inside",
    "open_unlinked",
    "remove_tree",
    "write_atomically",
]


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
        # Left by a kill, or a symbolic link that somebody put there, through which this would write elsewhere.
        part.unlink(missing_ok=True)
        yield part
        if sync:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(target: Path, replaceable: Collection[str] = ()) -> Iterator[Path]:
    """A directory to write files to that belong together, which becomes ``target`` when the block ends.

    Where ``target`` holds nothing but what may be replaced, all of it is replaced at once. Where it holds more, or its
    parent can't be written, the files take their places one after the other, each as a whole.

    Args:
        target: The directory to be made. Its parents are made, too.
        replaceable: Names of files that an earlier such directory may hold.

    Yields:
        ``.<name>.part`` beside it, which is deleted if the block raises.

    Raises:
        OSError: If it can't be written.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        remove_tree(part)
        part.mkdir()
    except OSError:
        if not target.is_dir():
            raise
        part = target / ".part"
        remove_tree(part)
        part.mkdir()
    try:
        yield part
        if part.parent == target or not _take_place(part, target, replaceable):
            for stale in set(os.listdir(target)) & set(replaceable) - set(os.listdir(part)):
                (target / stale).unlink()
            for file in sorted(part.iterdir()):
                file.replace(target / file.name)
    finally:
        remove_tree(part)


def _take_place(part: Path, target: Path, replaceable: Collection[str]) -> bool:
    """Give a directory its name in one step, where that is possible."""
    try:
        part.rename(target)  # there is none, or an empty one
        return True
    except OSError:
        if not target.is_dir():
            raise
    return set(os.listdir(target)) <= set(replaceable) and _exchange(part, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two directories in one step; whether this system can."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    at, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(at, os.fsencode(one), at, os.fsencode(other), exchange) == 0


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


class OutsideError(ValueError):
    """A path leaves the directory that it should lie in, or passes through a symbolic link; the message names it."""


def inside(directory: Path, path: str | Path) -> Path:
    """The place that a recorded path names in a directory, which may itself be reached through symbolic links.

    Args:
        directory: The directory.
        path: Relative to it. Its last parts need not exist.

    Raises:
        OutsideError: If it is absolute, contains ``..``, or a part of it below ``directory`` is a symbolic link.

    >>> inside(Path("run"), "candidates/000003/checkpoint.ckpt").as_posix()
    'run/candidates/000003/checkpoint.ckpt'
    >>> inside(Path("run"), "../other/checkpoint.ckpt")
    Traceback (most recent call last):
      ...
    lightning_evo.utils.files.OutsideError: ../other/checkpoint.ckpt: leads out of run
    """
    parts = Path(path).parts
    if not parts or Path(path).is_absolute() or ".." in parts or "\0" in str(path):
        raise OutsideError(f"{path}: leads out of {directory}")
    at = directory
    for part in parts:
        at = at / part
        if at.is_symlink():
            raise OutsideError(f"{at}: is a symbolic link, which may lead out of {directory}")
    return at


def open_unlinked(path: str | Path, mode: str, **options: Any) -> IO[Any]:
    """``open`` that never follows a symbolic link at ``path`` itself, nor waits for the other end of a named pipe.

    Raises:
        OSError: As ``open`` does, and if ``path`` is a symbolic link.
    """
    return open(path, mode, opener=_no_follow, **options)


def _no_follow(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a symbolic link, which is not followed", path) from None
        raise


def remove_tree(directory: Path) -> None:
    """Delete a directory with all that is in it, as far as that is possible. Links are deleted, never what they lead to."""
    if directory.is_symlink():
        with suppress(OSError):
            directory.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)


def digest_of(content: Path | bytes) -> str:
    """The SHA-256 of some bytes or of a file's content, after the name of that hash and a colon.

    Of those in ``hashlib`` it is the fastest on processors of the last years, which have instructions for it.

    Raises:
        OSError: If the file can't be read, or is a symbolic link.
    """
    if isinstance(content, bytes):
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    with open(content, "rb", opener=_no_follow) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
