"""The learning curve of a training, and the checkpoint of the evaluation that decides the fitness."""

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

from lightning_evo.callbacks.evaluations import EvaluationReader, MetricNotLogged, evaluates_within_epochs
from lightning_evo.genome.records import MAX_METRICS, MAX_NAME, POSITION
from lightning_evo.utils.text import bounded, storable

__all__ = ["CHECKPOINT_FILE", "CURVE_FILE", "FitnessRecorder", "MetricNotLogged"]

CHECKPOINT_FILE = "checkpoint.ckpt"
CURVE_FILE = "curve.jsonl"


class FitnessRecorder(Checkpoint):
    """Record every logged metric, and keep the checkpoint of the best (or last) evaluation.

    Metrics are read at the end of every epoch and of every validation within one, after all other callbacks, so that the
    device isn't synchronized in every step. A moment at which ``monitor`` and whatever else is ``required`` were logged is
    an *evaluation*: only evaluations count, and the checkpoint has the weights of just that moment. What was logged earlier
    isn't read again.

    The curve is also written to ``<directory>/curve.jsonl``, one line per reading, and can be followed while the model
    trains. A point has the ``epoch`` (from 0), and the ``step`` (optimizer steps so far) where validations are scheduled
    within epochs.

    Override :meth:`is_better` to change which evaluation is selected.

    At most 2,000 metrics are recorded: those required, then the first that were logged; :attr:`left_out` counts the others.
    Names of more than 500 characters are shortened, and what isn't Unicode in them is replaced by readable escapes.

    Args:
        monitor: The metric that selects the evaluation. ``None``: the last one.
        mode: ``max`` or ``min``.
        epoch: ``best``: the evaluation with the best ``monitor``; ``last``: the last one.
        directory: Output directory for the curve and ``checkpoint.ckpt``; ``None`` (default): the trainer's root
            directory.
        save_checkpoint: Keep a Lightning checkpoint of the selected evaluation (default).
        required: Other metrics that an evaluation must have.

    Raises:
        MetricNotLogged: When training has ended without an evaluation; the message says why, and lists what was logged.

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
        self.required = tuple(dict.fromkeys((*([] if monitor is None else [monitor]), *required)))
        self.curve: list[dict[str, float]] = []
        self.best_index: int | None = None
        self.left_out = 0
        self._reader = EvaluationReader()
        self._logged: dict[str, None] = {}
        self._validated = False
        self._last_line = 0

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` of the monitored metric is better than an earlier one; NaN never is."""
        if math.isnan(value):
            return False
        return math.isnan(than) or (value > than if self.mode == "max" else value < than)

    @property
    def point(self) -> dict[str, float]:
        """The metrics of the selected evaluation; of the last reading where there was no evaluation yet."""
        if self.best_index is None:
            return self.curve[-1] if self.curve else {}
        return self.curve[self.best_index]

    @property
    def ends_with_evaluation(self) -> bool:
        """Whether the selected evaluation is the last moment of the training so far."""
        return self.best_index is not None and self.best_index == len(self.curve) - 1

    @property
    def checkpoint_path(self) -> Path | None:
        """The checkpoint of the selected evaluation, once there is one."""
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader.begin(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.read(trainer, trainer.callback_metrics, trainer.save_checkpoint, after_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Written by Lightning under a temporary name and renamed; a collective under DDP, so on every rank.
        self.read(trainer, trainer.callback_metrics, trainer.save_checkpoint, after_epoch=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.end(trainer, trainer.callback_metrics, trainer.save_checkpoint)

    def read(
        self, trainer: Trainer, metrics: Mapping[str, Any], save: Callable[[Path], None], *, after_epoch: bool
    ) -> None:
        """Record what was logged since the last call, and save the checkpoint if this is now the selected evaluation.

        Args:
            trainer: The Trainer.
            metrics: The metrics by the names under which they were logged, also those of earlier.
            save: Writes a checkpoint to a path.
            after_epoch: Whether an epoch ends, otherwise a validation.
        """
        self._validated |= not after_epoch and not trainer.sanity_checking
        reader = self._reader
        reading = reader.after_epoch(trainer, metrics) if after_epoch else reader.after_validation(trainer, metrics)
        if reading is None:
            return
        place = {"epoch": reading.epoch}
        if evaluates_within_epochs(trainer):
            place["step"] = reading.step
        self._record(trainer, place, reading.metrics, save, completes=reading.completes)

    def end(self, trainer: Trainer, metrics: Mapping[str, Any], save: Callable[[Path], None]) -> None:
        """Record what was left among the metrics when training had ended.

        Raises:
            MetricNotLogged: If there was no evaluation at all.
        """
        # What one process has put there by hand is nothing that all have.
        left = self._reader.left(metrics, self.curve[-1]) if self.curve and trainer.world_size == 1 else {}
        if left:
            self._record(trainer, {}, left, save, completes=True)
        if self.required and self.best_index is None:
            raise MetricNotLogged(self._why_not(trainer))

    def _record(
        self,
        trainer: Trainer,
        place: Mapping[str, float],
        metrics: Mapping[str, float],
        save: Callable[[Path], None],
        completes: bool,
    ) -> None:
        self._logged.update(dict.fromkeys(metrics))
        completes = completes and bool(self.curve)
        if completes:
            self.curve[-1] |= {**place, **self._kept(metrics)}
        else:
            self.curve.append({**place, **self._kept(metrics)})
        if trainer.is_global_zero:
            self._write(self.curve[-1], replace=completes)
        if completes and self.ends_with_evaluation:
            return  # whose checkpoint has these weights
        # A metric logged without `sync_dist` differs between ranks; saving is a collective, so rank 0 decides for all.
        if trainer.strategy.broadcast(self._counts(self.curve[-1])):
            self.best_index = len(self.curve) - 1
            if self.save_checkpoint:
                save(self._directory / CHECKPOINT_FILE)

    def _write(self, point: Mapping[str, float], replace: bool) -> None:
        with (self._directory / CURVE_FILE).open("ab") as file:
            if replace:
                file.truncate(self._last_line)
            self._last_line = file.seek(0, 2)
            file.write(json.dumps(point).encode() + b"\n")

    def state_dict(self) -> dict[str, Any]:
        return {"curve": [dict(point) for point in self.curve], "best_index": self.best_index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve = [dict(point) for point in state_dict["curve"]]
        self.best_index = state_dict["best_index"]
        self._logged.update(dict.fromkeys(name for point in self.curve for name in point if name not in POSITION))

    @property
    def _directory(self) -> Path:
        assert self.directory is not None
        return Path(self.directory)

    def _kept(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """The metrics to record, under names that can be stored; ``epoch`` and ``step`` are the point's own."""
        if not POSITION.isdisjoint(metrics):
            metrics = {name: value for name, value in metrics.items() if name not in POSITION}
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
        """Whether the last point is an evaluation, and now the selected one."""
        if not all(name in point for name in self.required):
            return False
        if self.monitor is None or self.epoch == "last" or self.best_index is None:
            return True
        return self.is_better(point[self.monitor], than=self.curve[self.best_index].get(self.monitor, math.nan))

    def _why_not(self, trainer: Trainer) -> str:
        """Why there was no evaluation."""
        missing = [name for name in self.required if name not in self._logged]
        logged = ", ".join(sorted(self._logged)) or "nothing"
        if not missing:
            return (
                f"{', '.join(self.required)}: never logged together, for the same weights: each value of a fitness must be "
                "there when another one is; have validation end an epoch (trainer.val_check_interval: 1.0), or log them in "
                "one place"
            )
        said = f"{', '.join(missing)}: never logged; the module logs {logged}"
        every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
        if trainer.enable_validation and not self._validated:
            return (
                f"{said}. No validation ran in {trainer.current_epoch} epochs and {trainer.global_step} steps: lower "
                f"trainer.check_val_every_n_epoch ({every}) or trainer.val_check_interval ({interval}), or train longer"
            )
        if trainer.limit_val_batches == 0:
            return f"{said}. Nothing is validated: trainer.limit_val_batches is 0"
        return said
