"""How does a particle go on without its stack? As an ordinary module, or as a plain Lightning checkpoint of its class."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric

from lightning_evo.swarms.optimizer import StackedOptimizer

if TYPE_CHECKING:
    from lightning_evo.swarms.stack import ParticleStack

__all__ = ["checkpoint_of", "copy_of", "kept_of", "own_part"]


def copy_of(tied: LightningModule) -> LightningModule:
    """An ordinary module like a tied one, with memory of its own and no Trainer."""
    taken: LightningModule = copy.deepcopy(tied)
    for tensor in (*taken.parameters(), *taken.buffers()):
        tensor.data = tensor.data.clone()  # a copied view keeps the memory of all
        tensor.grad = None
    for module in taken.modules():
        if isinstance(module, LightningModule):
            module.__dict__.pop("log", None)
            module.__dict__.pop("log_dict", None)
        if isinstance(module, Metric):
            module.reset()
    taken.trainer = None
    return taken


def checkpoint_of(stack: ParticleStack, index: int, weights_only: bool) -> dict[str, Any]:
    """What a Trainer that had trained this particle alone would have saved now."""
    particle = stack.particles[index]
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {name: tensor.detach().clone() for name, tensor in particle.state_dict().items()},
    }
    trainer = stack._trainer
    if trainer is not None:
        connector = trainer._checkpoint_connector
        checkpoint["epoch"], checkpoint["global_step"] = trainer.current_epoch, trainer.global_step
        checkpoint["loops"] = copy.deepcopy(connector._get_loops_state_dict())
        if not weights_only:
            checkpoint["callbacks"] = {}
            checkpoint["optimizer_states"] = [
                _own(optimizer.optimizers[index].state_dict())
                for optimizer in trainer.optimizers
                if isinstance(optimizer, StackedOptimizer)
            ]
            checkpoint["lr_schedulers"] = [
                _own(config.scheduler.schedulers[index].state_dict())  # type: ignore[union-attr]
                for config in trainer.lr_scheduler_configs
            ]
            precision = trainer.precision_plugin
            state = precision.state_dict()
            if state:
                checkpoint[type(precision).__qualname__] = state
    if particle.hparams:
        if hasattr(particle, "_hparams_name"):
            checkpoint[particle.CHECKPOINT_HYPER_PARAMS_NAME] = particle._hparams_name
        checkpoint[particle.CHECKPOINT_HYPER_PARAMS_KEY] = dict(particle.hparams)
    particle.on_save_checkpoint(checkpoint)
    return checkpoint


def own_part(particle: LightningModule, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a stack's checkpoint a particle's own checkpoint hooks may look at."""
    shared = {
        name: checkpoint[name] for name in ("epoch", "global_step", "pytorch-lightning_version") if name in checkpoint
    }
    return {**shared, "state_dict": particle.state_dict()}


def kept_of(particle: LightningModule, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a particle's ``on_save_checkpoint`` adds to its checkpoint."""
    before = own_part(particle, checkpoint)
    after = dict(before)
    particle.on_save_checkpoint(after)
    return {name: value for name, value in after.items() if name not in before}


def _own(state: Any) -> Any:
    """A copy of a state dict; a view of stacked memory is copied alone, where ``deepcopy`` would copy the memory of all."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _own(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_own(value) for value in state]
    return copy.deepcopy(state)
