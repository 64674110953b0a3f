"""Zero-cost proxies of a candidate, which is built from its config on the CPU and shown one batch, never trained."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_evo._compat.lightning import callbacks_of, set_datamodule
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.functional import flops, gradient_norm, naswot, parameters, synflow
from lightning_evo.genome import COMPLETED, Result
from lightning_evo.predictors.genomes.features import check_proxies
from lightning_evo.training.blueprint import Blueprint, Parts
from lightning_evo.training.candidate import isolated
from lightning_evo.training.overrides import apply_genome
from lightning_evo.utils.compiled import eagerly

__all__ = ["BARE_TRAINER", "UnmeasuredProxies", "measure_candidate"]


@dataclass(frozen=True)
class UnmeasuredProxies:
    """Why zero-cost proxies could not be measured, by the proxy's name."""

    key: ClassVar[str] = "unmeasured"

    reasons: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, str]:
        """As JSON: the reasons."""
        return dict(self.reasons)

    @classmethod
    def from_dict(cls, record: Mapping[str, str]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(record)


def measure_candidate(
    blueprint: Blueprint,
    config: Mapping[str, Any],
    names: Sequence[str],
    batch_size: int = 64,
    data_seed: int = 0,
) -> Result:
    """Measure zero-cost proxies of one candidate in this process.

    Model and data are built as for training, on the CPU in single precision; a network whose structure a callback changes
    before its training (``changes_structure``) is measured as it then is. The batch is the training loader's first, after
    the hooks ``on_before_batch_transfer`` and ``on_after_batch_transfer`` (as outside of training: the data modules that
    ship don't augment it). It is kept for later candidates with the same data. The loss of ``gradient_norm``
    is that of the module's own ``training_step``; what it logs goes nowhere. The others call the module on the first
    tensor of the batch.

    Args:
        blueprint: The LightningCLI that builds it.
        config: The complete config, plain data. Its ``seed_everything`` decides the weights.
        names: Which proxies.
        batch_size: How many samples of the batch are used at most.
        data_seed: Decides the batch.

    Returns:
        A completed result whose metrics are the proxies, NaN where one can't be measured; ``extra`` then
        has :class:`UnmeasuredProxies`. A failed result where the candidate can't be built. Never an exception.
    """
    started = time.time()
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    try:
        names, sections = check_proxies(names), blueprint.module_sections
        # A module that compiles itself would take minutes for a batch that needs milliseconds.
        with warnings.catch_warnings(), eagerly(), isolated(config):
            warnings.simplefilter("ignore")
            parts = blueprint.build(apply_genome(config, {"trainer.logger": False}), BARE_TRAINER)
            shared = {key: value for key, value in config.items() if key not in _NOT_DATA and key not in sections}
            model, batch = _ready(parts, shared, data_seed)
            batch = _first(batch, batch_size)
            for name in names:
                try:
                    values[name] = float(_PROXIES[name](model, batch))
                    if not math.isfinite(values[name]):
                        raise ArithmeticError(f"{name} is {values[name]}")
                except Exception as error:
                    values[name], reasons[name] = math.nan, f"{type(error).__name__}: {error}"
    except Exception as error:
        return Result.failure(error, started=started, ended=time.time())
    extra = {UnmeasuredProxies.key: UnmeasuredProxies(reasons).to_dict()} if reasons else {}
    return Result(COMPLETED, metrics=values, extra=extra, started=started, ended=time.time())


BARE_TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "precision": "32-true",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""The Trainer is made because modules ask it things; it trains nothing and writes nowhere."""


class _Step(nn.Module):
    """The loss of a module's training step, as a module of its own."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Tensor:
        outcome = self.module.training_step(batch, 0)
        loss = outcome.get("loss") if isinstance(outcome, Mapping) else outcome
        if not isinstance(loss, Tensor):
            raise TypeError(f"{type(self.module).__name__}.training_step returned no loss")
        return loss


def _gradient_norm(model: LightningModule, batch: Any) -> float:
    # The step takes the whole batch, labels included.
    return gradient_norm(_Step(model), batch, batch, lambda loss, _: loss)


_PROXIES: dict[str, Callable[[LightningModule, Any], float]] = {
    "naswot": lambda model, batch: naswot(model, _images(batch)),
    "synflow": lambda model, batch: synflow(model, _images(batch)),
    "gradient_norm": _gradient_norm,
    "params": lambda model, batch: parameters(model),
    "flops": lambda model, batch: flops(model, _images(batch)),
}


_NOT_DATA = ("seed_everything", "trainer")
"""Sections without influence on the data, besides those of the module and its optimizers."""


def _ready(parts: Parts, config: Mapping[str, Any], data_seed: int) -> tuple[LightningModule, Any]:
    """The module as it would stand before its first training step, and the batch it would see.

    ``config`` is what decides the batch: candidates for which it is the same see the same one.
    """
    model = parts.model
    model.trainer = parts.trainer
    # There is no loop whose results could be logged to.
    vars(model).update(log=_log_nothing, log_dict=_log_nothing)
    datamodule: LightningDataModule | None = None
    if parts.datamodule is not None:
        key = json.dumps([config, data_seed], sort_keys=True, default=str)
        if key not in _batches:
            while len(_batches) >= _MAX_BATCHES:
                del _batches[next(iter(_batches))]
            _batches[key] = _draw(parts.datamodule, parts.trainer, data_seed)
        datamodule, batch = _batches[key]
        set_datamodule(parts.trainer, datamodule)
    for callback in callbacks_of(parts.trainer):
        if isinstance(callback, SearchCallback) and callback.changes_structure:
            callback.setup(parts.trainer, model, "fit")  # gives the network the structure it begins its training with
    model.configure_model()
    model.setup("fit")
    if datamodule is None:
        batch = _draw_from(model.train_dataloader)
    for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
        # Lightning's rule: the data module's, where it has one of its own.
        owner = datamodule if datamodule is not None and is_overridden(hook, datamodule) else model
        batch = getattr(owner, hook)(batch, 0)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        with torch.no_grad():
            model(_images(batch))  # a lazy layer takes its size from its first input
    return model, batch


_batches: dict[str, tuple[LightningDataModule, Any]] = {}
"""Batches drawn in this process, with the data modules whose hooks they go through; by data section and seed."""

_MAX_BATCHES = 4


def _draw(datamodule: LightningDataModule, trainer: Trainer, seed: int) -> tuple[LightningDataModule, Any]:
    with isolated({"seed_everything": seed}):
        datamodule.trainer = trainer
        datamodule.prepare_data()
        datamodule.setup("fit")
        return datamodule, _draw_from(datamodule.train_dataloader)


def _draw_from(loaders: Callable[[], Any]) -> Any:
    """The first batch of what ``train_dataloader`` gives, which may be several loaders."""
    return next(iter(CombinedLoader(loaders(), "max_size_cycle")))[0]


def _first(batch: Any, count: int) -> Any:
    """The batch's first ``count`` samples."""
    if isinstance(batch, Tensor):
        return batch[:count] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {name: _first(part, count) for name, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_first(part, count) for part in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_first(part, count) for part in batch)
    return batch


def _images(batch: Any) -> Tensor:
    """The first tensor in the batch: what the module's ``forward`` takes."""
    if isinstance(batch, Tensor):
        return batch
    for part in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else ():
        if isinstance(part, (Tensor, Mapping, list, tuple)):
            return _images(part)
    raise TypeError(f"a batch of type {type(batch).__name__} contains no tensor that forward accepts")


def _log_nothing(*_: Any, **__: Any) -> None: ...
