"""Time that a job waits for another one; it is reported to whoever limits the job's time, so that it doesn't count."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["held", "on_waiting"]

_STEP = 0.1  # seconds: a limit must not end between two steps
_listeners: list[Callable[[float], None]] = []


def on_waiting(tell: Callable[[float], None]) -> None:
    """Have ``tell`` called, from now on, with the seconds that this process has spent in :func:`held`, while it waits."""
    _listeners.append(tell)


@contextmanager
def held(lock: Path, reason: str) -> Iterator[None]:
    """Hold a lock file; it is free again when this process dies.

    Args:
        lock: The file. Where it can't be made or locked (some network file systems know no locks), nothing is held.
        reason: What is waited for, which is printed once where it isn't free.
    """
    try:
        file = _acquired(FileLock(lock), reason)
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        file.release()


def _acquired(file: FileLock, reason: str) -> FileLock:
    began = time.monotonic()
    said = False
    while True:
        try:
            file.acquire(timeout=_STEP if said else 0, poll_interval=_STEP / 2)
            return file
        except Timeout:
            now = time.monotonic()
            for tell in _listeners:
                tell(now - began)
            began = now
            if not said:
                print(f"process {os.getpid()} waits for {reason}", flush=True)
                said = True
