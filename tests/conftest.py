"""What every test gets: no traces of one test in the next, and the small models of ``toys`` importable everywhere."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch.distributed

# Worker processes, DDP ranks and command lines started by tests import `toys` too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")


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
