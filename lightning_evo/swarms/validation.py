"""A module's own validation on given batches, without a Trainer's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torchmetrics import Metric

from lightning_evo._compat.lightning import trainer_of
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.logs import Log, recording

__all__ = ["moved", "validate"]


def validate(module: LightningModule, batches: Iterable[Any]) -> dict[str, float]:
    """Run a module's validation hooks and ``validation_step`` on given batches; return what it logs.

    It runs in evaluation mode, without gradients; the module's transfer hooks move batches to its device. Afterwards all
    submodules are in their earlier modes, the module's metric objects are reset, and no logger has received anything. Inside
    a Trainer's ``fit``, call it between two validations, not during one: it would add to that one's metrics.

    Args:
        module: An ordinary module, possibly one that a Trainer is training.
        batches: Batches of one data loader.

    Returns:
        The epoch's metrics by the names that the module logs, as floats.

    Raises:
        SwarmError: The module has no ``validation_step``, or there are no batches.

    >>> class Net(LightningModule):
    ...     def validation_step(self, batch, batch_idx):
    ...         self.log("val_mean", batch.mean())
    >>> validate(Net(), [torch.ones(3, 1), torch.zeros(1, 1)])
    {'val_mean': 0.75}
    """
    if not is_overridden("validation_step", module):
        raise SwarmError(
            f"{type(module).__name__} has no validation_step to compare weights by; define one, as for any LightningModule"
        )
    modes = {child: child.training for child in module.modules()}
    idle = [child for child in module.modules() if isinstance(child, Metric) and not child.update_called]
    for metric in idle:
        metric.reset()  # a Trainer's validation leaves inference tensors, which can't be written to outside inference mode
    module.eval()
    try:
        with torch.no_grad(), recording(module) as log:
            _hook(module, log, "on_validation_start")
            _hook(module, log, "on_validation_epoch_start")
            count = 0
            for index, batch in enumerate(batches):
                _step(module, log, batch, index)
                count += 1
            if count == 0:
                raise SwarmError(f"there are no batches to validate {type(module).__name__} on")
            _hook(module, log, "on_validation_epoch_end")
            _hook(module, log, "on_validation_end")
            return log.metrics()
    finally:
        for child, training in modes.items():
            child.training = training
        for metric in idle:
            metric.reset()  # those that were updated, but not logged as objects


def _step(module: LightningModule, log: Log, batch: Any, index: int) -> None:
    batch = moved(module, batch)
    log.batch = batch
    _hook(module, log, "on_validation_batch_start", batch, index)
    log.hook = "validation_step"
    takes_index = is_param_in_hook_signature(module.validation_step, "batch_idx", min_args=2)
    with _precision(module):
        outputs = module.validation_step(*((batch, index) if takes_index else (batch,)))
    _hook(module, log, "on_validation_batch_end", outputs, batch, index)
    log.batch = None


def moved(module: LightningModule, batch: Any) -> Any:
    """A batch of the first data loader on a module's device, through the module's own transfer hooks."""
    batch = module.on_before_batch_transfer(batch, 0)
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    return module.on_after_batch_transfer(batch, 0)


def _precision(module: LightningModule) -> AbstractContextManager[Any]:
    """The context in which the module's Trainer runs validation steps (autocast, where it trains in mixed precision)."""
    trainer = trainer_of(module)
    return nullcontext() if trainer is None else trainer.precision_plugin.val_step_context()


def _hook(module: LightningModule, log: Log, name: str, *args: Any) -> None:
    log.hook = name
    hook: Callable[..., Any] = getattr(module, name)
    if is_overridden(name, module):
        hook(*args)
