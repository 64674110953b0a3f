"""Which settings has a network's growth? Their choices and ranges; each error names the argument and what is accepted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.optim import Optimizer

from lightning_evo._compat.lightning import callbacks_of, is_compiled_by_lightning, synchronize_layers, wrap_again
from lightning_evo.callbacks.growth.triggers import AllOf, AnyOf, GrowthTrigger, Not
from lightning_evo.callbacks.search import StackedModule
from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, NothingChanged, Operation, Site
from lightning_evo.functional.growth.optimizers import (
    NewGroup,
    extend_scheduler,
    grow_optimizers,
    like_group,
    why_not_extendable,
    why_not_growable,
)
from lightning_evo.functional.growth.surgery import Snapshot
from lightning_evo.utils import compiled
from lightning_evo.utils.compiled import plain_name

__all__ = [
    "Entropy",
    "Mode",
    "ParameterGrouping",
    "check_above_zero",
    "check_choices",
    "check_layer_names",
    "check_layers",
    "check_logged",
    "check_monitored",
    "check_operations",
    "check_room",
    "check_training",
    "check_whole",
    "count_parameters",
    "follow",
    "in_all_ranks",
    "is_compiled",
    "triggers_in",
    "with_names",
]


Entropy = Literal["covariance", "histogram"]
Mode = Literal["max", "min"]


def check_choices(**choices: tuple[Any, Any]) -> None:
    """Refuse a value that is none of a ``Literal``."""
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise GrowthError(f"{name}: {value!r} is none of {', '.join(get_args(kind))}")


def check_operations(operations: Sequence[str]) -> None:
    """Refuse no operation, and unknown ones."""
    if isinstance(operations, str) or not operations:
        raise GrowthError(
            f"operations: {operations!r} is not a list of one operation or more; there are {', '.join(get_args(Operation))}"
        )
    for operation in operations:
        check_choices(operations=(operation, Operation))


def check_layer_names(layers: Sequence[str] | None) -> None:
    """Refuse what is no list of names."""
    if isinstance(layers, str) or (layers is not None and not layers):
        raise GrowthError(f"layers: {layers!r} is not a list of one layer's name or more")


def check_above_zero(**numbers: float) -> None:
    """Refuse numbers that aren't above 0."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise GrowthError(f"{name}: {value!r} is not above 0")


