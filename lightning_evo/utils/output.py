"""Standard output and standard error: nothing fails where they can't be written, and no file of them grows without end."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_evo.utils.files import open_unlinked

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

__all__ = ["bound_output", "open_standard_files", "reader_is_gone", "settle_output"]


MOST_OUTPUT = 2**20
"""Bytes kept of either end of a file that output is appended to."""

_LEFT_OUT = "\n\n[... {:20,} bytes of output left out here ...]\n\n"


def bound_output(path: str | Path, most: int = MOST_OUTPUT) -> None:
    """Cut out the middle of a file that has grown to more than three times ``most``, and say there how much that was.

    Processes may go on appending to it (opened with ``O_APPEND``) meanwhile; what they write while it is cut counts as left
    out. A crash leaves both ends.

    Args:
        path: The file; nothing is done where there is none, or no ordinary one.
        most: Bytes kept of the beginning, and of the end.
    """
    try:
        if os.stat(path, follow_symlinks=False).st_size <= 3 * most:
            return
        with open_unlinked(path, "r+b", buffering=0) as file, _locked(file.fileno()):
            number, size = file.fileno(), os.fstat(file.fileno()).st_size
            if size <= 3 * most or not stat.S_ISREG(os.fstat(number).st_mode):
                return
            earlier = os.pread(number, len(_LEFT_OUT.format(0)), most)
            digits = bytes(byte for byte in earlier if chr(byte).isdigit()) if _is_note(earlier) else b""
            start = most + (len(earlier) if digits else 0)
            note = _LEFT_OUT.format(size - most - start + int(digits or 0)).encode()
            os.pwrite(number, note + os.pread(number, most, size - most), most)
            os.ftruncate(number, most + len(note) + most)
    except OSError:
        return  # it can't be cut, or somebody else is about to


def _is_note(text: bytes) -> bool:
    before, after = (part.encode() for part in _LEFT_OUT.split("{:20,}"))
    return text.startswith(before) and text.endswith(after)


@contextlib.contextmanager
def _locked(number: int) -> Iterator[None]:
    """Hold a file's lock, which ends with its being closed; ``OSError`` where another process holds it."""
    if fcntl is not None:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield


def open_standard_files() -> None:
    """Open the null device under each of the file descriptors 0, 1 and 2 that is closed (``>&-``).

    Otherwise the next file to be opened, perhaps an archive, would get that number, and whatever is printed by native code
    or child processes would land in it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # 0 was open in between
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def settle_output() -> None:
    """Flush standard output and standard error; throw away what they can't write.

    What stays in a buffer fails again at whoever flushes it next: the start of a worker process, the end of the interpreter
    (exit code 120). The streams stay as they are otherwise, for a disk may have space again.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop_pending(stream)
        except (ValueError, AttributeError):
            continue  # closed, replaced by something without a flush, or there is none


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more (``| head``)."""
    try:
        number = sys.stdout.fileno()
        poll = select.poll()
        poll.register(number, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def _drop_pending(stream: Any) -> None:
    """Have a stream write what it holds to the null device."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        number = stream.fileno()
        kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, number)
            stream.flush()
        finally:
            os.dup2(kept, number, inheritable=number <= 2)
            os.close(kept)
            os.close(nowhere)
