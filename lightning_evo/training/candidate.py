"""How does one candidate become a result? Built from its config, trained, measured."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_evo.callbacks import CostMeter, FitnessRecorder
from lightning_evo.callbacks.continuation import Continuation
from lightning_evo.callbacks.fitness import CHECKPOINT_FILE, CURVE_FILE
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.genome import COMPLETED, STOPPED, Objective, Result
from lightning_evo.training.blueprint import Blueprint, dump_yaml

__all__ = ["CONFIG_FILE", "COSTS", "FitnessEpoch", "isolated", "read_curve", "train_candidate", "trainer_overrides"]

CONFIG_FILE = "config.yaml"

COSTS = ("params", "flops", "seconds", "peak_memory", "epochs")
"""What is measured for every candidate; each is an objective under ``cost/<name>``."""

TRUSTED: dict[str, Any] = {"weights_only": False} if "weights_only" in signature(Trainer.fit).parameters else {}
"""How Lightning (from 2.6 on) is told that a checkpoint is the search's own: its hyperparameters may be of any class."""

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
    callbacks: Sequence[Callback] = (),
    context: SearchContext | None = None,
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
        callbacks: The search's own callbacks; the candidate gets copies, beside those of its config.
        context: What callbacks may know of the search, if there is one.

    Returns:
        A completed, stopped or failed result. A model that raises is a failed result, never an exception.
    """
    started = time.time()
    segmented = context is not None and context.segment is not None
    logged = [objective for objective in objectives if not objective.monitor.startswith("cost/")]
    recorder = FitnessRecorder(
        monitor=logged[0].monitor if logged else None,
        mode=logged[0].mode if logged else "max",
        # What goes on from a segment's end is what its fitness must speak of.
        epoch="last" if segmented else fitness_epoch,
        directory=directory,
        save_checkpoint=save_checkpoint and not segmented,
        required=[objective.monitor for objective in logged],
    )
    meter = CostMeter()
    taking_part: list[SearchCallback] = []
    error: Exception | None = None
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / CONFIG_FILE).write_text(dump_yaml(dict(config)))
        with isolated(config):
            # In threads, candidates would otherwise share one callback's state.
            own = [*copy.deepcopy(list(callbacks)), meter, recorder]
            parts = blueprint.build(config, trainer_overrides(config, directory, devices), own)
            taking_part = _join(parts.trainer, context)
            resume_from = next((one.resume_from for one in taking_part if isinstance(one, Continuation)), None)
            parts.trainer.fit(parts.model, datamodule=parts.datamodule, ckpt_path=resume_from, **TRUSTED)
    except Exception as raised:
        error = raised
    metrics = {name: value for name, value in recorder.point.items() if name != "epoch"}
    known: dict[str, Any] = {
        "metrics": metrics,
        "curve": tuple(recorder.curve),
        "cost": meter.cost,
        "started": started,
        "ended": time.time(),
        "extra": {name: value for callback in taking_part for name, value in callback.extra.items()},
    }
    if error is not None:
        return Result.failure(error, **known)
    predicted = next((fitness for one in taking_part if (fitness := one.predicted_fitness) is not None), None)
    fitness = predicted or tuple(_fitness(objective, metrics, meter.cost) for objective in objectives)
    for objective, number in zip(objectives, fitness, strict=True):
        if not math.isfinite(number):
            unusable = ArithmeticError(f"{objective.monitor} is {number} at the {fitness_epoch} epoch")
            return Result.failure(unusable, **known)
    result = Result(COMPLETED if predicted is None else STOPPED, fitness=fitness, **known)
    if (path := Path(directory) / CHECKPOINT_FILE).is_file():
        result = replace(result, checkpoint=CHECKPOINT_FILE, checkpoint_bytes=path.stat().st_size)
    return result


def _join(trainer: Trainer, context: SearchContext | None) -> list[SearchCallback]:
    """Have the callbacks that can take part in the search; one that continues a training where that is asked."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if context is None:
        return [callback for callback in callbacks if isinstance(callback, SearchCallback)]
    if context.segment is not None:
        callbacks.insert(0, Continuation())
    taking_part = [callback for callback in callbacks if isinstance(callback, SearchCallback)]
    for callback in taking_part:
        callback.join_search(context)
    return taking_part


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
