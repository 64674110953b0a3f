"""One candidate from config to result: built, trained, measured."""

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
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo._compat.lightning import callbacks_of
from lightning_evo.archive.seals import CONFIG_FILE, sealed
from lightning_evo.callbacks import CostMeter, FitnessRecorder
from lightning_evo.callbacks.fitness import CHECKPOINT_FILE, CURVE_FILE, MetricNotLogged
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.callbacks.speed import SpeedMeter
from lightning_evo.genome import COMPLETED, STOPPED, Objective, Result
from lightning_evo.genome.records import POSITION, LeftOutRecord
from lightning_evo.training.adaptation import Adaptation
from lightning_evo.training.blueprint import Blueprint, dump_yaml
from lightning_evo.training.loggers import SilentLogger, ended_runs, log_genes, name_loggers
from lightning_evo.training.preparation import prepare_in_turn
from lightning_evo.training.request import TrainingRequest
from lightning_evo.training.working_directory import anchored, launch_directory, working_in
from lightning_evo.utils.checkpoints import DamagedCheckpoint, check_whole
from lightning_evo.utils.files import open_unlinked
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "CONFIG_FILE",
    "COSTS",
    "conclude",
    "copies_of",
    "draw_weights",
    "isolated",
    "join",
    "loading",
    "read_curve",
    "recorder_of",
    "train_candidate",
    "trainer_overrides",
]

COSTS = (
    "params",
    "flops",
    "training_flops",
    "seconds",
    "peak_memory",
    "epochs",
    "samples_per_second",
    "waiting",
    "utilisation",
)
"""The costs measured for every candidate; each is an objective under ``cost/<name>``."""

_TAKES_WEIGHTS_ONLY = "weights_only" in signature(Trainer.fit).parameters
"""Whether ``Trainer.fit`` takes ``weights_only`` (from 2.6 on). Earlier versions unpickle every checkpoint, so none
is passed to them that mustn't be unpickled."""


def train_candidate(blueprint: Blueprint, config: Mapping[str, Any], request: TrainingRequest) -> Result:
    """Train one candidate in this process and return its result.

    Its directory then holds ``config.yaml`` (which a stock LightningCLI opens), ``curve.jsonl`` and ``checkpoint.ckpt``.

    Args:
        blueprint: The LightningCLI that builds it.
        config: The complete config, plain data. Its ``seed_everything`` decides everything random.
        request: How to train and measure it.

    Returns:
        A completed, stopped or failed result. A model that raises is a failed result, never an exception.
    """
    started = time.time()
    directory, context = request.directory, request.context
    recorder = recorder_of(request)
    meter, speed = CostMeter(), SpeedMeter()
    meter.warns = False
    adaptation = Adaptation(directory, config)
    taking_part: list[SearchCallback] = []
    error: Exception | None = None
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / CONFIG_FILE).write_text(dump_yaml(dict(config)), encoding="utf-8")
        base = launch_directory(request)
        with isolated(config), working_in(request.working_directory), ended_runs() as loggers:
            first, given = copies_of(request.callbacks)
            named = name_loggers(config, directory)
            if request.chdir:
                named = anchored(blueprint, named, base)
            own = [*given, meter, speed, recorder]
            genes = {} if context is None else context.genes
            overrides = trainer_overrides(config, directory, request.devices)
            parts = blueprint.build(named, overrides, own, adaptation, genes)
            loggers += parts.trainer.loggers
            prepare_in_turn(directory, parts.model, parts.datamodule)
            taking_part = join(parts.trainer, context, first)
            log_genes(parts.trainer.loggers, genes)
            if request.data_seed is not None:
                draw_weights(parts.model)
                seed_everything(request.data_seed, workers=True, verbose=False)
            resume_from = next((path for one in taking_part if (path := one.resume_from) is not None), None)
            parent = None if context is None else context.parent
            options = loading(parent is not None and parent.trusted)
            parts.fit(ckpt_path=resume_from, **options)
    except Exception as raised:
        error = _reason(raised, context)
    extras = [meter.extra, adaptation.extra, *(callback.extra for callback in taking_part)]
    extra = {name: value for each in extras for name, value in each.items()}
    predicted = next((fitness for one in taking_part if (fitness := one.predicted_fitness) is not None), None)
    return conclude(recorder, meter.cost | speed.cost, request, started, extra, error=error, predicted=predicted)


def _reason(raised: Exception, context: SearchContext | None) -> Exception:
    """Why a training failed: its parent's checkpoint is damaged, or else what was raised."""
    parent = None if context is None else context.parent
    if parent is not None and parent.checkpoint:
        try:
            check_whole(parent.checkpoint, parent.digest)
        except DamagedCheckpoint as damaged:
            return damaged
        except OSError:
            pass
    return raised


def loading(trusted: bool) -> dict[str, Any]:
    """Arguments of ``fit`` and ``test`` that say whether their checkpoint may hold more than tensors and plain data."""
    return {"weights_only": not trusted} if _TAKES_WEIGHTS_ONLY else {}


def draw_weights(model: LightningModule) -> None:
    """Have a model that makes its layers only in ``configure_model`` make them now, from the present random state."""
    if is_overridden("configure_model", model):
        model.configure_model()


