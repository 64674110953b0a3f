"""What can't grow while it trains? Whatever holds parameters and couldn't be told that they are others now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.optim import Optimizer

from lightning_evo.callbacks.growth_settings import triggers_in
from lightning_evo.callbacks.growth_triggers import GrowthTrigger
from lightning_evo.callbacks.hyperparameter_schedule import HyperparameterSchedule
from lightning_evo.callbacks.swarm_averaging import SwarmAveraging
from lightning_evo.functional.growth import GrowthError, Site
from lightning_evo.functional.optimizer_growth import why_not_growable
from lightning_evo.functional.scheduler_growth import why_not_extendable
from lightning_evo.swarms.stack import ParticleStack

__all__ = ["check_layers", "check_logged", "check_monitored", "check_room", "check_training"]

_UNFIT = {
    "WeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "StochasticWeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "ModelPruning": "its masks have the shapes of the weights",
    "BaseFinetuning": "it keeps a list of each parameter group's parameters",
    SwarmAveraging.__name__: "it averages networks of one architecture",
    HyperparameterSchedule.__name__: "it builds the module anew from hyperparameters, which know nothing of growth",
}
"""Callbacks by class name (Lightning 2.5 has not all of them), and why the network mustn't grow under them."""


def check_training(trainer: Trainer, module: LightningModule, rate: float) -> None:
    """Refuse a training whose parts couldn't follow a network that grows; before it begins, with optimizers made.

    Raises:
        GrowthError: The message names the part, the reason, and what is accepted.
    """
    if isinstance(module, ParticleStack):
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
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
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
        ours = kind.__module__.startswith("lightning_evo.")
        if kind.__name__ in _UNFIT and (ours or hasattr(lightning_callbacks, kind.__name__)):
            return _UNFIT[kind.__name__]
    return ""