def check_whole(**numbers: int) -> None:
    """Refuse what is no whole number of at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GrowthError(f"{name}: {value!r} is not an integer of at least 1")


def triggers_in(trigger: GrowthTrigger) -> list[GrowthTrigger]:
    """A trigger, or those that it combines."""
    if isinstance(trigger, (AllOf, AnyOf)):
        return [part for one in trigger.triggers for part in triggers_in(one)]
    return triggers_in(trigger.trigger) if isinstance(trigger, Not) else [trigger]


# -- How do all ranks take the same step of growth? Rank 0 takes it, and the others repeat it, or none do --


def in_all_ranks(
    trainer: Trainer,
    module: LightningModule,
    operation: str,
    layer: str,
    grow: Callable[[], Growth],
    repeat: Callable[[GrowthStep], Growth],
) -> tuple[Growth | None, str]:
    """Change a layer in every rank.

    Args:
        trainer: Whose strategy joins the ranks.
        module: In training; each rank has its own.
        operation: What is to be done.
        layer: To which layer.
        grow: Does it, on rank 0.
        repeat: Does what rank 0 did, on the others.

    Returns:
        What was done, or ``None`` and why it couldn't be; in every rank the same.

    Raises:
        NothingChanged: A step was taken, and the network is what it was.
    """
    snapshot = Snapshot(module)
    try:
        return _in_all_ranks(trainer, module, operation, layer, grow, repeat)
    except BaseException:  # Ctrl-C while ranks wait for each other: the step is in no record yet
        snapshot.restore()
        raise


def _in_all_ranks(
    trainer: Trainer,
    module: LightningModule,
    operation: str,
    layer: str,
    grow: Callable[[], Growth],
    repeat: Callable[[GrowthStep], Growth],
) -> tuple[Growth | None, str]:
    before, count = _structure(module), count_parameters(module)
    growth: Growth | None = None
    told: dict[str, Any] = {}
    if trainer.is_global_zero:
        try:
            growth = grow()
            said = {"why_not": growth.why_not, "notes": growth.notes}
            told = {"step": growth.step.to_dict(), "empty": _structure(module) == before, "said": said}
        except NothingChanged:
            told = {"step": None, "empty": True}
        except GrowthError as error:
            told = {"step": None, "empty": False, "reason": str(error)}
    told = trainer.strategy.broadcast(told)
    if told["empty"]:
        raise NothingChanged(
            f"epoch {trainer.current_epoch}: {operation} {layer}: nothing has changed: {count:,} parameters before and after"
        )
    if told["step"] is None:
        return None, told["reason"]
    return growth or replace(repeat(GrowthStep.from_dict(told["step"])), **told["said"]), ""


def count_parameters(module: nn.Module) -> int:
    """How many parameters a network has, counted one by one."""
    return sum(parameter.numel() for parameter in module.parameters())


def _structure(module: nn.Module) -> list[tuple[Any, ...]]:
    """What a step must change something of."""
    parts: list[tuple[Any, ...]] = [(name, type(part)) for name, part in module.named_modules()]
    sizes: list[tuple[Any, ...]] = [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
    return [*parts, *sizes]


# -- What follows a network that grows while it trains? Optimizers, schedules, DDP, compiled code, other  --


class ParameterGrouping:
    """Which parameters each group of each optimizer holds, by name: growth decides it, so a checkpoint must tell.

    A group that growth has added is known by the one it was copied from, and by its rate.
    """

    def __init__(self) -> None:
        self.added: list[tuple[NewGroup, float]] = []

    def state_dict(self, optimizers: Sequence[Optimizer], module: nn.Module) -> dict[str, Any]:
        """As plain data."""
        names = {id(p): plain_name(name) for name, p in module.named_parameters()}
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
        names = {id(p): plain_name(name) for name, p in module.named_parameters()}
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


def follow(trainer: Trainer, module: LightningModule, growth: Growth, grouping: ParameterGrouping, rate: float) -> None:
    """Have everything in a training that holds parameters follow a step of growth, in all processes alike."""
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    grouping.grow(growth, trainer.optimizers, module, schedulers, rate)
    if is_compiled(module):
        # Compiled code would notice by itself, but from a few changes on it gives up on compiling.
        torch.compiler.reset()
    if isinstance(trainer.strategy, DDPStrategy):
        _wrap_again(trainer.strategy, module)
    for callback in callbacks_of(trainer):
        if callable(told := getattr(callback, "on_structure_change", None)):
            told(trainer, module, growth)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module, or one inside it, runs through ``torch.compile``."""
    if is_compiled_by_lightning(module):
        return True
    return any(map(compiled.is_compiled, module.modules()))


def _wrap_again(strategy: DDPStrategy, module: LightningModule) -> None:
    """Wrap the network by DistributedDataParallel anew, which then has the parameters of rank 0 in all ranks."""
    # New batch normalisations are to be synchronised too, where others are.
    strategy.model = synchronize_layers(strategy, module)
    # The old wrapper's hooks on parameters go when it does; it is part of a cycle.
    gc.collect()
    wrap_again(strategy)


# -- What can't grow while it trains? Whatever holds parameters and couldn't be told that they are others --

_UNFIT = {
    "WeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "StochasticWeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "ModelPruning": "its masks have the shapes of the weights",
    "BaseFinetuning": "it keeps a list of each parameter group's parameters",
}
"""Lightning's callbacks by class name (2.5 has not all of them), and why the network mustn't grow under them."""


