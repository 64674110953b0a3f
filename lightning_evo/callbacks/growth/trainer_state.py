"""A step of growth in a running training: all ranks take it, and whatever holds parameters is updated."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import Optimizer

from lightning_evo._compat.lightning import callbacks_of, is_compiled_by_lightning, synchronize_layers, wrap_again
from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, NothingChanged
from lightning_evo.functional.growth.optimizers import NewGroup, extend_scheduler, grow_optimizers, like_group
from lightning_evo.functional.growth.surgery import Snapshot
from lightning_evo.functional.growth.surgery import count as count_parameters
from lightning_evo.utils import compiled
from lightning_evo.utils.compiled import plain_name

__all__ = ["ParameterGrouping", "is_compiled", "take_in_all_ranks", "update_trainer"]


def take_in_all_ranks(
    trainer: Trainer,
    module: LightningModule,
    operation: str,
    layer: str,
    grow: Callable[[], Growth],
    repeat: Callable[[GrowthStep], Growth],
) -> tuple[Growth | None, str]:
    """Change a layer in every rank; if that is interrupted, restore the network.

    Args:
        trainer: The trainer whose strategy connects the ranks.
        module: The module in training; each rank has its own.
        operation: The operation.
        layer: Name of the layer.
        grow: Takes the step on rank 0.
        repeat: Repeats the step of rank 0 on the others.

    Returns:
        The account of the step, or ``None`` and why it wasn't possible; the same in every rank.

    Raises:
        NothingChanged: If a step was taken, and the network is what it was.
    """
    snapshot = Snapshot(module)
    try:
        return _take_in_all_ranks(trainer, module, operation, layer, grow, repeat)
    except BaseException:  # Ctrl-C while ranks wait for each other: the step is in no record yet
        snapshot.restore()
        raise


def _take_in_all_ranks(
    trainer: Trainer,
    module: LightningModule,
    operation: str,
    layer: str,
    grow: Callable[[], Growth],
    repeat: Callable[[GrowthStep], Growth],
) -> tuple[Growth | None, str]:
    before, count = _structure(module), count_parameters(module)
    growth: Growth | None = None
    report: dict[str, Any] = {}
    if trainer.is_global_zero:
        try:
            growth = grow()
            remarks = {"why_not": growth.why_not, "notes": growth.notes}
            report = {"step": growth.step.to_dict(), "empty": _structure(module) == before, "remarks": remarks}
        except NothingChanged:
            report = {"step": None, "empty": True}
        except GrowthError as error:
            report = {"step": None, "empty": False, "reason": str(error)}
    report = trainer.strategy.broadcast(report)
    if report["empty"]:
        raise NothingChanged(
            f"epoch {trainer.current_epoch}: {operation} {layer}: nothing has changed: {count:,} parameters before and after"
        )
    if report["step"] is None:
        return None, report["reason"]
    return growth or replace(repeat(GrowthStep.from_dict(report["step"])), **report["remarks"]), ""


def _structure(module: nn.Module) -> list[tuple[Any, ...]]:
    """Return everything of which a step must change something."""
    parts: list[tuple[Any, ...]] = [(name, type(part)) for name, part in module.named_modules()]
    sizes: list[tuple[Any, ...]] = [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
    return [*parts, *sizes]


def update_trainer(
    trainer: Trainer, module: LightningModule, growth: Growth, grouping: ParameterGrouping, rate: float
) -> None:
    """Update everything in a training that holds parameters after a step of growth, in all processes alike."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    grouping.grow(growth, trainer.optimizers, module, schedulers, rate)
    if is_compiled(module):
        # Compiled code would notice by itself, but from a few changes on it gives up on compiling.
        torch.compiler.reset()
    if isinstance(trainer.strategy, DDPStrategy):
        _wrap_again(trainer.strategy, module)
    for callback in callbacks_of(trainer):
        if callable(hook := getattr(callback, "on_structure_change", None)):
            hook(trainer, module, growth)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module, or one inside it, runs through ``torch.compile``."""
    if is_compiled_by_lightning(module):
        return True
    return any(map(compiled.is_compiled, module.modules()))


def _wrap_again(strategy: DDPStrategy, module: LightningModule) -> None:
    """Wrap the network by DistributedDataParallel anew, which then has the parameters of rank 0 in all ranks."""
    # New batch normalizations have to be synchronized too, if others are.
    strategy.model = synchronize_layers(strategy, module)
    # The old wrapper's hooks on parameters are removed with it, and it is part of a reference cycle.
    gc.collect()
    wrap_again(strategy)


class ParameterGrouping:
    """The names of the parameters in each group of each optimizer, which checkpoints must hold as growth changes them.

    A group that growth has added is identified by the one it was copied from, and by its rate.
    """

    def __init__(self) -> None:
        self.added: list[tuple[NewGroup, float]] = []

    def state_dict(self, optimizers: Sequence[Optimizer], module: nn.Module) -> dict[str, Any]:
        """Return it as plain data, for checkpoints."""
        names = {id(p): plain_name(name) for name, p in module.named_parameters()}
        return {
            "names": [[[names.get(id(p), "") for p in g["params"]] for g in one.param_groups] for one in optimizers],
            "added": [[group.optimizer, group.source, rate] for group, rate in self.added],
        }

    def restore(
        self, state: Mapping[str, Any], optimizers: Sequence[Optimizer], module: nn.Module, schedulers: Sequence[Any]
    ) -> None:
        """Give optimizers that were just made for a rebuilt network the groups of a checkpoint.

        States of optimizers identify parameters by their number alone.

        Raises:
            GrowthError: If the optimizers hold other parameters than the checkpoint's did.
        """
        wanted = state["names"]
        self.added = []
        for optimizer, source, rate in state["added"]:
            new = NewGroup(optimizer, source)
            optimizers[optimizer].param_groups.append(like_group(optimizers[optimizer].param_groups, source, rate))
            self._extend(new, rate, optimizers, schedulers)
        names = {id(p): plain_name(name) for name, p in module.named_parameters()}
        for optimizer, groups in zip(optimizers, wanted, strict=True):
            held = [p for group in optimizer.param_groups for p in group["params"]]
            known = {names[id(p)]: p for p in held if id(p) in names}
            others = iter([p for p in held if id(p) not in names])
            here, there = sorted(known), sorted(name for group in groups for name in group if name)
            if here != there or len(groups) != len(optimizer.param_groups):
                differing = sorted(set(here) ^ set(there)) or ["the number of parameter groups"]
                raise GrowthError(f"the optimizers differ from the checkpoint's in {differing[0]}")
            for group, wanted_names in zip(optimizer.param_groups, groups, strict=True):
                group["params"] = [known[name] if name else next(others) for name in wanted_names]
                if "param_names" in group:
                    group["param_names"] = list(wanted_names)

    def grow(
        self, growth: Growth, optimizers: Sequence[Optimizer], module: nn.Module, schedulers: Sequence[Any], rate: float
    ) -> None:
        """Update optimizers and their schedulers after a step of growth."""
        for new in grow_optimizers(optimizers, growth, module, rate=rate):
            self._extend(new, rate, optimizers, schedulers)

    def _extend(self, new: NewGroup, rate: float, optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> None:
        self.added.append((new, rate))
        for scheduler in schedulers:
            if scheduler.optimizer is optimizers[new.optimizer]:
                extend_scheduler(scheduler, new.source, rate)
