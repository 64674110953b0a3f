"""What follows a network that grows while it trains? Optimizers, schedules, DDP, compiled code, other callbacks."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import Optimizer

from lightning_evo.functional.growth import Growth, GrowthError
from lightning_evo.functional.optimizer_growth import NewGroup, grow_optimizers, like_group
from lightning_evo.functional.scheduler_growth import extend_scheduler

__all__ = ["Grouping", "follow", "is_compiled", "with_names"]


class Grouping:
    """Which parameters each group of each optimizer holds, by name: growth decides it, so a checkpoint must tell.

    A group that growth has added is known by the one it was copied from, and by its rate.
    """

    def __init__(self) -> None:
        self.added: list[tuple[NewGroup, float]] = []

    def state_dict(self, optimizers: Sequence[Optimizer], module: nn.Module) -> dict[str, Any]:
        """As plain data."""
        names = {id(p): _plain(name) for name, p in module.named_parameters()}
        return {
            "names": [[[names.get(id(p), "") for p in g["params"]] for g in one.param_groups] for one in optimizers],
            "added": [[group.optimizer, group.source, rate] for group, rate in self.added],
        }

    def restore(
        self, state: Mapping[str, Any], optimizers: Sequence[Optimizer], module: nn.Module, schedulers: Sequence[Any]
    ) -> None:
        """Give optimizers that were just made for a rebuilt network the groups that a checkpoint's had.

        Optimizers' states know parameters by their number alone.

        Raises:
            GrowthError: If the optimizers hold other parameters than the checkpoint's did.
        """
        wanted = state["names"]
        self.added = []
        for optimizer, source, rate in state["added"]:
            new = NewGroup(optimizer, source)
            optimizers[optimizer].param_groups.append(like_group(optimizers[optimizer].param_groups, source, rate))
            self._extend(new, rate, optimizers, schedulers)
        names = {id(p): _plain(name) for name, p in module.named_parameters()}
        for optimizer, groups in zip(optimizers, wanted, strict=True):
            held = [p for group in optimizer.param_groups for p in group["params"]]
            known = {names[id(p)]: p for p in held if id(p) in names}
            others = iter([p for p in held if id(p) not in names])
            here, there = sorted(known), sorted(name for group in groups for name in group if name)
            if here != there or len(groups) != len(optimizer.param_groups):
                differing = sorted(set(here) ^ set(there)) or ["the number of parameter groups"]
                raise GrowthError(f"the optimizers are not those of the checkpoint, which differ in {differing[0]}")
            for group, wished in zip(optimizer.param_groups, groups, strict=True):
                group["params"] = [known[name] if name else next(others) for name in wished]
                if "param_names" in group:
                    group["param_names"] = list(wished)

    def grow(
        self, growth: Growth, optimizers: Sequence[Optimizer], module: nn.Module, schedulers: Sequence[Any], rate: float
    ) -> None:
        """Have optimizers and their schedulers follow a step of growth."""
        for new in grow_optimizers(optimizers, growth, module, rate=rate):
            self._extend(new, rate, optimizers, schedulers)

    def _extend(self, new: NewGroup, rate: float, optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> None:
        self.added.append((new, rate))
        for scheduler in schedulers:
            if scheduler.optimizer is optimizers[new.optimizer]:
                extend_scheduler(scheduler, new.source, rate)


def with_names(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The states of a checkpoint's optimizers, their parameters named where growth has changed the order of them.

    Elsewhere that order follows from the network, as a child's optimizer has it too.

    Args:
        checkpoint: Of a training with or without :class:`~lightning_evo.callbacks.StructuralGrowth`.

    Returns:
        Each optimizer's ``state_dict``, whose groups have ``param_names`` where the callback has noted them.
    """
    states: list[dict[str, Any]] = list(checkpoint.get("optimizer_states", []))
    ours = (one for one in checkpoint.get("callbacks", {}).values() if isinstance(one, Mapping) and "records" in one)
    names = next((one["groups"]["names"] for one in ours if one.get("groups")), None)
    if names is None:
        return states
    return [
        {**state, "param_groups": [{**group, "param_names": own} for group, own in zip(held, named, strict=True)]}
        for state, named in zip(states, names, strict=False)  # a checkpoint of weights alone has no states
        for held in [state["param_groups"]]
    ]


def follow(trainer: Trainer, module: LightningModule, growth: Growth, grouping: Grouping, rate: float) -> None:
    """Have everything in a training that holds parameters follow a step of growth, in all processes alike."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    grouping.grow(growth, trainer.optimizers, module, schedulers, rate)
    if is_compiled(module):
        # Compiled code would notice by itself, but from a few changes on it gives up on compiling.
        torch.compiler.reset()
    if isinstance(trainer.strategy, DDPStrategy):
        _wrap_again(trainer.strategy, module)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callable(told := getattr(callback, "on_structure_change", None)):
            told(trainer, module, growth)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module, or one inside it, runs through ``torch.compile``."""
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    return any("_orig_mod" in part._modules or vars(part).get("_compiled_call_impl") for part in module.modules())


def _wrap_again(strategy: DDPStrategy, module: LightningModule) -> None:
    """Wrap the network by DistributedDataParallel anew, which then has the parameters of rank 0 in all ranks."""
    # New batch normalisations are to be synchronised too, where others are.
    strategy.model = module if strategy._layer_sync is None else strategy._layer_sync.apply(module)
    # The old wrapper's hooks on parameters go when it does; it is part of a cycle.
    gc.collect()
    strategy.configure_ddp()
    strategy._pl_static_graph_delay_done = False


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")
