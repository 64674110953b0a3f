"""The cost of a training: parameters, FLOPs per sample and in all, seconds, peak memory and epochs of any ``fit``."""

from __future__ import annotations

import ctypes
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_evo.callbacks.batches import begin_batch, samples_in
from lightning_evo.functional.flop_counter import FlopCounter
from lightning_evo.genome.records import UncountedFlopsRecord

__all__ = ["CostMeter", "processes_on_one_model"]


class CostMeter(Callback):
    """Measure what a ``fit`` costs.

    After training, :attr:`cost` holds

    - ``params``: number of parameters at the end of training, frozen ones included;
    - ``flops``: floating-point operations per training sample, forward and backward, counted in train mode on the first
      training step, and again after the network changes its structure. Counted are matrix products of all kinds,
      convolutions, recurrent layers, attention, distances and Fourier transforms; whatever works element by element
      is 0. :attr:`uncounted` names the rest;
    - ``training_flops``: FLOPs of the whole training: per sample times the training samples seen, summed over the
      structures that the network had; without validation;
    - ``seconds``: wall-clock time from ``on_fit_start`` to the end, validation included, setting up excluded;
    - ``peak_memory``: bytes; on CUDA the most the allocator held, on CPU how far the process grew beyond its size at the
      start (Linux; absent elsewhere);
    - ``epochs``: training epochs finished.

    Works alone in any ``Trainer(callbacks=[CostMeter()])``; after a resume the parts add up. Compiled code runs eagerly in
    the step that is counted. Code that passes by PyTorch's dispatcher, such as a kernel called directly, isn't seen.

    Example:
        >>> meter = CostMeter()
        >>> sorted(meter.cost)
        ['epochs', 'flops', 'params', 'seconds', 'training_flops']
    """

    restarts_in_segments = True

    measures_cost = True

    warns = True
    """Whether to warn of operations that aren't counted; a search says it once for all candidates."""

    def __init__(self) -> None:
        self.cost: dict[str, float] = {"params": 0, "flops": 0, "training_flops": 0, "seconds": 0.0, "epochs": 0}
        self.uncounted: dict[str, int] = {}
        """Operations that ``flops`` leaves out, as no formula is known of them, with their calls in the step counted.

        ``torch.utils.flop_counter.register_flop_formula`` adds one.
        """
        self._earlier = {"seconds": 0.0, "epochs": 0.0}
        self._epochs_at_start = 0
        self._started: float | None = None
        self._memory_at_start: int | None = None
        self._counter: FlopCounter | None = None
        self._counted = False
        self._flops_before = 0.0
        self._samples = 0

    @property
    def extra(self) -> dict[str, Any]:
        """What ``flops`` leaves out, as an entry of ``Result.extra``; empty where everything is counted."""
        return {UncountedFlopsRecord.key: dict(self.uncounted)} if self.uncounted else {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = time.perf_counter()
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._memory_at_start = _reset_peak_resident_memory()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Restored by now, where a training is resumed.
        self._epochs_at_start = _epochs_processed(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        begin_batch(trainer)
        if not self._counted:
            self._counter = FlopCounter()
            self._counter.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        size = samples_in(trainer, batch, batch_idx)
        if self._counter is not None:
            self._stop_counting()
            if self.uncounted and self.warns:
                rank_zero_warn(f"CostMeter: {UncountedFlopsRecord(self.uncounted)}")
            self.cost["flops"] = self._flops / size
        self._samples += size * processes_on_one_model(trainer)
        self.cost["training_flops"] = self._flops_before + self.cost["flops"] * self._samples

    def on_structure_change(self, trainer: Trainer, pl_module: LightningModule, growth: Any) -> None:
        """Count FLOPs again; :class:`~lightning_evo.callbacks.StructuralGrowth` calls it after each of its steps."""
        self._flops_before, self._samples = self.cost["training_flops"], 0
        self._counted = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:  # what is decided at the validation's end may depend on it
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._measure(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # `teardown` is not called after an exception; a counter left on would count (and slow) whatever runs next.
        if self._counter is not None:
            self._stop_counting()
        self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"cost": dict(self.cost), "counted": self._counted, "uncounted": dict(self.uncounted)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cost = dict(state_dict["cost"])
        self._earlier = {name: self.cost[name] for name in ("seconds", "epochs")}
        self._counted = state_dict["counted"]
        # Checkpoints of earlier versions lack them.
        self.uncounted = dict(state_dict.get("uncounted", {}))
        self.cost.setdefault("training_flops", 0)
        self._flops_before, self._samples = self.cost["training_flops"], 0

    def _stop_counting(self) -> None:
        assert self._counter is not None
        self._counter.__exit__(None, None, None)
        self._flops, self.uncounted = self._counter.total, dict(self._counter.uncounted)
        self._counter, self._counted = None, True

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.cost["params"] = sum(parameter.numel() for parameter in _materialised(pl_module))
        if self._started is not None:
            self.cost["seconds"] = self._earlier["seconds"] + time.perf_counter() - self._started
        self.cost["epochs"] = self._earlier["epochs"] + _epochs_processed(trainer) - self._epochs_at_start
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.cost["peak_memory"] = torch.cuda.max_memory_allocated(device)
        elif self._memory_at_start is not None:
            peak = _resident_memory("VmHWM")
            if peak is not None:
                self.cost["peak_memory"] = max(0, peak - self._memory_at_start)


def _epochs_processed(trainer: Trainer) -> int:
    # Within `on_train_epoch_end` the epoch counts as processed, not yet as completed.
    progress: Any = trainer.fit_loop.epoch_progress.current
    return progress.processed


def _materialised(module: LightningModule) -> list[torch.nn.Parameter]:
    """Parameters that have a size, which those of a lazy layer before its first input don't."""
    return [p for p in module.parameters() if not isinstance(p, torch.nn.parameter.UninitializedParameter)]


def processes_on_one_model(trainer: Trainer) -> int:
    """Number of processes that train the same model on a share of the data each: ranks of DDP, not of a swarm."""
    return (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)


def _reset_peak_resident_memory() -> int | None:
    """Reset the process's peak resident size to its current size (Linux); return the latter in bytes."""
    # Memory freed by an earlier training may still belong to the process; this one would seem to need less than it does.
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    # Where the kernel doesn't allow it (some containers) the peak stays that of the process's life, an upper bound.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _resident_memory("VmRSS")


def _resident_memory(key: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
