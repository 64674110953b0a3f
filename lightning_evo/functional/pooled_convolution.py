"""How is a convolution computed whose output is only pooled? Batch part by batch part, so that it stays in the cache.

``relu(max_pool(conv(x)))`` passes four times over the convolution's output, forward and backward. For many particles that
output is tens of megabytes. For a part of the batch at a time it's never far from the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo.functional.lowerings import choose, chosen
from lightning_evo.functional.stacked_convolution import (
    Convolution,
    Operands,
    call_of,
    detached,
    in_format,
    key_of,
    stacked_convolution,
)
from lightning_evo.functional.stacked_tensors import (
    NotCovered,
    autocast_dtype,
    channels_joined,
    lowered,
    particles_first,
)

__all__ = ["output_placeholder", "pooled_convolution"]

_LARGE = 2**20
"""Elements of an output, those of all particles, that a core's cache doesn't hold."""

_PART = 2**19
"""Elements of the part of an output that is computed at a time."""


def output_placeholder(particles: int, *args: Any, **kwargs: Any) -> Tensor:
    """A tensor of the form of ``torch.conv2d(*args, **kwargs)``, under ``vmap``, without values of its own.

    Raises:
        NotCovered: If the output is too small for :func:`pooled_convolution` to be worth its while, or isn't covered by it.
    """
    convolution, (x, weight, _) = call_of(torch.conv2d, *args, **kwargs)
    if x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu" or autocast_dtype(x.device) is not None:
        raise NotCovered
    sizes = (len(x), weight.shape[0], *convolution.output_sizes(x.shape[2:], weight.shape[2:]))
    if particles * torch.Size(sizes).numel() < _LARGE:
        raise NotCovered
    return lowered(partial(_empty, sizes), x, weight)


def _empty(
    sizes: tuple[int, ...], particles: int, dims: tuple[int | None, ...], x: Tensor, weight: Tensor
) -> tuple[Tensor, int]:
    if dims[1] is None:
        raise NotCovered
    return x.new_empty(()).expand(particles, *sizes), 0


def pooled_convolution(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pool_args: tuple[Any, ...],
    pool_kwargs: dict[str, Any],
    relu: bool = True,
) -> Tensor:
    """``relu(max_pool2d(conv2d(*args, **kwargs), *pool_args, **pool_kwargs))``, under ``vmap``; or without ReLU.

    Whether in parts or as a whole is chosen by timing both (:mod:`~lightning_evo.functional.lowerings`).

    Raises:
        NotCovered: If it can only be computed one after the other.
    """
    convolution, tensors = call_of(torch.conv2d, *args, **kwargs)
    return lowered(partial(_stacked, convolution, _pool_of(relu, *pool_args, **pool_kwargs)), *tensors)


@dataclass(frozen=True)
class _Pool:
    """Settings of ``max_pool2d``, and whether a ReLU follows."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool
    relu: bool

    def settings(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode

    def __call__(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, *self.settings())
        return torch.relu(pooled) if self.relu else pooled


def _pool_of(
    relu: bool,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Pool:
    steps = kernel_size if stride is None or stride == [] else stride
    return _Pool(_pair(kernel_size), _pair(steps), _pair(padding), _pair(dilation), ceil_mode, relu)


def _pair(value: int | tuple[int, ...] | list[int]) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def _stacked(
    convolution: Convolution,
    pool: _Pool,
    particles: int,
    dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    rows = None if bias is None else particles_first(bias, dims[2])
    operands = Operands(x, dims[0], particles_first(weight, dims[1]), rows)
    key = f"max_pool2d {pool.settings()} relu {pool.relu} of {key_of(convolution, operands)}"
    ways = {"in parts": partial(_in_parts, convolution, pool), "as a whole": partial(_as_a_whole, convolution, pool)}
    name = chosen(key)
    if name not in ways:
        tried = detached(operands)
        tensors = [t for t in (tried.x, tried.weight, tried.bias) if t is not None]
        name = choose(key, {name: partial(_output, way, tried) for name, way in ways.items()}, tensors, "in parts")
    return ways[name](operands)


def _output(way: Callable[[Operands], tuple[Tensor, int]], operands: Operands) -> Tensor:
    return way(operands)[0]


def _as_a_whole(convolution: Convolution, pool: _Pool, operands: Operands) -> tuple[Tensor, int]:
    dims = (operands.dim, 0, 0)
    tensors = (operands.x, operands.weight, operands.bias)
    out, at = stacked_convolution(convolution, operands.particles, dims, *tensors)
    axes = (0, 1) if at == 0 else (1, 2)
    pooled = pool(out.flatten(*axes))
    return pooled.unflatten(axes[0], out.shape[axes[0] : axes[1] + 1]), at


def _in_parts(convolution: Convolution, pool: _Pool, operands: Operands) -> tuple[Tensor, int]:
    x, groups, particles = operands.x, convolution.groups, operands.particles
    if operands.dim is not None or groups > 1:
        x, groups = channels_joined(x, operands.dim, particles), groups * particles
    bias = None if operands.bias is None else operands.bias.flatten()
    weight = operands.weight.flatten(0, 1)
    out = _InParts.apply(in_format(x, channels_last=True), weight, bias, convolution, groups, pool)
    return out.unflatten(1, (particles, -1)), 1


class _InParts(torch.autograd.Function):
    """A convolution, max pooling and perhaps ReLU of some samples at a time; only the indices of the largest are kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution, groups: int, pool: _Pool
    ) -> Tensor:
        each = weight.shape[0] * torch.Size(convolution.output_sizes(x.shape[2:], weight.shape[2:])).numel()
        ctx.part = max(1, _PART // each)
        pooled, ctx.indices, ctx.form = [], [], None
        for samples in x.split(ctx.part):
            out = convolution(samples, weight, bias, groups)
            values, indices = torch.ops.aten.max_pool2d_with_indices(out, *pool.settings())
            pooled.append(values)
            ctx.indices.append(indices)
            ctx.form = out if ctx.form is None else ctx.form  # of which backward needs sizes and strides
        result = torch.cat(pooled)
        if pool.relu:
            result = result.relu_()
        ctx.save_for_backward(x, weight, bias, result if pool.relu else None)
        ctx.convolution, ctx.groups, ctx.pool = convolution, groups, pool
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, result = ctx.saved_tensors
        convolution, pool = ctx.convolution, ctx.pool
        if torch.is_grad_enabled():  # to be differentiated once more: as autograd has it
            out = pool(convolution(x, weight, bias, ctx.groups))
            inputs = [t for t, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(out, inputs, gradient, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None
        if result is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        sums: list[Tensor | None] = [None, None]
        of_x = []
        parts = zip(x.split(ctx.part), gradient.split(ctx.part), ctx.indices, strict=True)
        for samples, pooled, indices in parts:
            of_out = torch.ops.aten.max_pool2d_with_indices_backward(
                pooled, ctx.form[: len(samples)], *pool.settings(), indices
            )
            found = torch.ops.aten.convolution_backward(
                of_out,
                samples,
                weight,
                None if bias is None else list(bias.shape),
                convolution.stride,
                convolution.padding,
                convolution.dilation,
                False,
                (0, 0),
                ctx.groups,
                ctx.needs_input_grad[:3],
            )
            if found[0] is not None:
                of_x.append(found[0])
            for at, part in enumerate(found[1:]):
                total = sums[at]
                sums[at] = part if total is None or part is None else total.add_(part)
        return (torch.cat(of_x) if of_x else None), *sums, None, None, None
