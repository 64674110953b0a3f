"""Modules of the user that the forkserver imports once for all workers, where no worker could tell the difference.

The forkserver is told by an environment variable which modules to import, and where they are found.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["import_in_server", "orders", "take_left_out"]

_VARIABLE = "LIGHTNING_EVO_PRELOAD"
_OWN_THREADS = Path("/proc/self/task")

_left_out: dict[str, str] = {}
"""Module -> why it is not inherited; each worker, a fork of the server, has a copy."""


def orders(modules: Sequence[str]) -> dict[str, str]:
    """The environment variable that has a forkserver import modules, as this process would find them.

    Args:
        modules: Their names.

    Returns:
        Name -> value; nothing where there are no modules.
    """
    wanted = [name for name in dict.fromkeys(modules) if name not in ("__main__", "__mp_main__")]
    if not wanted:
        return {}
    path = [each for each in sys.path if isinstance(each, str)]
    return {_VARIABLE: json.dumps({"modules": wanted, "path": path, "left_out": {}})}


def take_left_out() -> dict[str, str]:
    """Which modules this worker hasn't inherited, with the reason; nothing from the second call on."""
    found = dict(_left_out)
    _left_out.clear()
    return found


def import_in_server() -> None:
    """Import what the environment asks for; called in the forkserver, before it forks.

    A module that can't be imported is left to the workers, where it fails with its traceback. One that no fork may inherit
    is left to them too: it starts threads or child processes, initializes CUDA, takes a signal of the server's, or changes
    what numbers are computed. As what it has done can't be undone, the server then begins anew, in this very process, and
    leaves it out.
    """
    text = os.environ.pop(_VARIABLE, "")
    if not text:
        return
    environment, directory = dict(os.environ), os.getcwd()
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    asked = json.loads(text)
    _left_out.update(asked["left_out"])
    sys.path[:] = [*asked["path"], *(each for each in sys.path if each not in asked["path"])]
    unsafe: dict[str, str] = {}
    for name in asked["modules"]:
        if name in _left_out or name in sys.modules:
            continue
        before = _state()
        try:
            with _silence():
                import_module(name)
        except BaseException as error:  # SystemExit included
            _left_out[name] = f"fails ({(str(error).splitlines() or [''])[0][:200] or type(error).__name__})"
        if reason := _difference(before, _state()):
            unsafe[name] = reason
    if unsafe:
        # What an execution keeps.
        os.chdir(directory)
        for number, handler in handlers.items():
            if handler is signal.SIG_DFL and signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        again = {**asked, "left_out": {**asked["left_out"], **unsafe}}
        os.execve(sys.executable, sys.orig_argv, {**environment, _VARIABLE: json.dumps(again)})


_OF_THE_SERVER = {
    "signal handlers",
    "signal mask",
    "signal wake-up",
    "timers",
    "working directory",
    "umask",
    "resource limits",
    "torch's threads",
}
"""Kinds of state that the server needs as they are, or that a worker sets before it imports anything."""


def _state() -> dict[str, Any]:
    """What a fork must find as it was: what runs in this process, and what numbers depend on."""
    from lightning_evo.execution.process_state import KINDS, RUNNING

    torch: Any = sys.modules.get("torch")
    lasting = [kind for kind in KINDS if kind.computes or kind.put_back is None or kind.name in _OF_THE_SERVER]
    state = {kind.name: kind.read() for kind in (*lasting, *RUNNING) if kind.module in sys.modules}
    if _OWN_THREADS.exists():
        state["threads of native code"] = len(os.listdir(_OWN_THREADS)) - threading.active_count()
    state["CUDA"] = torch is not None and torch.cuda.is_initialized()
    return state


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What importing a module has done that a worker must not inherit; empty: nothing."""
    started = {"threads", "child processes", "threads of native code"}
    changed = [name for name, value in after.items() if name in before and value != before[name]]
    parts = [f"starts {name}" for name in changed if name in started]
    parts += ["initializes CUDA"] * ("CUDA" in changed)
    if others := [name for name in changed if name not in started and name != "CUDA"]:
        parts.append(f"changes {', '.join(others)}")
    return " and ".join(parts)


@contextmanager
def _silence() -> Iterator[None]:
    """Send what importing prints to nowhere: it would appear in the midst of the search's display."""
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os.close(nowhere)
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
