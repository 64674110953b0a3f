"""The learning curve of a training, epoch by epoch, and the checkpoint of the epoch that decides the fitness."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn

from lightning_evo.genome.records import MAX_METRICS, MAX_NAME
from lightning_evo.utils.text import bounded, storable

__all__ = ["CHECKPOINT_FILE", "CURVE_FILE", "FitnessRecorder", "MetricNotLogged", "check_logged", "read_metrics"]

CHECKPOINT_FILE = "checkpoint.ckpt"
CURVE_FILE = "curve.jsonl"


class MetricNotLogged(RuntimeError):
    """A metric that decides the fitness is not among those the module logs."""


class FitnessRecorder(Checkpoint):
    """Record every logged metric per epoch, and keep the checkpoint of the best (or last) epoch.

    Metrics are read once per epoch, after validation and after every other callback, so that the device isn't
    synchronized in every step. The curve is also written to ``<directory>/curve.jsonl``, one line per epoch, and can be
    followed while the model trains.

    Override :meth:`is_better` to change which epoch is selected.

    At most 2,000 metrics are recorded: those required, then the first that were logged; :attr:`left_out` counts the others.
    Names of more than 500 characters are shortened, and what isn't Unicode in them is replaced by readable escapes.

    Args:
        monitor: The metric that selects the epoch. ``None``: the last epoch.
        mode: ``max`` or ``min``.
        epoch: ``best``: the epoch with the best ``monitor``; ``last``: the last epoch.
        directory: Output directory for the curve and ``checkpoint.ckpt``; ``None`` (default): the trainer's root
            directory.
        save_checkpoint: Keep a Lightning checkpoint of the selected epoch (default).
        required: Metrics that must have been logged by the end of the first epoch with validation.

    Raises:
        MetricNotLogged: During training, if a required metric is missing; the message lists the logged ones.

    Example:
        >>> recorder = FitnessRecorder("val_acc", mode="max")
        >>> recorder.is_better(0.9, than=0.8), recorder.is_better(float("nan"), than=0.8)
        (True, False)
    """

    restarts_in_segments = True

    def __init__(
        self,
        monitor: str | None,
        mode: Literal["max", "min"] = "max",
        epoch: Literal["best", "last"] = "best",
        directory: str | None = None,
        save_checkpoint: bool = True,
        required: Sequence[str] = (),
    ) -> None:
        self.monitor, self.mode, self.epoch = monitor, mode, epoch
        self.directory = directory
        self.save_checkpoint = save_checkpoint
        self.required = tuple(required)
        self.curve: list[dict[str, float]] = []
        self.best_index: int | None = None
        self.left_out = 0

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` of the monitored metric is better than an earlier one; NaN never is."""
        if math.isnan(value):
            return False
        return math.isnan(than) or (value > than if self.mode == "max" else value < than)

    @property
    def point(self) -> dict[str, float]:
        """The metrics of the selected epoch; empty before the first epoch has ended."""
        if not self.curve:
            return {}
        if self.epoch == "last" or self.best_index is None:
            return self.curve[-1]
        return self.curve[self.best_index]

    @property
    def checkpoint_path(self) -> Path | None:
        """The checkpoint of the selected epoch, once there is one."""
        path = self._directory / CHECKPOINT_FILE if self.directory is not None else None
        return path if path is not None and path.is_file() else None

    # What modules ask of `trainer.checkpoint_callback`, which in a fit without one of the user's is Lightning's own.

    @property
    def best_model_path(self) -> str:
        """:attr:`checkpoint_path` as text; empty while there is none."""
        return str(self.checkpoint_path or "")

    @property
    def last_model_path(self) -> str:
        """The same: there is one checkpoint."""
        return self.best_model_path

    @property
    def best_model_score(self) -> torch.Tensor | None:
        """The monitored metric at the selected epoch, if it was logged."""
        value = None if self.monitor is None else self.point.get(self.monitor)
        return None if value is None else torch.tensor(value)

    @property
    def dirpath(self) -> str | None:
        """The directory of the checkpoint."""
        return self.directory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.directory is None:
            self.directory = trainer.default_root_dir
        if trainer.is_global_zero and stage == "fit":
            self._directory.mkdir(parents=True, exist_ok=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Written by Lightning under a temporary name and renamed; a collective under DDP, so on every rank.
        self.record(trainer, read_metrics(trainer), trainer.save_checkpoint)

    def record(self, trainer: Trainer, metrics: Mapping[str, float], save: Callable[[Path], None]) -> None:
        """Record the metrics of the epoch that ends, and save its checkpoint if it is now the selected one.

        Args:
            trainer: The Trainer.
            metrics: The metrics by the names under which they were logged.
            save: Writes a checkpoint to a path.
        """
        point = {"epoch": trainer.current_epoch, **self._kept(metrics)}
        self.curve.append(point)
        check_logged(trainer, point, self.required)
        if trainer.is_global_zero:
            with (self._directory / CURVE_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
        # A metric logged without `sync_dist` differs between ranks; saving is a collective, so rank 0 decides for all.
        if trainer.strategy.broadcast(self._counts(point)):
            self.best_index = len(self.curve) - 1
            if self.save_checkpoint:
                save(self._directory / CHECKPOINT_FILE)

    def state_dict(self) -> dict[str, Any]:
        return {"curve": [dict(point) for point in self.curve], "best_index": self.best_index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve = [dict(point) for point in state_dict["curve"]]
        self.best_index = state_dict["best_index"]

    @property
    def _directory(self) -> Path:
        assert self.directory is not None
        return Path(self.directory)

    def _kept(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The metrics to record, under names that can be stored."""
        if len(metrics) > MAX_METRICS:
            if not self.left_out:
                rank_zero_warn(f"{len(metrics)} metrics are logged; the first {MAX_METRICS} are recorded")
            first = [*dict.fromkeys((*(name for name in self.required if name in metrics), *metrics))][:MAX_METRICS]
            self.left_out = max(self.left_out, len(metrics) - MAX_METRICS)
            metrics = {name: metrics[name] for name in first}
        if all(name.isascii() and len(name) <= MAX_NAME and "\0" not in name for name in metrics):
            return metrics
        return {storable(bounded(name, MAX_NAME)): value for name, value in metrics.items()}

    def _counts(self, point: dict[str, float]) -> bool:
        """Whether the epoch just recorded is now the selected one."""
        if self.monitor is None or self.epoch == "last" or self.monitor not in point or self.best_index is None:
            return True
        best = self.curve[self.best_index].get(self.monitor, math.nan)
        return self.is_better(point[self.monitor], than=best)


def read_metrics(trainer: Trainer) -> dict[str, float]:
    """Every single number among the metrics logged so far, by name."""
    metrics = {k: v for k, v in trainer.callback_metrics.items() if isinstance(v, torch.Tensor) and v.numel() == 1}
    # One transfer for all metrics: each `.item()` on its own would wait for the device again.
    numbers = torch.stack([v.detach().double().flatten()[0] for v in metrics.values()]).tolist() if metrics else []
    return dict(zip(metrics, numbers, strict=True))


def check_logged(trainer: Trainer, metrics: Mapping[str, float], required: Sequence[str]) -> None:
    """Raise :class:`MetricNotLogged` if a required metric isn't there at the end of an epoch that validates."""
    every = trainer.check_val_every_n_epoch
    if trainer.enable_validation and every is not None and (trainer.current_epoch + 1) % every:
        return
    missing = [name for name in required if name not in metrics]
    if missing:
        logged = ", ".join(sorted(set(metrics) - {"epoch"})) or "nothing"
        raise MetricNotLogged(f"{', '.join(missing)}: never logged; the module logs {logged}")
