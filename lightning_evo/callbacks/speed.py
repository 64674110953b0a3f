"""Throughput of a training, its waiting for data, and the utilization of its device."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_evo.callbacks.batches import begin_batch, samples_in
from lightning_evo.callbacks.cost import processes_on_one_model

__all__ = ["SpeedMeter"]

_SAMPLE_EVERY = 1.0
"""Seconds between two readings of a GPU's utilization, which NVML itself averages over up to a second."""


class SpeedMeter(Callback):
    """Measure how fast a ``fit`` trains.

    After training, :attr:`cost` holds, of the training epochs and without validation,

    - ``samples_per_second``: training samples per second, of all processes that train the model together. The first batch
      of a ``fit`` is left out: it warms up, and FLOPs are counted in it;
    - ``waiting``: share of the time between the end of a batch and the beginning of the next, on the host's clock: fetching
      and transferring data, and what Lightning and callbacks do there. Near 0 where data is always ready;
    - ``utilisation``: on CUDA the share of time in which the device computed anything (NVML, which needs the package
      ``nvidia-ml-py``; mean of looks a second apart), on a CPU the process's CPU time over that of its threads
      (``torch.get_num_threads()``), at most 1. What worker processes of a ``DataLoader`` compute isn't counted; what other
      trainings in the same process compute is.

    A number that can't be measured is missing. The device is never synchronized: the host runs ahead of a GPU by a few
    steps at most, which an epoch evens out. Works alone in any ``Trainer(callbacks=[SpeedMeter()])``; after a resume the
    parts add up.

    Example:
        >>> SpeedMeter().cost
        {}
    """

    restarts_in_segments = True

    def __init__(self) -> None:
        self.totals: dict[str, float] = dict.fromkeys(
            ("samples", "seconds", "first_samples", "first_seconds", "waited", "trained", "busy", "observed"), 0.0
        )
        """The sums from which ``cost`` is computed."""
        self._mark: float | None = None
        self._batch_started = 0.0
        self._first = True
        self._busy: _ProcessorBusy | _DeviceBusy | None = None

    @property
    def cost(self) -> dict[str, float]:
        """The measurements so far, without those that can't be made."""
        totals, cost = self.totals, {}
        if totals["seconds"] > 0:
            cost["samples_per_second"] = totals["samples"] / totals["seconds"]
        elif totals["first_seconds"] > 0:
            cost["samples_per_second"] = totals["first_samples"] / totals["first_seconds"]
        if totals["trained"] > 0:
            cost["waiting"] = totals["waited"] / totals["trained"]
        if totals["observed"] > 0:
            cost["utilisation"] = min(1.0, totals["busy"] / totals["observed"])
        return cost

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = True
        self._busy = _busy_meter(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._go_on()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        begin_batch(trainer)
        self._batch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now, totals = time.perf_counter(), self.totals
        if self._mark is None:
            return
        kind = "first_" if self._first else ""
        totals[f"{kind}samples"] += samples_in(trainer, batch, batch_idx) * processes_on_one_model(trainer)
        totals[f"{kind}seconds"] += now - self._mark
        if not self._first:
            totals["waited"] += self._batch_started - self._mark
            totals["trained"] += now - self._mark
        self._first, self._mark = False, now
        if self._busy is not None:
            busy, observed = self._busy.look()
            totals["busy"] += busy
            totals["observed"] += observed

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # In the middle of an epoch training goes on; at its end the next epoch's start comes before any batch.
        if not trainer.sanity_checking:
            self._go_on()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = None

    def on_structure_change(self, trainer: Trainer, pl_module: LightningModule, growth: Any) -> None:
        """Treat the next step as a warm-up."""
        self._first = True

    def state_dict(self) -> dict[str, Any]:
        return {"totals": dict(self.totals)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.totals.update(state_dict["totals"])

    def _go_on(self) -> None:
        self._mark = time.perf_counter()
        if self._busy is not None:
            self._busy.begin()


class _ProcessorBusy:
    """CPU time of this process against that of its threads."""

    def begin(self) -> None:
        """Start an interval."""
        self._last = time.process_time(), time.perf_counter()

    def look(self) -> tuple[float, float]:
        """Busy seconds, and all seconds, since the last call."""
        spent, before = self._last
        self.begin()
        return self._last[0] - spent, (self._last[1] - before) * torch.get_num_threads()


class _DeviceBusy:
    """A GPU's own utilization, read once a second."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._last = time.perf_counter()

    def begin(self) -> None:
        """Do nothing: a reading refers to the moment before it."""

    def look(self) -> tuple[float, float]:
        """The share of time in which it was busy, and 1; (0, 0) less than a second after the last reading."""
        now = time.perf_counter()
        if now - self._last < _SAMPLE_EVERY:
            return 0.0, 0.0
        self._last = now
        return self._read(), 1.0


def _busy_meter(device: torch.device) -> _ProcessorBusy | _DeviceBusy | None:
    """A meter of a device's utilization; ``None`` if it can't be measured."""
    if device.type == "cpu":
        return _ProcessorBusy()
    if device.type != "cuda":
        return None

    def read() -> float:
        return torch.cuda.utilization(device) / 100

    # Without nvidia-ml-py or a driver that answers (in some containers) it raises errors of several kinds.
    with suppress(Exception):
        read()
        return _DeviceBusy(read)
    return None
