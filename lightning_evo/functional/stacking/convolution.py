"""Rules of convolutions: those of all particles become one grouped convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_evo.functional.stacking.optional import PARTS
from lightning_evo.functional.stacking.tensors import (
    NotCovered,
    channels_joined,
    lowered,
    particles_first,
)

__all__ = [
    "CONVOLUTION_RULES",
    "Convolution",
    "Operands",
    "convolution_call",
    "grouped_convolution",
    "in_memory_format",
]

_Sizes = int | tuple[int, ...] | list[int]


@dataclass(frozen=True)
class Convolution:
    """The settings of a call of ``torch.conv2d`` or its like."""

    function: Callable[..., Tensor]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...] | None = None
    """Of transposed convolutions; ``None`` for others."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        if self.output_padding is None:
            return self.function(x, weight, bias, self.stride, self.padding, self.dilation, groups)
        return self.function(x, weight, bias, self.stride, self.padding, self.output_padding, groups, self.dilation)

    @property
    def spatial(self) -> int:
        """The number of axes beside batch and channels."""
        return len(self.stride)

    def output_sizes(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Sizes of the output's spatial axes for those of the input (not for transposed convolutions)."""
        settings = zip(sizes, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple(
            (size + 2 * pad - step * (width - 1) - 1) // stride + 1 for size, width, stride, pad, step in settings
        )


@dataclass(frozen=True)
class Operands:
    """The stacked tensors: ``x`` with its axis of particles ``dim`` (or None), (N, out, in, ...) weights, (N, out) bias."""

    x: Tensor
    dim: int | None
    weight: Tensor
    bias: Tensor | None

    @property
    def particles(self) -> int:
        """The number of particles."""
        return len(self.weight)


def grouped_convolution(
    convolution: Convolution, operands: Operands, channels_last: bool | None = None
) -> tuple[Tensor, int]:
    """One grouped convolution over the channels of all particles; an ordinary one where all have the same input.

    Args:
        convolution: Its settings.
        operands: The stacked tensors.
        channels_last: The memory format of images. Default: channels_last on a CPU, where what NCHW gains in some
            convolutions is lost in the pooling behind them, and NCHW on other devices, as is usual with cuDNN.

    Returns:
        The output and its axis of particles.
    """
    if channels_last is None:
        channels_last = convolution.spatial == 2 and operands.x.device.type == "cpu"
    x, groups = operands.x, convolution.groups
    if operands.dim is not None or groups > 1 or convolution.output_padding is not None:
        x, groups = channels_joined(x, operands.dim, operands.particles), groups * operands.particles
    x = in_memory_format(x, channels_last)
    bias = None if operands.bias is None else operands.bias.flatten()
    out = convolution(x, operands.weight.flatten(0, 1), bias, groups)
    return out.unflatten(1, (operands.particles, -1)), 1


def in_memory_format(x: Tensor, channels_last: bool) -> Tensor:
    """``x`` in NCHW or channels_last memory, so that a convolution's output is in the same."""
    if not channels_last:
        return x.contiguous()
    _, channels, height, width = x.shape
    if channels == 1 and x.is_contiguous():
        # One channel is in both formats at once. A convolution's output is then in NCHW, for which max pooling, for one,
        # takes four times as long. These strides are those of channels_last alone.
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


def convolution_call(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> tuple[Convolution, tuple[Tensor, Tensor, Tensor | None]]:
    """Settings and tensors of a call of ``torch.conv1d``, ``conv2d`` or ``conv3d``.

    Raises:
        NotCovered: For an input without a batch, or padding that isn't the same on both sides.
    """
    spatial = weight.dim() - 2
    if input.dim() != spatial + 2:
        raise NotCovered
    dilations = _sizes(dilation, spatial)
    if isinstance(padding, str):
        padding = _padding(padding, tuple(weight.shape[2:]), dilations)
    convolution = Convolution(function, _sizes(stride, spatial), _sizes(padding, spatial), dilations, groups)
    return convolution, (input, weight, bias)


def _rule(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(*args: Any, **kwargs: Any) -> Tensor:
        convolution, tensors = convolution_call(function, *args, **kwargs)
        return lowered(partial(_stacked, convolution), *tensors)

    return rule


def _transposed_rule(function: Callable[..., Tensor], spatial: int) -> Callable[..., Tensor]:
    def rule(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: _Sizes = 1,
        padding: _Sizes = 0,
        output_padding: _Sizes = 0,
        groups: int = 1,
        dilation: _Sizes = 1,
    ) -> Tensor:
        if input.dim() != spatial + 2:
            raise NotCovered
        strides, paddings, dilations = (_sizes(value, spatial) for value in (stride, padding, dilation))
        convolution = Convolution(function, strides, paddings, dilations, groups, _sizes(output_padding, spatial))
        return lowered(partial(_stacked, convolution), input, weight, bias)

    return rule


CONVOLUTION_RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv1d: _rule(torch.conv1d),
    torch.conv2d: _rule(torch.conv2d),
    torch.conv3d: _rule(torch.conv3d),
    torch.conv_transpose1d: _transposed_rule(torch.conv_transpose1d, 1),
    torch.conv_transpose2d: _transposed_rule(torch.conv_transpose2d, 2),
    torch.conv_transpose3d: _transposed_rule(torch.conv_transpose3d, 3),
}
"""Function of torch -> its rule."""


def _stacked(
    convolution: Convolution,
    particles: int,
    dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    """The convolution of all particles, and its axis of particles; see :func:`~.tensors.lowered`."""
    if not x.is_floating_point():
        raise NotCovered
    bias = None if bias is None else particles_first(bias, dims[2])
    operands = Operands(x, dims[0], particles_first(weight, dims[1]), bias)
    if PARTS.autotuning is not None:
        return PARTS.autotuning.convolution(convolution, operands)
    return grouped_convolution(convolution, operands)


def _sizes(value: _Sizes, spatial: int) -> tuple[int, ...]:
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * spatial if len(sizes) == 1 else sizes


def _padding(mode: str, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers that ``"valid"`` and ``"same"`` stand for."""
    if mode == "valid":
        return (0,) * len(kernel)
    both = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    if mode != "same" or any(sides % 2 for sides in both):  # more on one side than on the other
        raise NotCovered
    return tuple(sides // 2 for sides in both)
