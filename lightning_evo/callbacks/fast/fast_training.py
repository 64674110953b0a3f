"""FastTraining, which sets formats, precision, kernels and data for one device, and reports and archives each choice."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn
from torch.optim import LBFGS

from lightning_evo.callbacks.batches import begin_batch, samples_in
from lightning_evo.callbacks.fast.choices import (
    PrecisionName,
    choose_benchmark,
    choose_channels_last,
    choose_precision,
    choose_tf32,
    follow_formats,
    follows_formats,
    fuse,
    image_weights,
)
from lightning_evo.callbacks.fast.compilation import CompileTrial, compilable, remaining_batches
from lightning_evo.callbacks.fast.data import FastData
from lightning_evo.callbacks.records import Choice, FastTrainingRecord
from lightning_evo.callbacks.search import SearchCallback, StackedModule

__all__ = ["FastTraining"]

Switch = bool | Literal["auto"]
_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
_BEST_SAVING, _COMPILING = 0.3, 30.0


class FastTraining(SearchCallback):
    """Speed up training on one device: a preset for one GPU that also helps on a CPU.

    One line in any Trainer or config: ``trainer.callbacks: [FastTraining]``. Each setting has an argument: ``auto``
    enables it where it helps, ``true`` wherever possible, ``false`` never. Each choice and its reason is logged in one
    line and stored in :attr:`choices`, in a search under ``fast`` in the result's ``extra``. The Trainer's own settings
    are kept: a ``precision`` other than ``32-true``, ``deterministic``, ``benchmark: true``. Global settings (cuDNN's
    and TF32's flags) are restored when ``fit`` ends, even after an error.

    With several devices (DDP) every process makes the same choices. In a :class:`~lightning_evo.ParticleStack`
    precision, TF32, cuDNN and data apply; formats, fused optimizers and compiling are left to the stack. The same holds
    for FSDP, DeepSpeed and similar strategies, which also determine the precision.

    Args:
        channels_last: Channels-last memory format for the weights of convolutional networks. ``auto``: on a CPU, and on
            CUDA with mixed precision.
        precision: ``auto``: on CUDA ``bf16-mixed``, or ``16-mixed`` (float16 and a gradient scaler) on older GPUs;
            otherwise single precision. Or one of ``bf16-mixed``, ``16-mixed``, ``32-true``; ``false`` is ``32-true``.
        fused: One kernel for the whole optimizer step: ``SGD``, ``Adam``, ``AdamW`` and ``Adagrad``, if torch has one
            for the device and type, and neither ``fused`` nor ``foreach`` has been set.
        cudnn_benchmark: Let cuDNN benchmark its algorithms for each new shape.
        tf32: Tensor cores for float32 matrix products (Ampere and later).
        data: Keep sets of tensors on the device if they fit, and index whole batches; other loaders get pinned memory,
            from which batches are copied without blocking, and persistent workers. ``true`` is equivalent to ``auto``.
        compile: ``torch.compile`` the network's parts. ``auto``: if measurements show that it is faster and enough of
            the run remains. ``true``: from the second batch on.
        memory_share: Maximum share of the GPU's free memory for the data, above 0 and at most 1.
        num_workers: Workers for a loader that has none and whose data set isn't made of tensors; ``None``: on CUDA the
            cores per device, at most 4.
        compile_backend: Backend of ``torch.compile``.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> FastTraining(precision=False, compile=False).choices
        {}
        >>> FastTraining(precision="bf16")
        Traceback (most recent call last):
        ValueError: precision: 'bf16' is not one of auto, 32-true, bf16-mixed, 16-mixed, false
    """

    works_in_stacks = True

    def __init__(
        self,
        channels_last: Switch = "auto",
        precision: PrecisionName | Literal[False] = "auto",
        fused: Switch = "auto",
        cudnn_benchmark: Switch = "auto",
        tf32: Switch = "auto",
        data: Switch = "auto",
        compile: Switch = "auto",
        memory_share: float = 0.25,
        num_workers: int | None = None,
        compile_backend: str = "inductor",
    ) -> None:
        switches = {
            "channels_last": channels_last,
            "fused": fused,
            "cudnn_benchmark": cudnn_benchmark,
            "tf32": tf32,
            "data": data,
            "compile": compile,
        }
        for name, switch in switches.items():
            if not isinstance(switch, bool) and switch != "auto":
                raise ValueError(f"{name}: {switch!r} is not one of auto, true, false")
        if precision is not False and precision not in _PRECISIONS:
            raise ValueError(f"precision: {precision!r} is not one of {', '.join(_PRECISIONS)}, false")
        if not 0 < memory_share <= 1:
            raise ValueError(f"memory_share: {memory_share!r} is not above 0 and at most 1")
        if num_workers is not None and num_workers > 1024:
            raise ValueError(f"num_workers: {num_workers!r} is not at most 1024")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers: {num_workers!r} is not at least 0")
        self.channels_last, self.fused, self.cudnn_benchmark, self.tf32 = channels_last, fused, cudnn_benchmark, tf32
        self.precision: PrecisionName = precision or "32-true"
        self.data, self.compile, self.compile_backend = data, compile, compile_backend
        self.memory_share, self.num_workers = memory_share, num_workers
        self.choices: dict[str, Choice] = {}
        """What was decided in the last ``fit``, by the name of the argument."""
        self._undo = ExitStack()
        self._plain: Precision | None = None
        self._trial: CompileTrial | None = None

    def __getstate__(self) -> dict[str, Any]:
        # It is copied and pickled before training, when there is nothing to undo.
        return self.__dict__ | {"_undo": None, "_trial": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_undo": ExitStack()})

    # -- decisions -----------------------------------------------------------------------------------------------------

    def choose(self, name: str, trainer: Trainer, pl_module: LightningModule) -> Choice:
        """Decide about one setting; override it to choose otherwise.

        Args:
            name: ``channels_last``, ``precision``, ``cudnn_benchmark`` or ``tf32``; the rest is decided where it's applied.
            trainer: About to fit.
            pl_module: What it trains.
        """
        device = trainer.strategy.root_device
        if name == "precision":
            return choose_precision(self.precision, trainer, pl_module)
        if name == "tf32":
            return choose_tf32(self.tf32, device)
        if name == "cudnn_benchmark":
            return choose_benchmark(self.cudnn_benchmark, device)
        return choose_channels_last(self.channels_last, trainer, pl_module)

    def should_compile(self, plain: float, compiled: float | None, spent: float, remaining: float) -> bool:
        """Whether compiling pays; override it for another trade.

        Args:
            plain: Seconds per training batch without.
            compiled: Seconds per training batch with it; ``None`` before it was tried.
            spent: Seconds that compiling took.
            remaining: Training batches to come, infinite where nobody knows.

        Returns:
            Whether to try it: if a saving of 30 % would make up for 30 s of compiling. Then, as those are spent, whether to
            keep it: if it saves more than the clock's noise, 2 %.
        """
        if compiled is None:
            return _BEST_SAVING * plain * remaining > _COMPILING
        return compiled < 0.98 * plain

    @property
    def extra(self) -> Mapping[str, Any]:
        """What was decided: ``{"fast": {"precision": {"on": true, "why": "...", "value": "bf16-mixed"}, ...}}``."""
        return {FastTrainingRecord.key: FastTrainingRecord(self.choices).to_dict()}

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._end()
        self.choices, self._plain = {}, None
        # First, as the others follow from it.
        if self._chosen("precision", trainer, pl_module):
            self._use_precision(trainer, self.choices["precision"].value)
        if self._chosen("tf32", trainer, pl_module):
            self._undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")
        if self._chosen("cudnn_benchmark", trainer, pl_module):
            self._undo.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.backends.cudnn.benchmark = True
        # Before DDP makes its buckets, which have the weights' formats.
        if self._chosen("channels_last", trainer, pl_module):
            self._lay_out(pl_module)
        if self.data is False:
            self._report("data", Choice(False, "switched off"))
        else:
            rewriting = FastData(trainer, pl_module, self.memory_share, self.num_workers, _ReportOnce(self))
            self._undo.callback(rewriting.undo)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # What `configure_model` has made is there by now; DDP has wrapped it.
        if trainer.world_size == 1 and not self.choices["channels_last"].on:
            late = self.choose("channels_last", trainer, pl_module)
            if late.on:
                self._report("channels_last", late)
        if trainer.world_size == 1 and self.choices["channels_last"].on:
            self._lay_out(pl_module)
        if any(isinstance(optimizer, LBFGS) for optimizer in trainer.optimizers):
            self._spare_lbfgs(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Optimizers have been restored by now, where a training is resumed.
        self._fuse(trainer, pl_module)
        self._trial = self._new_trial(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        begin_batch(trainer)
        if self._trial is not None:
            self._trial.enter(samples_in(trainer, batch, batch_idx))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._trial is not None:
            choice = self._trial.step(remaining_batches(trainer), trainer.is_last_batch)
            if choice is not None:
                self._report("compile", choice)
                if not choice.on:
                    self._trial = None

    def on_structure_change(self, trainer: Trainer, pl_module: LightningModule, growth: Any) -> None:
        """Do the same for what the network has grown: called by :class:`~lightning_evo.callbacks.StructuralGrowth`."""
        if self.choices.get("channels_last", _OFF).on:
            self._lay_out(pl_module)
        self._fuse(trainer, pl_module)
        if self._trial is not None:
            self._trial.leave()
        self._trial = self._new_trial(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _chosen(self, name: str, trainer: Trainer, pl_module: LightningModule) -> bool:
        choice = self.choose(name, trainer, pl_module)
        self._report(name, choice)
        return choice.on

    def _report(self, name: str, choice: Choice) -> None:
        """Keep and log a choice, if it is another one than before."""
        if self.choices.get(name) != choice:
            self.choices[name] = choice
            value = f" ({choice.value})" if choice.value else ""
            rank_zero_info(f"FastTraining: {name} {'on' if choice.on else 'off'}{value}: {choice.why}")

    def _use_precision(self, trainer: Trainer, value: str) -> None:
        strategy = trainer.strategy
        self._plain = strategy.precision_plugin
        self._undo.callback(setattr, strategy, "precision_plugin", self._plain)
        precision: Any = value
        strategy.precision_plugin = MixedPrecision(precision, strategy.root_device.type)

    def _lay_out(self, pl_module: LightningModule) -> None:
        """Lay weights out with channels last, in place: the parameters stay the same objects."""
        for weight in image_weights(pl_module):
            if not weight.is_contiguous(memory_format=torch.channels_last):
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
                self._undo.callback(_make_contiguous, weight)

    def _spare_lbfgs(self, trainer: Trainer, pl_module: LightningModule) -> None:
        plugin = trainer.precision_plugin
        if self._plain is not None and isinstance(plugin, MixedPrecision) and plugin.scaler is not None:
            self._report("precision", Choice(False, "LBFGS can't be used with a gradient scaler"))
            trainer.strategy.precision_plugin = self._plain
        if self.choices["channels_last"].on:
            self._report(
                "channels_last", Choice(False, "LBFGS views gradients as vectors, which needs them contiguous")
            )
            for weight in image_weights(pl_module):
                _make_contiguous(weight)

    def _fuse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            if follows_formats(trainer, pl_module):
                follow_formats(optimizer)
        if self.fused is False:
            return self._report("fused", Choice(False, "switched off"))
        if not follows_formats(trainer, pl_module):
            return self._report("fused", Choice(False, "the optimizer isn't one plain module's"))
        if any(getattr(layer, "sparse", False) for layer in pl_module.modules()):
            return self._report("fused", Choice(False, "an embedding has sparse gradients"))
        whys = [fuse(optimizer) for optimizer in trainer.optimizers]
        fused = [type(o).__name__ for o, why in zip(trainer.optimizers, whys, strict=True) if not why]
        reasons = "; ".join(why for why in whys if why)
        if fused:
            return self._report("fused", Choice(True, reasons or "one kernel for all weights", ", ".join(fused)))
        return self._report("fused", Choice(False, reasons or "there is no optimizer"))

    def _new_trial(self, trainer: Trainer, pl_module: LightningModule) -> CompileTrial | None:
        parts = compilable(pl_module)
        why = ""
        if self.compile is False:
            why = "switched off"
        elif isinstance(pl_module, StackedModule) or not follows_formats(trainer, pl_module):
            why = "the network isn't one plain module"
        elif not parts:
            why = "no part of the network has weights and isn't compiled yet"
        elif self.compile == "auto" and torch.are_deterministic_algorithms_enabled():
            why = "the choice would depend on timings, and the Trainer is deterministic"
        elif self.compile == "auto" and trainer.world_size > 1:
            why = "each process would decide by its own timings; set compile: true to compile"
        if why:
            self._report("compile", Choice(False, why))
            return None
        self._report("compile", Choice(False, "not timed yet"))
        device = trainer.strategy.root_device
        return CompileTrial(parts, self.compile_backend, self.should_compile, self.compile is True, device)

    def _end(self) -> None:
        if self._trial is not None:
            self._trial.leave()
            self._trial = None
        self._undo.close()


class _ReportOnce:
    """Reports the first choice about the data, as loaders may be made anew in every epoch."""

    def __init__(self, fast: FastTraining) -> None:
        self._fast = fast

    def __call__(self, choice: Choice) -> None:
        if "data" not in self._fast.choices:
            self._fast._report("data", choice)


_OFF = Choice(False, "")


def _make_contiguous(weight: nn.Parameter) -> None:
    weight.data = weight.data.contiguous()
