"""Checks of the settings of ``StructuralGrowth``, and of the training it is used in; each error names what is accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.optim import Optimizer

from lightning_evo._compat.lightning import callbacks_of
from lightning_evo.callbacks.growth.triggers import AllOf, AnyOf, GrowthTrigger, Not
from lightning_evo.callbacks.search import StackedModule
from lightning_evo.functional.growth import GrowthError, Operation, Site
from lightning_evo.functional.growth.optimizers import why_not_extendable, why_not_growable

__all__ = [
    "Entropy",
    "Mode",
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
]

Entropy = Literal["covariance", "histogram"]
Mode = Literal["max", "min"]

_UNFIT = {
    "WeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "StochasticWeightAveraging": "it keeps an average of the weights, whose shapes would change",
    "ModelPruning": "its masks have the shapes of the weights",
    "BaseFinetuning": "it keeps a list of each parameter group's parameters",
}
"""Lightning's callbacks by class name (2.5 doesn't have all), and why the network can't grow with them."""


# Settings


def check_choices(**choices: tuple[Any, Any]) -> None:
    """Raise an error for a value that isn't in a ``Literal``."""
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise GrowthError(f"{name}: {value!r} is not one of {', '.join(get_args(kind))}")


def check_operations(operations: Sequence[str]) -> None:
    """Raise an error for an empty list of operations, and for unknown ones."""
    if isinstance(operations, str) or not operations:
        raise GrowthError(
            f"operations: {operations!r} is not a list of one operation or more; there are {', '.join(get_args(Operation))}"
        )
    for operation in operations:
        check_choices(operations=(operation, Operation))


def check_layer_names(layers: Sequence[str] | None) -> None:
    """Raise an error for anything but a list of names."""
    if isinstance(layers, str) or (layers is not None and not layers):
        raise GrowthError(f"layers: {layers!r} is not a list of one layer's name or more")


def check_above_zero(**numbers: float) -> None:
    """Raise an error for numbers that aren't above 0."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise GrowthError(f"{name}: {value!r} is not above 0")
        if value == float("inf"):
            raise GrowthError(f"{name}: {value!r} is not a finite number")


def check_whole(**numbers: int) -> None:
    """Raise an error for anything but whole numbers of at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GrowthError(f"{name}: {value!r} is not an integer of at least 1")


# The training


def check_training(trainer: Trainer, module: LightningModule, rate: float) -> None:
    """Raise an error for a training with parts that can't follow a network that grows. Optimizers are made already.

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
                "two out (a callback with a method on_structure_change is called after each step instead)"
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
    """Raise an error for layers that don't exist, and for operations that no layer offers.

    Args:
        sites: The network's layers that can grow, or could but for a reason.
        names: All its modules.
        layers: Those that may grow; ``None`` for all.
        operations: The operations.

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
    """Raise an error for a bound that the network exceeds already."""
    if max_parameters is not None and max_parameters < parameters:
        raise GrowthError(
            f"max_parameters: {max_parameters:,} is below the {parameters:,} parameters that the network has"
        )


def check_monitored(trigger: GrowthTrigger, monitor: str | None, monitor_train: str | None) -> None:
    """Raise an error for triggers that need a metric where none is named."""
    for needed, name, given in _metrics(monitor, monitor_train):
        needing = [type(one).__name__ for one in _triggers_in(trigger) if getattr(one, needed)]
        if needing and given is None:
            what = "validation logs" if name == "monitor" else "the module logs in training"
            raise GrowthError(f"{name}: null, but {' and '.join(needing)} needs it; name a metric that {what}")


def check_logged(trainer: Trainer, trigger: GrowthTrigger, monitor: str | None, monitor_train: str | None) -> None:
    """Raise an error at the end of an epoch with validation if a metric that a trigger needs wasn't logged."""
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
    """Return why a callback can't follow; empty if it can, or if it is called after each step."""
    if hasattr(callback, "on_structure_change"):
        return ""
    for kind in type(callback).__mro__:
        if kind.__name__ in _UNFIT and hasattr(lightning_callbacks, kind.__name__):
            return _UNFIT[kind.__name__]
    return str(getattr(callback, "fixed_structure", ""))


def _triggers_in(trigger: GrowthTrigger) -> list[GrowthTrigger]:
    """Return a trigger, or those that it combines."""
    if isinstance(trigger, (AllOf, AnyOf)):
        return [part for one in trigger.triggers for part in _triggers_in(one)]
    return _triggers_in(trigger.trigger) if isinstance(trigger, Not) else [trigger]
