"""How does an optimizer that exists already update all of its weights in one kernel? Its groups are told to fuse."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

__all__ = ["follow_formats", "fuse"]

FUSED: tuple[type[Optimizer], ...] = (SGD, Adam, AdamW, Adagrad)
"""The optimizers of torch that have a fused kernel."""


def fuse(optimizer: Optimizer) -> str:
    """Have an optimizer use its fused kernel, in all of its groups or in none; says why not, else nothing.

    States that exist already are fitted to it. What the user chose (``fused`` or ``foreach``) stays. The optimizer isn't
    declared able to unscale gradients itself, as one is that was fused by its constructor: under a gradient scaler they
    are unscaled before, so that they can be clipped.

    Example:
        >>> weight = nn.Parameter(torch.ones(3))
        >>> optimizer = torch.optim.AdamW([weight])
        >>> fuse(optimizer), optimizer.param_groups[0]["fused"]
        ('', True)
        >>> fuse(torch.optim.RMSprop([weight]))
        'RMSprop has no fused kernel'
    """
    kind = type(optimizer)
    if kind not in FUSED:
        return f"{kind.__name__} has no fused kernel"
    for group in optimizer.param_groups:
        if (why := _obstacle(kind, group)) is not None:
            return why
    for group in optimizer.param_groups:
        group["fused"] = True
    optimizer.defaults["fused"] = True
    for parameter, state in optimizer.state.items():
        if isinstance(step := state.get("step"), Tensor):
            state["step"] = step.to(device=parameter.device, dtype=torch.float32)
    follow_formats(optimizer)
    return ""


def follow_formats(optimizer: Optimizer) -> None:
    """Give every moment the memory format of its parameter, which fused kernels demand."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _obstacle(kind: type[Optimizer], group: dict[str, Any]) -> str | None:
    """Why a group can't be fused: what the user set, or what torch says when such a parameter is updated."""
    if group.get("fused") is False or group.get("foreach") is True:
        return f"the optimizer was made with fused={group.get('fused')}, foreach={group.get('foreach')}"
    if group.get("differentiable"):
        return "the optimizer is differentiable"
    known = signature(kind.__init__).parameters
    if "fused" not in known:
        return f"this version of torch has no fused {kind.__name__}"
    settings = {name: value for name, value in group.items() if name in known} | {"fused": True, "foreach": None}
    settings.pop("params", None)
    for device, dtype in {(p.device, p.dtype) for p in group["params"]}:
        trial = nn.Parameter(torch.zeros(1, device=device, dtype=dtype), requires_grad=dtype.is_floating_point)
        trial.grad = torch.zeros_like(trial)
        try:
            kind([trial], **settings).step()
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            return f"torch can't fuse {kind.__name__} of {dtype} on {device.type} ({str(error).splitlines()[0]})"
    return None
