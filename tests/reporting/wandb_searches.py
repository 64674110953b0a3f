"""A small search for tests of W&B, and a process that has nothing to do with W&B otherwise."""

from __future__ import annotations

import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_evo.algorithms import RegularizedEvolution
from lightning_evo.evolution import Budget, Evolution, Workers
from lightning_evo.genome import Categorical, Objective, Uniform

HOSTILE = "<img src=x onerror=alert(1)>"
X, KIND = "model.init_args.x", "model.init_args.kind"


@pytest.fixture
def without_wandb(monkeypatch, tmp_path):
    """No login, no settings and no variables of whoever runs the tests, and nothing of W&B's left behind."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(sys, "exit", sys.exit)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    wandb.teardown()


def square(genome, seed, directory):
    if genome[KIND] == HOSTILE and genome[X] > 0:
        raise RuntimeError(f"{HOSTILE} ``` ````")
    return {"y": genome[X] ** 2, "val/z": math.nan if genome[X] < -0.5 else genome[X]}


def search(directory, *, candidates=8, objectives=("y",), function=square, algorithm=None, **rest) -> Evolution:
    return Evolution(
        space={X: Uniform(-1, 1), KIND: Categorical(["a", HOSTILE, {"class_path": "torch.nn.ReLU"}])},
        objectives=[Objective(name, "min") for name in objectives],
        budget=Budget(candidates=candidates),
        algorithm=algorithm or RegularizedEvolution(population_size=4),
        workers=Workers(slots=2),
        directory=directory,
        seed=3,
        function=function,
        executor=ThreadPoolExecutor(2),
        **{"progress": False, **rest},
    )