def recorder_of(request: TrainingRequest) -> FitnessRecorder:
    """What records a candidate's training: its first objective that is a logged metric decides which evaluation counts."""
    logged = [objective for objective in request.objectives if objective.logged]
    return FitnessRecorder(
        monitor=logged[0].monitor if logged else None,
        mode=logged[0].mode if logged else "max",
        # A segment's fitness is that of the state which others continue, and which is saved as it ends.
        epoch="last" if request.is_segment else request.fitness_epoch,
        directory=request.directory,
        save_checkpoint=request.save_checkpoint and not request.is_segment,
        required=[objective.monitor for objective in logged],
    )


def conclude(
    recorder: FitnessRecorder,
    cost: Mapping[str, float],
    request: TrainingRequest,
    started: float,
    extra: Mapping[str, Any],
    *,
    error: Exception | None = None,
    predicted: tuple[float, ...] | None = None,
) -> Result:
    """The result of a training that has ended.

    Args:
        recorder: What was logged, and where the checkpoint is.
        cost: What it cost.
        request: What was asked for.
        started: When the training began, in seconds since the epoch.
        extra: What callbacks want remembered.
        error: What ended the training, where it failed.
        predicted: The fitness, where the training was stopped early.
    """
    metrics = {name: value for name, value in recorder.point.items() if name not in POSITION}
    left_out = LeftOutRecord(metrics=recorder.left_out, curve=recorder.left_out)
    known: dict[str, Any] = {
        "metrics": metrics,
        "curve": tuple(recorder.curve),
        "cost": cost,
        "started": started,
        "ended": time.time(),
        "extra": dict(extra) | ({LeftOutRecord.key: left_out.to_dict()} if left_out.anything else {}),
    }
    if error is not None:
        return Result.failure(error, **known)
    if request.is_segment and recorder.required and not recorder.ends_with_evaluation:
        return Result.failure(MetricNotLogged(_not_at_the_end(recorder)), **known)
    fitness = predicted or tuple(_fitness(objective, metrics, cost) for objective in request.objectives)
    for objective, number in zip(request.objectives, fitness, strict=True):
        if not math.isfinite(number):
            unusable = ArithmeticError(f"{objective.monitor} is {number} at the {request.fitness_epoch} evaluation")
            return Result.failure(unusable, **known)
    result = Result(COMPLETED if predicted is None else STOPPED, fitness=fitness, **known)
    if (path := recorder.checkpoint_path) is not None:
        result = replace(result, checkpoint=CHECKPOINT_FILE, checkpoint_bytes=path.stat().st_size)
        result = sealed(result, path)
    return result


def copies_of(callbacks: Sequence[Callback]) -> tuple[list[Callback], list[Callback]]:
    """Copies of a search's callbacks: those that come before all others of a Trainer, and the rest."""
    # In threads, candidates would otherwise share one callback's state.
    copies = copy.deepcopy(list(callbacks))
    first: list[Callback] = [
        callback for callback in copies if isinstance(callback, SearchCallback) and callback.comes_first
    ]
    return first, [callback for callback in copies if callback not in first]


def join(trainer: Trainer, context: SearchContext | None, first: Sequence[Callback] = ()) -> list[SearchCallback]:
    """Have the callbacks that can take part in the search, and put ``first`` before all others."""
    callbacks: list[Callback] = callbacks_of(trainer)
    callbacks[:0] = first
    if context is None:
        return [callback for callback in callbacks if isinstance(callback, SearchCallback)]
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
    if asked.get("logger") is None:
        overrides["logger"] = SilentLogger(directory)
    strategy = asked.get("strategy", "auto")
    if devices > 1 and strategy == "auto":
        overrides["strategy"] = "ddp"
    elif devices == 1 and isinstance(strategy, str) and strategy.startswith(("ddp", "swarm")):
        overrides["strategy"] = "auto"
    return overrides


def read_curve(directory: Path | str) -> list[dict[str, float]]:
    """The learning curve in a candidate's directory, as far as it was written; also while the candidate trains."""
    try:
        with open_unlinked(Path(directory) / CURVE_FILE, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return []
    points: list[dict[str, float]] = []
    for line in lines:
        try:
            point = json.loads(line)
        except (ValueError, RecursionError):
            break  # the last line, cut off by a kill or still being written
        if not isinstance(point, dict) or not all(isinstance(value, int | float) for value in point.values()):
            break  # damaged
        points.append(point)
    return points


@contextmanager
def isolated(config: Mapping[str, Any]) -> Iterator[None]:
    """Seed everything from the config, keep Lightning's chatter away, and leave the process's random state as it was."""
    seed = config.get("seed_everything")
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    environment = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    with isolated_random_state(devices=()):
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


def _not_at_the_end(recorder: FitnessRecorder) -> str:
    """What a part of a training lacks for others to continue it: its fitness must be that of the state it ends with."""
    return (
        f"{', '.join(recorder.required)}: not logged at the end of epoch {recorder.curve[-1]['epoch']}, where others "
        "continue this training: have validation end that epoch (evolution.algorithm.init_args.interval: a multiple of "
        "trainer.check_val_every_n_epoch; trainer.val_check_interval: 1.0, or a fraction such as 0.5)"
    )


def _fitness(objective: Objective, metrics: Mapping[str, float], cost: Mapping[str, float]) -> float:
    if not objective.logged:
        # Not everything can be measured everywhere; the search space's check refuses unknown costs beforehand.
        return float(cost.get(objective.monitor.removeprefix("cost/"), math.nan))
    return float(metrics.get(objective.monitor, math.nan))
