"""Jobs that run into a limit or lose one of their processes: they fail, what they started ends, and the next job is well."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _processes import family

from _faults import Case, kind
from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.genome import COMPLETED, FAILED, Objective, Result

_TOO_LONG = 240.0  # seconds after which a job counts as never answered: two ranks start in 20, on a busy machine


def run(
    case: Case, function: Callable[..., Result], limit: float | None = None, **arguments: Any
) -> tuple[Result, Result, list[str]]:
    """Run a job and one after it, each in a worker that is well.

    Returns:
        The results of both, and the commands of the processes that are left in the end.
    """
    with LocalExecutor(1, threads=1, max_retries=0) as executor:
        first = Job(1, function, arguments, str(case.folder / "first"), time_limit=limit, modules=(__name__,))
        result = executor.submit(first).result(timeout=_TOO_LONG)
        after = executor.submit(Job(2, well, {}, str(case.folder / "next"))).result(timeout=_TOO_LONG)
    return result, after, _left()


def _left() -> list[str]:
    """Commands of what descends from this process beside multiprocessing's two servers; what is about to end has 5 s."""
    for _ in range(50):
        mine = [each for each in family(os.getpid()) if each.pid != os.getpid() and each.alive]
        left = [each for each in mine if not (each.parent == os.getpid() and "multiprocessing" in each.command)]
        if not left:
            return []
        time.sleep(0.1)
    return [each.command[:80] for each in left]


def well() -> Result:
    """What a job after others finds."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return Result(COMPLETED, fitness=(float(sum(bytearray(2**20))),), extra={"limit": limit})


# -- memory ------------------------------------------------------------------------------------------------------------


def allocate(by: str, room: int) -> Result:
    """Allocate without end, from now on within ``room`` bytes more; ``room`` of 0: without a limit of the process."""
    if room:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    import numpy
    import torch

    piece = 2**24
    makers: dict[str, Callable[[], object]] = {
        "bytes": lambda: bytearray(piece),
        "numpy": lambda: numpy.ones(piece // 8),
        "torch": lambda: torch.ones(piece // 4),
        "thread": lambda: threading.Thread(target=time.sleep, args=(0.1,)).start() or bytearray(piece),
        "child": lambda: subprocess.run(["true"], check=True) and bytearray(piece),
    }
    held = []
    for _ in range(2**32 // piece):
        held.append(makers[by]())
    return Result(COMPLETED, fitness=(float(len(held)),))


@kind("memory: a limit of the process", cases=20)
def beyond_a_limit(case: Case) -> None:
    by = case.rng.choice(["bytes", "numpy", "torch", "thread", "child"])
    result, after, left = run(case, allocate, by=by, room=case.rng.randint(1, 300) * 2**20)
    case.check(result.status == FAILED and result.error, f"{by}: {result.status}")
    case.check(not result.fatal, f"{by}: taken for the machine's fault: {result.error_type}")
    case.check(after.status == COMPLETED, f"{by}: the next job: {after.error}")
    case.check(after.extra["limit"] == resource.getrlimit(resource.RLIMIT_AS)[0], "the limit stays")
    case.check(not left, f"{by}: left running: {left}")


@functools.cache
def _cgroup() -> Path | None:
    """A memory cgroup of one's own, where that is allowed."""
    for parent in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")):
        group = parent / f"faults-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (group / name).exists():
                atexit.register(group.rmdir)
                return group
        group.rmdir()
    return None


def allocate_in(group: str, most: int) -> Result:
    """The same in a cgroup of ``most`` bytes, whose processes the kernel kills."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        path = Path(group, name)
        if path.exists():
            path.write_text(str(most))
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    return allocate("bytes", 0)


@kind("memory: a limit of a cgroup", cases=5)
def beyond_a_cgroup(case: Case) -> None:
    if (group := _cgroup()) is None:
        case.skip("no cgroup may be made here")
    result, after, left = run(case, allocate_in, group=str(group), most=case.rng.randint(50, 400) * 2**20)
    case.check(result.error_type == "WorkerDied", f"{result.status} {result.error_type}")
    case.check("out-of-memory" in (result.error or ""), f"it says {result.error}")
    case.check(after.status == COMPLETED, f"the next job: {after.error}")
    case.check(not left, f"left running: {left}")


# -- a DataLoader's worker that never answers --------------------------------------------------------------------------


class Stuck:
    """A dataset whose item 5 never comes."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, at: int) -> float:
        if at == 5:
            stick(self.how)
        return float(at)


def stick(how: str) -> None:
    """Never return."""
    if how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "native":
        ctypes.CDLL(None).sleep(3600)
    elif how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(3600)
    elif how == "session":
        os.setsid()
        time.sleep(3600)


def load(how: str, workers: int, persistent: bool) -> Result:
    """Read a dataset by processes."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(Stuck(how), 2, num_workers=workers, persistent_workers=persistent)  # type: ignore[arg-type]
    return Result(COMPLETED, fitness=(float(sum(batch.sum() for batch in loader)),))


@kind("a DataLoader's worker that never answers", cases=15)
def stuck_loader(case: Case) -> None:
    how = case.rng.choice(["lock", "stopped", "native", "deaf", "session"])
    arguments = {"workers": case.rng.randint(1, 3), "persistent": case.rng.random() < 0.5}
    result, after, left = run(case, load, limit=1.5, how=how, **arguments)
    case.check(result.error_type == "TimeLimit", f"{how} {arguments}: {result.status} {result.error_type}")
    case.check(after.status == COMPLETED, f"{how}: the next job: {after.error}")
    case.check(not left, f"{how} {arguments}: left running: {left}")


# -- a rank of DDP -----------------------------------------------------------------------------------------------------


def train(directory: str, hook: str, rank: int, number: int) -> Result:
    """Train a candidate on two devices, of which one rank dies in a hook of its module."""
    from lightning_evo.training import Blueprint, TrainingRequest
    from lightning_evo.training.distributed import train_candidate_distributed

    request = TrainingRequest(directory, [Objective("val_loss", "min")], devices=2)
    blueprint = Blueprint()
    config = blueprint.resolve(
        {
            "seed_everything": 1,
            "model": {
                "class_path": "_models.Mortal",
                "init_args": {"hook": hook, "rank": rank, "number": number},
            },
            "data": {"class_path": "_models.Points", "init_args": {"batches": 4}},
            "trainer": {"max_epochs": 2, "accelerator": "cpu", "strategy": "ddp", "logger": False},
        }
    )
    return train_candidate_distributed(blueprint, config, request)


@kind("a rank of DDP that dies", cases=10)
def rank_dies(case: Case) -> None:
    if sys.platform != "linux":
        case.skip("needs Linux")
    rank, hook = case.number % 2, case.rng.choice(["setup", "training_step", "validation_step", "on_train_epoch_end"])
    number = case.rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    directory = str(case.folder / "ranks")
    result, after, left = run(case, train, directory=directory, hook=hook, rank=rank, number=int(number))
    what = f"{number.name} of rank {rank} in {hook}"
    case.check(result.status == FAILED, f"{what}: {result.status}")
    case.check(after.status == COMPLETED, f"{what}: the next job: {after.error}")
    case.check(not left, f"{what}: left running: {left}")
