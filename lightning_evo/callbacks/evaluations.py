"""The evaluations of a training: the moments at which metrics are logged, and how many of them there will be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

__all__ = ["EvaluationReader", "MetricNotLogged", "Reading", "evaluates_within_epochs", "expected_evaluations"]


class MetricNotLogged(RuntimeError):
    """A metric that decides the fitness is not among those the module logs."""


@dataclass(frozen=True)
class Reading:
    """What was logged since the reading before.

    Args:
        epoch: The epoch, from 0.
        step: Optimizer steps so far.
        metrics: The metrics, by the names under which they were logged.
        completes: The weights are still those of the reading before, which this one completes.
        progress: The share of the whole training that is done; ``None`` where that isn't known.
        epochs: How many epochs the whole training has, at the pace so far; ``None`` where that isn't known.
    """

    epoch: int
    step: int
    metrics: Mapping[str, float]
    completes: bool
    progress: float | None
    epochs: float | None


class EvaluationReader:
    """Reads what is logged between two moments of a training: ends of epochs, and of validations within an epoch.

    ``Trainer.callback_metrics`` keeps what was logged once. Here a metric is part of a reading only if it was logged since
    the reading before, so that all values of a reading are those of one state of the weights.
    """

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._batch: int | None = None

    def begin(self, metrics: Mapping[str, Any]) -> None:
        """Take what is there as the training begins for what it is: of an earlier part, which this one continues."""
        self._held.update(metrics)

    def after_validation(self, trainer: Trainer, metrics: Mapping[str, Any]) -> Reading | None:
        """Read at the end of a validation; ``None`` where it ends an epoch, whose end has more to read."""
        if trainer.sanity_checking or _ends_epoch(trainer):
            return None
        # Within an epoch, the value of what is logged per step and per epoch is that of a single batch.
        single = [name for name in metrics if _same(metrics.get(f"{name}_step"), metrics[name])]
        return self._read(trainer, {name: value for name, value in metrics.items() if name not in single}, ended=False)

    def after_epoch(self, trainer: Trainer, metrics: Mapping[str, Any]) -> Reading:
        """Read at the end of an epoch."""
        return self._read(trainer, metrics, ended=True)

    def left(self, metrics: Mapping[str, Any], known: Mapping[str, float]) -> dict[str, float]:
        """What was put among the metrics after the last reading, which gave ``known``, by name."""
        # By value: the Trainer has moved them to the CPU meanwhile.
        numbers = _numbers(metrics)
        return {name: value for name, value in numbers.items() if name not in self._held and name not in known}

    def _read(self, trainer: Trainer, metrics: Mapping[str, Any], ended: bool) -> Reading:
        fresh = {name: value for name, value in metrics.items() if not _same(self._held.get(name), value)}
        self._held.update(fresh)  # held on to: no other tensor can then be where one of them is
        batch = trainer.fit_loop.total_batch_idx
        completes, self._batch = batch == self._batch, batch
        share, epochs = _progress(trainer, ended)
        return Reading(trainer.current_epoch, trainer.global_step, _numbers(fresh), completes, share, epochs)


def evaluates_within_epochs(trainer: Trainer) -> bool:
    """Whether validations are scheduled elsewhere than at the ends of epochs."""
    if not trainer.enable_validation:
        return False
    every = trainer.val_check_batch
    return trainer.check_val_every_n_epoch is None or every is None or every < trainer.num_training_batches


def expected_evaluations(progress: Sequence[float | None]) -> int | None:
    """How many evaluations a training will have had at its end, if they go on as regularly as so far.

    Args:
        progress: The share of the training done at each evaluation so far; ``None`` where it wasn't known.

    Returns:
        At least as many as there were; ``None`` while it can't be told.

    >>> expected_evaluations([0.25, 0.5]), expected_evaluations([0.4]), expected_evaluations([0.14, 0.34])
    (4, 2, 5)
    """
    count = len(progress)
    now = progress[-1] if progress else None
    if not now:
        return None
    first, start = next((at, share) for at, share in enumerate(progress, 1) if share is not None)
    each = (now - start) / (count - first) if count > first else now / count
    if each <= 0:
        return None
    return count + math.floor((1 - now) / each + 1e-6)


def _ends_epoch(trainer: Trainer) -> bool:
    loop = trainer.fit_loop
    last = trainer.is_last_batch or loop.batch_idx + 1 >= trainer.num_training_batches
    return last or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps)


def _progress(trainer: Trainer, ended: bool) -> tuple[float | None, float | None]:
    """The share of the training that is done, and the epochs of the whole, where they are known."""
    done, shares = _epochs_done(trainer, ended), []
    if done is not None and trainer.max_epochs is not None and trainer.max_epochs > 0:
        shares.append(done / trainer.max_epochs)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    share = min(1.0, max(shares)) if shares else None
    return share, round(done / share, 6) if done and share else None


def _epochs_done(trainer: Trainer, ended: bool) -> float | None:
    loop, epochs = trainer.fit_loop, trainer.current_epoch
    if ended:
        return epochs + 1
    batches: float = trainer.num_training_batches
    if math.isinf(batches) and epochs:  # a loader without a length: as long as it was so far
        batches = (loop.total_batch_idx - loop.batch_idx) / epochs
    if not math.isfinite(batches) or batches <= 0:
        return None
    return min(epochs + 1, epochs + (loop.batch_idx + 1) / batches)


def _same(held: Any, value: Any) -> bool:
    """Whether a logged value is the one held, not one that was logged later and may equal it."""
    if isinstance(held, Tensor) and isinstance(value, Tensor):
        # Lightning detaches its values anew each time it is asked.
        return held.data_ptr() == value.data_ptr()
    return held is value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Every single number among logged values."""
    tensors = {name: value for name, value in metrics.items() if isinstance(value, Tensor) and value.numel() == 1}
    # One transfer for all: each `.item()` on its own would wait for the device again.
    read = torch.stack([value.detach().double().flatten()[0] for value in tensors.values()]).tolist() if tensors else []
    numbers = dict(zip(tensors, read, strict=True))
    return {
        name: numbers.get(name, value) for name, value in metrics.items() if name in numbers or isinstance(value, float)
    }
