"""What every test gets: no traces of one test in the next, and the small models of ``toys`` importable everywhere.

Options: ``--fast`` leaves out what takes long, ``--write-durations`` measures what does (on an otherwise idle machine).
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch.distributed
import warm
from hypothesis import settings

# Worker processes, DDP ranks and command lines started by tests import `toys` too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The key by which runs are told to be one's own: not the developer's.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="lightning-evo-state-")

# How long an example takes is the machine's affair.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")

DURATIONS = Path(__file__).parent / "durations.txt"
"""The test functions that take long, one per line: seconds of all cases together, and the function."""
LONG = 1.0
"""Seconds from which on a test function, all its cases together, is left out of a fast run."""


def pytest_addoption(parser):
    group = parser.getgroup("duration")
    group.addoption("--fast", action="store_true", help=f"leave out tests that are slow or listed in {DURATIONS.name}")
    group.addoption("--write-durations", action="store_true", help=f"write {DURATIONS.name} anew; run all tests for it")


def pytest_configure(config):
    if config.getoption("--write-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations())


def pytest_unconfigure(config):
    shutil.rmtree(os.environ["XDG_STATE_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    seconds = {name: float(number) for number, name in map(str.split, DURATIONS.read_text().splitlines())}
    if config.getoption("--fast"):
        left_out = [item for item in items if item.get_closest_marker("slow") or _function(item.nodeid) in seconds]
        config.hook.pytest_deselected(items=left_out)
        skipped = set(map(id, left_out))
        items[:] = [item for item in items if id(item) not in skipped]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = _longest_first(items, seconds, workers)


def pytest_collection_finish():
    # What was imported and collected is never garbage: to look through it takes each collection half a second.
    gc.collect()
    gc.freeze()


def _longest_first(items, seconds, workers):
    """The tests in such an order that no worker of ``--dist worksteal`` is left with a long one at the end.

    Each worker begins with an equal share of this list, and takes over the end of another's. So shares begin with the files
    that take longest. A file's tests stay together, as they share its fixtures.
    """
    files = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    # Each function once and in order: sums that differ in their last bit would be another order in each worker.
    functions = {path: list(dict.fromkeys(_function(item.nodeid) for item in tests)) for path, tests in files.items()}
    lasts = {path: sum(seconds.get(name, 0.0) for name in names) for path, names in functions.items()}
    shares, takes = [[] for _ in range(workers)], [0.0] * workers
    room = [(len(items) + n) // workers for n in range(workers)]
    rest = []
    for path in sorted(files, key=lambda path: -lasts[path]):  # those that take no time stay in their order
        fits = [n for n in range(workers) if len(shares[n]) + len(files[path]) <= room[n]]
        if lasts[path] and fits:
            n = min(fits, key=takes.__getitem__)
            shares[n] += files[path]
            takes[n] += lasts[path]
        else:
            rest += files[path]
    for share, size in zip(shares, room, strict=True):
        left = size - len(share)
        share += rest[:left]
        del rest[:left]
    return [item for share in shares for item in share]


def _function(nodeid: str) -> str:
    """A test's file and function, without folders and the case: files' names are unique, and may move."""
    path, _, rest = nodeid.partition("::")
    return f"{Path(path).name}::{rest.partition('[')[0]}"


class _Durations:
    """Adds up how long each test function takes, and writes down those that take long."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report):
        self._seconds[_function(report.nodeid)] += report.duration

    def pytest_sessionfinish(self):
        found = sorted(((seconds, name) for name, seconds in self._seconds.items() if seconds >= LONG), reverse=True)
        DURATIONS.write_text("".join(f"{seconds:7.1f} {name}\n" for seconds, name in found))


@pytest.fixture(autouse=True)
def _no_traces():
    """Put environment and random state back, leave process groups, forget compiled code.

    A test that leaves a signal handler or the way in which compiled code runs changed fails.
    """
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    state = random.getstate()
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    stance = "default"
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()  # it gives up on code that was compiled too often, in whichever tests
        stance = dynamo.eval_frame._stance.stance
        torch.compiler.set_stance("default")
    os.environ.clear()
    os.environ.update(environment)
    random.setstate(state)
    assert stance == "default", f"torch.compile was left in the stance {stance}"
    for number, handler in handlers.items():
        assert signal.getsignal(number) == handler, f"the handler of signal {number} was left changed"


@pytest.fixture
def plain_convolutions():
    """Convolutions without oneDNN, which prepares itself for every shape: most of the time of a network that runs once."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.fixture
def warm_programs(monkeypatch):
    """Let ``subprocess.run`` start Python programs in processes that have imported Lightning already."""
    monkeypatch.setattr(subprocess, "run", warm.run)


@pytest.fixture
def config():
    """An ordinary LightningCLI config of a toy, trained for two epochs."""
    return {
        "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
