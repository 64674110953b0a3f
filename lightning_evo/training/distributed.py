"""One candidate on several devices: by DDP, in a process of its own whose command line is that candidate.

``strategy: ddp`` starts its other ranks by running the process's own command line again. A worker's command line is not
the candidate, so a candidate on several devices gets a fresh process: ``python -m lightning_evo.training.rank DIRECTORY``,
which every rank can repeat.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_evo.genome import Result
from lightning_evo.training.blueprint import Blueprint
from lightning_evo.training.request import TrainingRequest

__all__ = ["ARGUMENTS_FILE", "RESULT_FILE", "train_candidate_distributed"]

ARGUMENTS_FILE = "distributed.pickle"
RESULT_FILE = "distributed.json"


def train_candidate_distributed(blueprint: Blueprint, config: Mapping[str, Any], request: TrainingRequest) -> Result:
    """:func:`~lightning_evo.training.train_candidate` with ``request.devices`` > 1, in processes of its own."""
    directory = Path(request.directory)
    # Ranks start one another in whatever working directory they have by then.
    request = replace(request, launched_in=os.getcwd())
    arguments = {"blueprint": blueprint, "config": config, "request": request}
    directory.mkdir(parents=True, exist_ok=True)
    result = directory / RESULT_FILE
    result.unlink(missing_ok=True)
    (directory / ARGUMENTS_FILE).write_bytes(pickle.dumps(arguments))
    # In the worker's process group, which the terminal's Ctrl-C doesn't reach and which is killed as one with the worker.
    done = subprocess.run(
        [sys.executable, "-m", "lightning_evo.training.rank", str(directory)], env=_environment(), check=False
    )
    (directory / ARGUMENTS_FILE).unlink(missing_ok=True)
    if not result.exists():
        return Result.failure(
            ChildProcessError(f"the DDP processes ended with exit code {done.returncode}; see {directory}/output.log")
        )
    return Result.from_dict(json.loads(result.read_text(encoding="utf-8")))


def _environment() -> dict[str, str]:
    """This process's environment without another launcher's ranks, with this process's import path."""
    ranks = ("LOCAL_RANK", "NODE_RANK", "GLOBAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return environment
