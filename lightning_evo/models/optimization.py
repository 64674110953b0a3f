"""Optimizers by name, and learning-rate schedules as functions of the step."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["OptimizerName", "ScheduleName", "build_optimizer", "build_schedule", "schedule_factor"]

OptimizerName = Literal["sgd", "adam", "adamw", "nadam", "radam", "rmsprop"]
ScheduleName = Literal["constant", "linear", "cosine", "onecycle"]

_FLOOR = 1e-3
"""Learning rate at the end of a decay, as a fraction of the base rate (as in Gesmundo 2023)."""


def build_optimizer(
    name: OptimizerName,
    module: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    fused: bool = False,
) -> Optimizer:
    """Build an optimizer over all trainable parameters of ``module``.

    Args:
        name: ``sgd`` (with Nesterov momentum), ``adam``, ``adamw``, ``nadam``, ``radam`` or ``rmsprop``.
        module: The module to train.
        lr: Base learning rate.
        weight_decay: Weight decay of the weights; biases and the parameters of normalization layers have none.
        momentum: Momentum of ``sgd`` and ``rmsprop``, and beta 1 of the Adam family.
        fused: Update all weights in one kernel where the optimizer has one (``sgd``, ``adam``, ``adamw``).

    Raises:
        ValueError: ``name`` is not one of these.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (momentum, 0.999)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused or None)
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, betas=betas, fused=fused or None)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused or None)
    if name == "nadam":
        return torch.optim.NAdam(groups, lr=lr, betas=betas, decoupled_weight_decay=True)
    if name == "radam":
        return torch.optim.RAdam(groups, lr=lr, betas=betas, decoupled_weight_decay=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    raise ValueError(f"optimizer: {name!r} is not one of {', '.join(get_args(OptimizerName))}")


def build_schedule(optimizer: Optimizer, name: ScheduleName, total_steps: float, warmup: float = 0.0) -> LambdaLR:
    """Wrap :func:`schedule_factor` as a scheduler to be stepped after every optimizer step.

    Args:
        optimizer: The optimizer that has the learning rates.
        name: See :func:`schedule_factor`.
        total_steps: Optimizer steps in the whole training (``trainer.estimated_stepping_batches``).
        warmup: See :func:`schedule_factor`.

    Raises:
        ValueError: The schedule needs to know where training ends and ``total_steps`` is not finite.
    """
    if not math.isfinite(total_steps) and (name != "constant" or warmup > 0):
        raise ValueError(
            f"schedule {name!r} with warmup {warmup} needs to know where training ends: "
            "set trainer.max_epochs or trainer.max_steps"
        )
    return LambdaLR(optimizer, lambda step: schedule_factor(name, step, total_steps, warmup))


def schedule_factor(name: ScheduleName, step: int, total_steps: float, warmup: float = 0.0) -> float:
    """The learning rate at ``step`` as a fraction of the base rate.

    Args:
        name: ``constant``; ``linear`` and ``cosine`` decay to a thousandth; ``onecycle`` rises from 1/25 along a cosine
            and decays to a thousandth along another (Smith 2018), for 30 % of the steps where ``warmup`` is 0.
        step: Steps done, from 0. Beyond ``total_steps`` the last value stays.
        total_steps: Steps in the whole training.
        warmup: Fraction of ``total_steps`` over which the rate rises linearly from near 0, in [0, 1).

    Raises:
        ValueError: ``name`` is none of these.

    >>> [round(schedule_factor("cosine", step, 100, warmup=0.1), 3) for step in (0, 9, 10, 55, 100)]
    [0.1, 1.0, 1.0, 0.5, 0.001]
    """
    if name == "onecycle":
        rise = (warmup or 0.3) * total_steps
        if step < rise:
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rise)) / 2
    elif warmup > 0:
        rise = warmup * total_steps
        if step < rise:
            return min(1.0, (step + 1) / rise)
    else:
        rise = 0.0
    if name == "constant":
        return 1.0
    done = min(1.0, (step - rise) / max(1.0, total_steps - rise))
    if name == "linear":
        return 1 - (1 - _FLOOR) * done
    if name in ("cosine", "onecycle"):
        return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * done)) / 2
    raise ValueError(f"schedule: {name!r} is not one of {', '.join(get_args(ScheduleName))}")
