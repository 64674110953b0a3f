"""Standard output and standard error that can't be written: nothing fails for it, and nothing else takes their place."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any

__all__ = ["open_standard_files", "reader_is_gone", "settle_output"]


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
