"""How does one candidate become a result? Built from its config, trained, measured."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import seed_everything
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_evo.callbacks import CostMeter, FitnessRecorder
from lightning_evo.callbacks.fitness import CHECKPOINT_FILE, CURVE_FILE
from lightning_evo.genome import COMPLETED, Objective, Result
from lightning_evo.training.blueprint import Blueprint, dump_yaml

__all__ = ["CONFIG_FILE", "COSTS", "FitnessEpoch", "isolated", "read_curve", "train_candidate", "trainer_overrides"]

CONFIG_FILE = "config.yaml"

COSTS = ("params", "flops", "seconds", "peak_memory", "epochs")
"""What is measured for every candidate; each is an objective under ``cost/<name>``."""

FitnessEpoch = Literal["best", "last"]


def train_candidate(
    *,
    blueprint: Blueprint,
    config: Mapping[str, Any],
    directory: str,
    objectives: Sequence[Objective],
    fitness_epoch: FitnessEpoch = "best",
    save_checkpoint: bool = True,
    devices: int = 1,
) -> Result:
    """Train one candidate in this process and return its result.

    Its directory then holds ``config.yaml`` (which a stock LightningCLI opens), ``curve.jsonl`` and ``checkpoint.ckpt``.

    Args:
        blueprint: The LightningCLI that builds it.
        config: The complete config, plain data. Its ``seed_everything`` decides everything random.
        directory: The candidate's own directory, also the Trainer's root directory.
        objectives: What the fitness consists of. All are read at one epoch: the best of the first objective that is a
            logged metric, or the last.
        fitness_epoch: ``best`` or ``last``.
        save_checkpoint: Keep the checkpoint of the epoch from which the fitness was read.
        devices: Devices that train it together (DDP where more than one).

    Returns:
        A completed or failed result. A model that raises is a failed result, never an exception.
    """
    started = time.time()
    logged = [objective for objective in objectives if not objective.monitor.startswith("cost/")]
    recorder = FitnessRecorder(
        monitor=logged[0].monitor if logged else None,
        mode=logged[0].mode if logged else "max",
        epoch=fitness_epoch,
        directory=directory,
        save_checkpoint=save_checkpoint,
        required=[objective.monitor for objective in logged],
    )
    meter = CostMeter()
    error: Exception | None = None
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / CONFIG_FILE).write_text(dump_yaml(dict(config)))
        with isolated(config):
            parts = blueprint.build(config, trainer_overrides(config, directory, devices), [meter, recorder])
            parts.trainer.fit(parts.model, datamodule=parts.datamodule)
    except Exception as raised:
        error = raised
    metrics = {name: value for name, value in recorder.point.items() if name != "epoch"}
    known: dict[str, Any] = {
        "metrics": metrics,
        "curve": tuple(recorder.curve),
        "cost": meter.cost,
        "started": started,
        "ended": time.time(),
    }
    if error is not None:
        return Result.failure(error, **known)
    fitness = tuple(_fitness(objective, metrics, meter.cost) for objective in objectives)
    for objective, number in zip(objectives, fitness, strict=True):
        if not math.isfinite(number):
            unusable = ArithmeticError(f"{objective.monitor} is {number} at the {fitness_epoch} epoch")
            return Result.failure(unusable, **known)
    result = Result(COMPLETED, fitness=fitness, **known)
    if (path := recorder.checkpoint_path) is not None:
        result = replace(result, checkpoint=CHECKPOINT_FILE, checkpoint_bytes=path.stat().st_size)
    return result


def trainer_overrides(config: Mapping[str, Any], directory: str, devices: int) -> dict[str, Any]:
    """Trainer arguments of a candidate that are not its own to choose: where it writes, on what it runs, and quietly."""
    asked = config.get("trainer") or {}
    overrides: dict[str, Any] = {
        "default_root_dir": directory,
        "devices": devices,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": True,
    }
    # Lightning's default logger would write next to what the archive already keeps; a logger that was asked for stays.
    if asked.get("logger") in (None, True):
        overrides["logger"] = False
    strategy = asked.get("strategy", "auto")
    if devices > 1 and strategy == "auto":
        overrides["strategy"] = "ddp"
    elif devices == 1 and isinstance(strategy, str) and strategy.startswith("ddp"):
        overrides["strategy"] = "auto"
    return overrides


def read_curve(directory: Path | str) -> list[dict[str, float]]:
    """The learning curve in a candidate's directory, as far as it was written; also while the candidate trains."""
    path = Path(directory) / CURVE_FILE
    if not path.exists():
        return []
    points = []
    for line in path.read_text().splitlines():
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the last line, cut off by a kill or still being written
    return points


@contextmanager
def isolated(config: Mapping[str, Any]) -> Iterator[None]:
    """Seed everything from the config, keep Lightning's chatter away, and leave the process's random state as it was."""
    seed = config.get("seed_everything")
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    environment = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    with isolate_rng(include_cuda=False):
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            if seed is not None and not isinstance(seed, bool):
                seed_everything(seed, workers=True, verbose=False)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            for name, value in environment.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _fitness(objective: Objective, metrics: Mapping[str, float], cost: Mapping[str, float]) -> float:
    if objective.monitor.startswith("cost/"):
        # Peak memory can't be measured everywhere; the search space's check refuses unknown costs beforehand.
        return float(cost.get(objective.monitor.removeprefix("cost/"), math.nan))
    return float(metrics.get(objective.monitor, math.nan))
