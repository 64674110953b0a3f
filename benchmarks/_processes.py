"""Which processes descend from one, do they live, and how much CPU have they used? As Linux tells it in /proc."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, field
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


@dataclass(frozen=True)
class Process:
    """One process at one moment; equal to itself at another.

    Args:
        pid: Its id.
        started: Ticks since boot; with the id it names the process for good, as ids are given again.
        parent: Its parent's id.
        zombie: It has ended, and its parent has not yet taken notice.
        cpu: Seconds of CPU, its own and those of the ended children it has taken notice of.
    """

    pid: int
    started: int
    parent: int = field(compare=False)
    zombie: bool = field(compare=False)
    cpu: float = field(compare=False)

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process with this id; ``None`` if there is none."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name, in brackets, may hold anything.
        fields = text.rpartition(")")[2].split()
        cpu = sum(int(ticks) for ticks in fields[11:15]) * _TICK
        return cls(pid, int(fields[19]), int(fields[1]), fields[0] == "Z", cpu)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
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


def cpu_of_family() -> float:
    """Seconds of CPU that this process and every descendant, ended ones included, have used (after keep_orphans())."""
    # To a tick (0.01 s) per process; zombies keep their figures until they are reaped, and then their parent has them.
    return sum(process.cpu for process in family(os.getpid()))
