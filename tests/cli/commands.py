"""Command lines for tests: written to files, run in this process or as a user runs them."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import warm
import yaml

CONFIG = {
    "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
    "data": {"class_path": "toys.ToyData"},
    "trainer": {"max_epochs": 2, "accelerator": "cpu"},
}

SEARCH = {
    "space": {
        "model.init_args.lr": {"class_path": "LogUniform", "init_args": {"low": 1e-3, "high": 1.0}},
        "model.init_args.width": [2, 4, 8],
    },
    "algorithm": {"class_path": "GenerationalEvolution", "init_args": {"population_size": 4}},
    "objectives": [{"monitor": "val_acc", "mode": "max"}],
    "budget": {"candidates": 6},
    "workers": {"slots": 2},
    "seed": 3,
}


def write(directory: Path, change=None) -> list[str]:
    """Write a config and a search, after ``change(config, search)``; returns the arguments that run them."""
    config, search = copy.deepcopy(CONFIG), copy.deepcopy(SEARCH)
    search["directory"] = str(directory / "run")
    whole = {"evolution": search}
    if change is not None:
        change(config, whole)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "search.yaml").write_text(yaml.safe_dump(whole))
    return ["fit", "--config", str(directory / "config.yaml"), "--config", str(directory / "search.yaml")]


def command(*arguments: str) -> list[str]:
    """The console script, as the user's shell would find it."""
    return [str(Path(sys.executable).with_name("lightning-evo")), *arguments]


def run(*arguments: str, cwd: Path | None = None, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Run the console script to its end, in a process that starts at once (:mod:`warm`)."""
    return warm.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )
