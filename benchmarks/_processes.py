"""Descendants of a process, whether they are alive, and their CPU time, from Linux's /proc."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


@dataclass(frozen=True)
class Process:
    """Snapshot of one process; snapshots of the same process are equal.

    Args:
        pid: Its id.
        started: Ticks since boot; with the id it names the process for good, as ids are given again.
        parent: Its parent's id.
        zombie: It has ended, and its parent has not yet taken notice.
        own: Seconds of CPU it has used itself.
        reaped: Those of its children that have ended, as far as it took notice (``wait``).
    """

    pid: int
    started: int
    parent: int = field(compare=False)
    zombie: bool = field(compare=False)
    own: float = field(compare=False)
    reaped: float = field(compare=False)

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process with this id; ``None`` if there is none."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name, in brackets, may hold anything.
        fields = text.rpartition(")")[2].split()
        own, reaped = (sum(map(int, fields[at : at + 2])) * _TICK for at in (11, 13))
        return cls(pid, int(fields[19]), int(fields[1]), fields[0] == "Z", own, reaped)

    @property
    def alive(self) -> bool:
        """Whether this process (not another one with the same id) is still running."""
        now = Process.of(self.pid)
        return now is not None and now.started == self.started and not now.zombie

    @property
    def command(self) -> str:
        """Its command line; empty once it has ended."""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""


def family(pid: int) -> list[Process]:
    """The process ``pid`` and all its descendants, zombies included; empty if there is no such process."""
    everyone = {
        int(name): process for name in os.listdir("/proc") if name.isdigit() and (process := Process.of(int(name)))
    }
    children: dict[int, list[Process]] = {}
    for process in everyone.values():
        children.setdefault(process.parent, []).append(process)
    found = [everyone[pid]] if pid in everyone else []
    for process in found:
        found += children.get(process.pid, [])
    return found


def workers(pid: int) -> list[Process]:
    """The worker processes of the search whose controller is ``pid``: the children of its forkserver."""
    processes = [process for process in family(pid) if not process.zombie]
    servers = {p.pid for p in processes if p.parent == pid and "multiprocessing.forkserver" in p.command}
    return [process for process in processes if process.parent in servers]


def keep_orphans() -> None:
    """Make this process the parent of descendants whose own parent ends, so that their CPU stays countable."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def cpu_between(before: Sequence[Process], after: Sequence[Process]) -> float:
    """Seconds of CPU that a family has used between two moments, to a tick (0.01 s) per process.

    Whatever ended in between is found with the parent that took notice of it. Where none did (Ray's raylet has the kernel
    forget its children), a process that ended counts up to the first moment only.
    """
    left = {process.pid: process for process in after}
    earlier = {process.pid: process for process in before}
    spent = sum(process.own + process.reaped for process in after)
    handed_over: dict[int, float] = {}
    for process in before:
        if left.get(process.pid) == process:
            spent -= process.own + process.reaped
            continue
        heir = process.parent
        while left.get(heir) != earlier.get(heir) and heir in earlier:
            heir = earlier[heir].parent
        handed_over[heir] = handed_over.get(heir, 0.0) + process.own + process.reaped
    for heir, seconds in handed_over.items():
        if heir in left and heir in earlier and left[heir].reaped - earlier[heir].reaped > seconds - 0.05:
            spent -= seconds  # it is part of what the heir has reaped since
    return spent