def check_training(trainer: Trainer, module: LightningModule, rate: float) -> None:
    """Refuse a training whose parts couldn't follow a network that grows; before it begins, with optimizers made.

    Raises:
        GrowthError: The message names the part, the reason, and what is accepted.
    """
    if isinstance(module, StackedModule):
        raise GrowthError(
            "StructuralGrowth: the particles of a ParticleStack are of one architecture, which can't grow"
        )
    strategy = trainer.strategy
    # Not their subclasses, which place or shard parameters otherwise.
    if type(strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise GrowthError(
            f"StructuralGrowth: trainer.strategy {type(strategy).__name__} can't be wrapped around a network that has "
            "changed; a single device and DDP (strategy: ddp) can"
        )
    for callback in callbacks_of(trainer):
        if reason := _unfit(callback):
            raise GrowthError(
                f"StructuralGrowth: {type(callback).__name__} can't follow a network that grows: {reason}; leave one of the "
                "two out (a callback with a method on_structure_change is told of each step instead)"
            )
    ours = {id(p) for p in module.parameters()}
    held = {id(p) for one in trainer.optimizers for group in getattr(one, "param_groups", ()) for p in group["params"]}
    if not ours & held and all(isinstance(one, Optimizer) for one in trainer.optimizers):
        raise GrowthError(
            "StructuralGrowth: configure_optimizers gave no optimizer that holds a parameter of the network, so that "
            "nothing would train what is new"
        )
    for optimizer in trainer.optimizers:
        if reason := why_not_growable(optimizer):
            raise GrowthError(f"StructuralGrowth: the optimizer can't be extended by new parameters: {reason}")
    if rate != 1:
        for config in trainer.lr_scheduler_configs:
            if reason := why_not_extendable(config.scheduler):
                raise GrowthError(
                    f"StructuralGrowth: rate: {rate} puts new parameters in groups of their own, but the scheduler "
                    f"can't have more: {reason}; choose rate: 1.0"
                )


def check_layers(
    sites: Mapping[str, Site], names: Sequence[str], layers: Sequence[str] | None, operations: Sequence[str]
) -> None:
    """Refuse layers that aren't there, and operations that no layer offers.

    Args:
        sites: The network's layers that can grow, or could but for a reason.
        names: All its modules.
        layers: Those that may grow; ``None``: all.
        operations: What is to be done to them.

    Raises:
        GrowthError: The message names the argument, the value and what is accepted.
    """
    for layer in layers or ():
        if layer in sites:
            continue
        near = get_close_matches(layer, sites, 3, 0.3) or list(sites)[:8]
        what = "holds no layer that can grow itself" if layer in names else "is not a layer of the network"
        raise GrowthError(f"layers: {layer!r} {what}; there are {', '.join(near) or 'none'}")
    allowed = {name: site for name, site in sites.items() if layers is None or name in layers}
    if not allowed:
        raise GrowthError("operations: the network has no layer that could grow (linear, convolution, embedding)")
    for operation in operations:
        if not any(operation in site.operations for site in allowed.values()):
            reasons = [f"{name}: {site.why_not.get(operation, 'not offered')}" for name, site in allowed.items()]
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            raise GrowthError(f"operations: {operation!r} can be done to no layer: {'; '.join(reasons[:3])}{more}")


def check_room(parameters: int, max_parameters: int | None) -> None:
    """Refuse a bound that the network exceeds already."""
    if max_parameters is not None and max_parameters < parameters:
        raise GrowthError(
            f"max_parameters: {max_parameters:,} is below the {parameters:,} parameters that the network has"
        )


def check_monitored(trigger: GrowthTrigger, monitor: str | None, monitor_train: str | None) -> None:
    """Refuse triggers that look at a metric where none is named."""
    for needed, name, given in _metrics(monitor, monitor_train):
        who = [type(one).__name__ for one in triggers_in(trigger) if getattr(one, needed)]
        if who and given is None:
            what = "validation logs" if name == "monitor" else "the module logs in training"
            raise GrowthError(f"{name}: null, but {' and '.join(who)} looks at it; name a metric that {what}")


def check_logged(trainer: Trainer, trigger: GrowthTrigger, monitor: str | None, monitor_train: str | None) -> None:
    """At the end of an epoch that validates, if it does at all: refuse to go on without a metric that is looked at."""
    every = trainer.check_val_every_n_epoch
    if trainer.enable_validation and every is not None and (trainer.current_epoch + 1) % every:
        return
    for needed, name, given in _metrics(monitor, monitor_train):
        if getattr(trigger, needed) and given not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise GrowthError(f"{name}: {given!r} was never logged; the module logs {logged}")


def _metrics(monitor: str | None, monitor_train: str | None) -> tuple[tuple[str, str, str | None], ...]:
    return ("needs_metric", "monitor", monitor), ("needs_train_metric", "monitor_train", monitor_train)


def _unfit(callback: Any) -> str:
    """Why a callback can't follow; empty if it can, or is told."""
    if hasattr(callback, "on_structure_change"):
        return ""
    for kind in type(callback).__mro__:
        if kind.__name__ in _UNFIT and hasattr(lightning_callbacks, kind.__name__):
            return _UNFIT[kind.__name__]
    return str(getattr(callback, "fixed_structure", ""))
