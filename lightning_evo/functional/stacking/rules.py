"""Rules: how a network's calls are computed for all particles at once, each with the result that it has for one alone.

:data:`RULE_GROUPS` lists them; the README says what each group is worth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo.functional.stacking.convolution import CONVOLUTION_RULES
from lightning_evo.functional.stacking.tensors import (
    NotCovered,
    autocast_dtype,
    channels_joined,
    lowered,
    particles_first,
)

__all__ = ["RULES", "RULE_GROUPS", "Rule"]

Rule = Callable[..., Any]
"""Is called in place of a torch function, with the same arguments; raises :class:`NotCovered` for those it can't take."""


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return lowered(_stacked_linear, input, weight, bias)


def _stacked_linear(
    particles: int, dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, int]:
    weight = particles_first(weight, dims[1])
    bias = None if bias is None else particles_first(bias, dims[2])
    if dims[0] is None:  # one input for all: one product with the rows of all weights
        out = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        return out.unflatten(-1, (particles, -1)), x.dim() - 1
    x = particles_first(x, dims[0])
    operands: tuple[Tensor | None, ...] = (x.reshape(particles, -1, x.shape[-1]), weight, bias)
    dtype = autocast_dtype(x.device)
    if dtype is not None:  # autocast casts the operands of torch's functions, but not those of this package's
        operands = tuple(_cast(tensor, dtype) for tensor in operands)
    return _BatchedLinear.apply(*operands).reshape(*x.shape[:-1], -1), 0


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)


class _BatchedLinear(torch.autograd.Function):
    """``F.linear`` for (N, rows, in), (N, out, in) and (N, out).

    Autograd's own backward pass of ``baddbmm`` computes the weights' gradient transposed, which takes four times as long
    where there are many inputs and few outputs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        columns = weight.transpose(1, 2)
        return torch.bmm(x, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, columns)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if of_x else None,
            torch.bmm(gradient.transpose(1, 2), x) if of_weight else None,
            gradient.sum(1) if of_bias else None,
        )


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if input.dim() < 2:
        raise NotCovered
    function = partial(F.batch_norm, training=training, momentum=momentum, eps=eps)
    return lowered(partial(_stacked_batch_norm, function), input, running_mean, running_var, weight, bias)


def _stacked_batch_norm(
    function: Callable[..., Tensor],
    particles: int,
    dims: tuple[int | None, ...],
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    tensors = (
        None if tensor is None else _one_row(tensor, dim)
        for tensor, dim in zip((running_mean, running_var, weight, bias), dims[1:], strict=True)
    )
    out = function(channels_joined(x, dims[0], particles), *tensors)
    return out.unflatten(1, (particles, -1)), 1


def _one_row(tensor: Tensor, dim: int | None) -> Tensor:
    """The tensor as (N · channels,) over the same memory, because running statistics are changed in place."""
    rows = particles_first(tensor, dim)
    if not rows.is_contiguous():
        raise NotCovered
    return rows.view(-1)


def _per_plane(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of a function of images, (batch, channels, height, width), that treats each channel separately."""

    def rule(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.dim() != 4 or kwargs.get("return_indices"):
            raise NotCovered
        return lowered(partial(_stacked_planes, lambda planes: function(planes, *args, **kwargs)), input)

    return rule


def _stacked_planes(
    function: Callable[[Tensor], Tensor], particles: int, dims: tuple[int | None, ...], x: Tensor
) -> tuple[Tensor, int]:
    x = particles_first(x, dims[0])
    # Which axis the particles are joined with makes no difference to the result: the one that needs no copy.
    if x.stride(0) == max(x.stride()):
        return function(x.flatten(0, 1)).unflatten(0, (particles, -1)), 0
    return function(x.transpose(0, 1).flatten(1, 2)).unflatten(1, (particles, -1)), 1


def _view(tensor: Tensor, *shape: Any) -> Tensor:
    """``view``, and where the stacked tensor's axes are in another order, so that it has no such view, ``reshape``."""
    if not all(isinstance(size, int | tuple | list) for size in shape):
        raise NotCovered  # view(dtype)
    try:
        return tensor.view(*shape)
    except RuntimeError:
        return _reshape(tensor, *shape)


def _reshape(tensor: Tensor, *shape: Any) -> Tensor:
    sizes = shape if not shape or isinstance(shape[0], int) else tuple(shape[0])
    return lowered(partial(_stacked_reshape, sizes), tensor)


def _flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    start, end = start_dim % max(input.dim(), 1), end_dim % max(input.dim(), 1)
    if start >= end:
        raise NotCovered
    return lowered(partial(_stacked_reshape, (*input.shape[:start], -1, *input.shape[end + 1 :])), input)


def _stacked_reshape(
    sizes: tuple[int, ...], particles: int, dims: tuple[int | None, ...], x: Tensor
) -> tuple[Tensor, int]:
    first = particles_first(x, dims[0])
    if not first.is_contiguous():
        first = _SameLayout.apply(first)
    return first.reshape(particles, *sizes), 0


class _SameLayout(torch.autograd.Function):
    """The identity; its backward pass gives the gradient the memory layout of the tensor.

    The layer before it, such as a ReLU, then gets both in one layout. With two layouts, elementwise kernels take many times
    as long as this copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.strides = x.stride()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if gradient.stride() == ctx.strides:
            return gradient
        return torch.empty_strided(gradient.shape, ctx.strides, dtype=gradient.dtype, device=gradient.device).copy_(
            gradient
        )


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    try:
        return F.group_norm(input, num_groups, weight, bias, eps)
    except RuntimeError as error:
        if "is_contiguous" not in str(error):
            raise
    # torch 2.6 asks a batched tensor for its memory format, which vmap doesn't answer.
    grouped = input.reshape(input.shape[0], num_groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    normalized = ((grouped - mean) * (variance + eps).rsqrt()).reshape(input.shape)
    per_channel = (-1, *[1] * (input.dim() - 2))
    if weight is not None:
        normalized = normalized * weight.reshape(per_channel)
    return normalized if bias is None else normalized + bias.reshape(per_channel)


_PLANES = (
    F.max_pool2d,
    torch.max_pool2d,
    F.avg_pool2d,
    F.adaptive_max_pool2d,
    F.adaptive_avg_pool2d,
    torch.adaptive_avg_pool2d if hasattr(torch, "adaptive_avg_pool2d") else F.adaptive_avg_pool2d,
)

RULE_GROUPS: dict[str, dict[Callable[..., Any], Rule]] = {
    "convolution": CONVOLUTION_RULES,
    "linear": {F.linear: _linear},
    "normalization": {F.batch_norm: _batch_norm, F.group_norm: _group_norm},
    "pooling": {function: _per_plane(function) for function in _PLANES},
    "reshaping": {
        torch.Tensor.view: _view,
        torch.Tensor.reshape: _reshape,
        torch.reshape: _reshape,
        torch.flatten: _flatten,
        torch.Tensor.flatten: _flatten,
    },
}
"""Group -> function of torch -> its rule."""

RULES: dict[Callable[..., Any], Rule] = {
    function: rule for group in RULE_GROUPS.values() for function, rule in group.items()
}
"""Function of torch -> its rule."""
