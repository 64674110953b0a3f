"""Processes that jobs leave running: found by their parents or by a mark in their environment, and killed.

A child process may leave its parent's process group (``setsid``, as daemons do) and may outlive its parent. On Linux a
process can ask to become the parent of such orphans (a sub-reaper). A worker does: after each job it ends all that descends
from it. So does the forkserver, for what a worker leaves that dies: it ends them when the controller asks or dies. What
outlives even the forkserver bears the controller's mark, and is ended by the next executor on this machine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

__all__ = ["MARK", "adopt_orphans", "end_children", "end_marked", "end_orphans", "mark"]

MARK = "LIGHTNING_EVO_CONTROLLER"
"""The environment variable that says for which controller a process was started."""

_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h
_COMPILERS = b"torch/_inductor/compile_worker"
"""What torch's compilers have in their command line. They keep no state of a candidate, and take seconds to start."""
_ROUNDS = 100
_ROUND = 0.01  # seconds: a killed process is gone soon, and its own children are then found


def adopt_orphans() -> None:
    """Become the parent of all descendants of this process whose own parents die; does nothing but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children(all_of_them: bool = False) -> list[str]:
    """Kill all that descends from this process, which adopts orphans; returns the commands of what was killed.

    Args:
        all_of_them: Also the processes of torch's compilers.
    """
    commands: list[str] = []
    for _ in range(_ROUNDS):
        if not _has_children():
            break
        found = [one for one in _processes() if one.parent == os.getpid()]
        left = [
            one for one in found if one.state != "Z" and (all_of_them or _COMPILERS not in _read(one.pid, "cmdline"))
        ]
        commands += [_command(one.pid) for one in left]
        for one in left:
            _kill(one.pid)
        for one in found:
            with suppress(ChildProcessError):
                os.waitpid(one.pid, 0 if one in left else os.WNOHANG)
        if not left:
            break
    return commands


def end_orphans(parent: int, workers: Collection[int]) -> None:
    """Kill what dead workers have left to the forkserver, in groups of its own: child processes that called ``setsid``.

    Args:
        parent: The forkserver's process id.
        workers: Ids of the workers that live. Those that are starting are in the forkserver's own group.
    """
    for _ in range(_ROUNDS):
        every = {one.pid: one for one in _processes()}
        if parent not in every:
            return
        own = every[parent].group
        left = [
            one
            for one in every.values()
            if one.parent == parent and one.group != own and one.pid not in workers and one.state != "Z"
        ]
        if not left:
            return
        for one in left:
            _kill(one.pid)
        time.sleep(_ROUND)  # until they are gone: their own child processes are orphans then


def mark() -> str:
    """The mark of this process as a controller: its id, when it started, and in which namespace that id is meant."""
    return f"{os.getpid()}:{_started(os.getpid())}:{_namespace()}"


def end_marked() -> None:
    """Kill what workers of controllers that are dead have left on this machine."""
    for one in _processes():
        environment = _read(one.pid, "environ")
        if MARK.encode() not in environment:
            continue
        marks = [
            entry.partition(b"=")[2].decode()
            for entry in environment.split(b"\0")
            if entry.startswith(MARK.encode() + b"=")
        ]
        pid, _, rest = marks[-1].partition(":") if marks else ("", "", "")
        started, _, namespace = rest.partition(":")
        if pid.isdigit() and namespace and namespace == _namespace() and _started(int(pid)) != started:
            _kill(one.pid)


class _Process(NamedTuple):
    pid: int
    parent: int
    group: int
    state: str


def _processes() -> Iterator[_Process]:
    """Every process that can be seen; none but on Linux."""
    with suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := _stat(int(entry))):
                yield _Process(int(entry), int(fields[1]), int(fields[2]), fields[0])


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; empty where there is no such process."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; empty where there is none, or it is dead."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in "ZX" else ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()[:80] or "a process"


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
