"""What every test gets: no traces of one test in the next, and the small models of ``toys`` importable everywhere.

Options: ``--fast`` leaves out what takes long, ``--write-durations`` measures what does (on an otherwise idle machine).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch.distributed

# Worker processes, DDP ranks and command lines started by tests import `toys` too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")

DURATIONS = Path(__file__).parent / "durations.txt"
"""The test functions that take long, one per line: seconds of all cases together, and the function."""
LONG = 2.0
"""Seconds from which on a test function, all its cases together, is left out of a fast run."""


def pytest_addoption(parser):
    group = parser.getgroup("duration")
    group.addoption("--fast", action="store_true", help=f"leave out tests that are slow or listed in {DURATIONS.name}")
    group.addoption("--write-durations", action="store_true", help=f"write {DURATIONS.name} anew; run all tests for it")


def pytest_configure(config):
    if config.getoption("--write-durations") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Durations())


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--fast"):
        return
    long = {line.split()[1] for line in DURATIONS.read_text().splitlines()}
    left_out = [item for item in items if item.get_closest_marker("slow") or _function(item.nodeid) in long]
    config.hook.pytest_deselected(items=left_out)
    skipped = set(map(id, left_out))
    items[:] = [item for item in items if id(item) not in skipped]


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

    A test that leaves a signal handler changed fails.
    """
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    state = random.getstate()
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()  # it gives up on code that was compiled too often, in whichever tests
    os.environ.clear()
    os.environ.update(environment)
    random.setstate(state)
    for number, handler in handlers.items():
        assert signal.getsignal(number) == handler, f"the handler of signal {number} was left changed"


@pytest.fixture
def config():
    """An ordinary LightningCLI config of a toy, trained for two epochs."""
    return {
        "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
    }
