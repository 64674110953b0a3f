"""Methods of the particles that Lightning calls: a stack has those that its particles have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_evo.swarms.stack.optimizer import StackedOptimizer
from lightning_evo.swarms.stack.steps import particle_of

__all__ = [
    "FIRST_PARTICLE_METHODS",
    "MAY_CHANGE_SETTINGS",
    "NEEDS_GRADIENTS",
    "PARTICLE_HOOKS",
    "SHARED_HOOKS",
    "STEPS",
    "arguments_of",
]

STEPS = ("validation_step", "test_step", "predict_step")
"""Steps that a stack has if its particles have them."""

PARTICLE_HOOKS = (
    "configure_model",
    "teardown",
    "on_fit_start",
    "on_fit_end",
    "on_train_start",
    "on_train_end",
    "on_validation_start",
    "on_validation_end",
    "on_test_start",
    "on_test_end",
    "on_predict_start",
    "on_train_epoch_start",
    "on_validation_epoch_start",
    "on_test_epoch_start",
    "on_predict_epoch_start",
    "on_predict_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
)
"""Hooks that are called on every particle."""

SHARED_HOOKS = (
    "setup",
    "on_train_epoch_end",
    "on_validation_epoch_end",
    "on_test_epoch_end",
    "on_predict_end",
    "on_before_optimizer_step",
)
"""Hooks that are called on every particle, and that a stack itself implements, too."""

FIRST_PARTICLE_METHODS = (
    "prepare_data",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "configure_callbacks",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)
"""Methods that are the same for all particles: only that of the first one is called."""

NEEDS_GRADIENTS = frozenset({"on_before_zero_grad", "on_after_backward", "on_before_optimizer_step"})
"""Hooks in which a module may read its parameters' gradients."""

MAY_CHANGE_SETTINGS = frozenset(
    name
    for name in (*PARTICLE_HOOKS, *SHARED_HOOKS)
    if not name.endswith(("_batch_start", "_batch_end", "_backward", "_step", "_grad"))
)
"""Hooks in which a module may change its settings, or which of its parameters are trained."""


def arguments_of(
    index: int, hook: str, args: Sequence[Any], losses: Tensor, outputs: Any, own_batches: bool
) -> list[Any]:
    """The arguments with which Lightning would call a particle's hook if it trained alone.

    Args:
        index: The particle's index.
        hook: The hook.
        args: The arguments of the stack's hook.
        losses: Losses of the last training step, (N,).
        outputs: Outputs of the particles' last training step: a list, or a tree of stacked tensors.
        own_batches: Whether each particle has its own part of the batch.
    """
    mine = [arg.optimizers[index] if isinstance(arg, StackedOptimizer) else arg for arg in args]
    if hook == "on_before_backward":
        return [losses[index]]
    if own_batches and hook.endswith(("_batch_start", "_batch_end")):
        place = 1 if hook.endswith("_batch_end") else 0
        mine[place] = particle_of(mine[place], index)
    if hook == "on_train_batch_end":
        output = outputs[index] if isinstance(outputs, list) else particle_of(outputs, index)
        mine[0] = {**(output if isinstance(output, Mapping) else {}), "loss": losses[index]}
    elif hook.endswith("_batch_end") and isinstance(mine[0], list):
        mine[0] = mine[0][index]
    return mine
