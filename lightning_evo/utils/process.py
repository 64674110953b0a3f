"""Processes that end when their parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def die_with_parent(parent: int | None = None, number: int = signal.SIGKILL) -> None:
    """Have this process killed as soon as its parent dies; call it first thing in a child process's main.

    On Linux the kernel does it (``PR_SET_PDEATHSIG``), even where this process hangs in native code. The kernel takes the
    *thread* that started the process for its parent, so start such processes from a thread that outlives them. Elsewhere
    a thread looks every second whether the parent is still the same.

    Args:
        parent: The process id of the expected parent (its ``os.getpid()``, handed over by argument or environment). A
            parent that died before this call can't be noticed otherwise.
        number: The signal that it gets.

    Raises:
        OSError: If the kernel refuses.
    """
    current = os.getppid()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    else:
        threading.Thread(target=_watch, args=(current, number), name="die-with-parent", daemon=True).start()
    # The parent may have died between the start of this process and the lines above.
    if os.getppid() != (current if parent is None else parent):
        os.kill(os.getpid(), number)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), number)
