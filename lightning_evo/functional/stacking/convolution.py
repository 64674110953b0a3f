"""How are the convolutions of all particles computed at once? In the way that is fastest for their shape on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo.functional.stacking.autotuning import choose, chosen
from lightning_evo.functional.stacking.tensors import (
    NotCovered,
    autocast_dtype,
    channels_joined,
    lowered,
    particles_first,
)

__all__ = ["RULES", "Convolution", "Operands", "call_of", "detached", "in_format", "key_of", "stacked_convolution"]

_Sizes = int | tuple[int, ...] | list[int]


@dataclass(frozen=True)
class Convolution:
    """The settings of a call of ``torch.conv2d`` or its like."""

    function: Callable[..., Tensor]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    output_padding: tuple[int, ...] | None = None  # transposed ones have it

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        if self.output_padding is None:
            return self.function(x, weight, bias, self.stride, self.padding, self.dilation, groups)
        return self.function(x, weight, bias, self.stride, self.padding, self.output_padding, groups, self.dilation)

    @property
    def spatial(self) -> int:
        """How many axes there are beside batch and channels."""
        return len(self.stride)

    def output_sizes(self, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """Of the spatial axes of the output, for those of the input (not for transposed convolutions)."""
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
        return len(self.weight)


_Lowering = Callable[[Convolution, Operands], tuple[Tensor, int]]


def _grouped(convolution: Convolution, operands: Operands, channels_last: bool) -> tuple[Tensor, int]:
    """One grouped convolution over the channels of all particles; one ordinary convolution where all see the same."""
    x, groups = operands.x, convolution.groups
    if operands.dim is not None or groups > 1 or convolution.output_padding is not None:
        x, groups = channels_joined(x, operands.dim, operands.particles), groups * operands.particles
    x = in_format(x, channels_last)
    bias = None if operands.bias is None else operands.bias.flatten()
    out = convolution(x, operands.weight.flatten(0, 1), bias, groups)
    return out.unflatten(1, (operands.particles, -1)), 1


def _separate(convolution: Convolution, operands: Operands, channels_last: bool) -> tuple[Tensor, int]:
    """One convolution for each particle: for large ones a CPU has faster kernels than for grouped ones."""
    if operands.dim is None:
        xs = [in_format(operands.x, channels_last)] * operands.particles
    else:
        xs = [in_format(x, channels_last) for x in operands.x.unbind(operands.dim)]
    biases = [None] * operands.particles if operands.bias is None else operands.bias.unbind()
    outs = [
        convolution(x, weight, bias, convolution.groups)
        for x, weight, bias in zip(xs, operands.weight.unbind(), biases, strict=True)
    ]
    return torch.cat(outs).unflatten(0, (operands.particles, -1)), 0


def _columns(convolution: Convolution, operands: Operands) -> tuple[Tensor, int]:
    """All see the same: one product of its patches, (batch · positions, in · kernel), with the kernels of all particles."""
    patches = operands.x
    if any(convolution.padding):
        patches = F.pad(patches, [side for padding in reversed(convolution.padding) for side in (padding, padding)])
    spatial = convolution.spatial
    for axis, (size, step) in enumerate(zip(operands.weight.shape[3:], convolution.stride, strict=True), start=2):
        patches = patches.unfold(axis, size, step)
    patches = patches.movedim(1, 1 + spatial)  # (batch, positions..., in, kernel...)
    positions = patches.shape[: 1 + spatial]
    rows = patches.reshape(positions.numel(), -1)
    bias = None if operands.bias is None else operands.bias.flatten()
    out = F.linear(rows, operands.weight.flatten(0, 1).flatten(1), bias)
    out = out.view(*positions, operands.particles, -1)
    return out.movedim((-2, -1), (1, 2)), 1


def in_format(x: Tensor, channels_last: bool) -> Tensor:
    """``x`` in NCHW or channels_last memory, so that a convolution answers in the same."""
    if not channels_last:
        return x.contiguous()
    _, channels, height, width = x.shape
    if channels == 1 and x.is_contiguous():
        # One channel is in both formats at once, and convolutions then answer in NCHW, which max pooling, for one, takes
        # four times as long for. These strides are those of channels_last alone.
        return x.as_strided(x.shape, (height * width, 1, width, 1))
    return x.contiguous(memory_format=torch.channels_last)


def _candidates(convolution: Convolution, operands: Operands) -> dict[str, _Lowering]:
    found: dict[str, _Lowering] = {}
    if convolution.spatial == 2:
        found["grouped channels_last"] = partial(_grouped, channels_last=True)
        found["separate channels_last"] = partial(_separate, channels_last=True)
    if convolution.spatial != 2 or operands.x.device.type != "cpu":
        # On a CPU NCHW isn't even tried for pictures: what it gains here and there, the pooling behind it loses.
        found["grouped"] = partial(_grouped, channels_last=False)
        found["separate"] = partial(_separate, channels_last=False)
    if (
        operands.dim is None
        and not operands.x.requires_grad  # its gradient would have to be put together from overlapping patches
        and convolution.output_padding is None
        and convolution.groups == 1
        and all(step == 1 for step in convolution.dilation)
    ):
        found["columns"] = _columns
    return found


def _default(convolution: Convolution, operands: Operands, names: dict[str, _Lowering]) -> str:
    """Without timing: as measured on one core of an AMD EPYC (AVX-512) and, on GPUs, by what cuDNN is written for."""
    if operands.x.device.type != "cpu":
        return "grouped"
    if "columns" in names:
        return "columns"
    way = "separate" if operands.weight[0, 0].numel() > 100 else "grouped"
    return f"{way} channels_last" if convolution.spatial == 2 else way


def stacked_convolution(
    convolution: Convolution,
    particles: int,
    dims: tuple[int | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    """The convolution of all particles, and its axis of particles; see :func:`~.stacked_tensors.lowered`."""
    if not x.is_floating_point():
        raise NotCovered
    bias = None if bias is None else particles_first(bias, dims[2])
    operands = Operands(x, dims[0], particles_first(weight, dims[1]), bias)
    candidates = _candidates(convolution, operands)
    key = key_of(convolution, operands)
    name = chosen(key)
    if name not in candidates:
        tried = detached(operands)
        name = choose(
            key,
            {name: partial(_output, lowering, convolution, tried) for name, lowering in candidates.items()},
            [tensor for tensor in (tried.x, tried.weight, tried.bias) if tensor is not None],
            _default(convolution, operands, candidates),
        )
    return candidates[name](convolution, operands)


def _output(lowering: _Lowering, convolution: Convolution, operands: Operands) -> Tensor:
    return lowering(convolution, operands)[0]


def detached(operands: Operands) -> Operands:
    """The same tensors as leaves, for timing."""
    bias = None if operands.bias is None else _leaf(operands.bias)
    return replace(operands, x=_leaf(operands.x), weight=_leaf(operands.weight), bias=bias)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def key_of(convolution: Convolution, operands: Operands) -> str:
    """What the time of a convolution depends on. Batches count as alike within powers of four: the last of an epoch."""
    x = operands.x
    batch = x.shape[1 if operands.dim == 0 else 0]
    shape = [size for axis, size in enumerate(x.shape) if axis not in (operands.dim, 1 if operands.dim == 0 else 0)]
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda axis: (strides[axis], axis), reverse=True)
    differentiated = torch.is_grad_enabled() and (x.requires_grad, operands.weight.requires_grad)
    return (
        f"{convolution.function.__name__} {operands.particles}x{shape} batch~4^{batch.bit_length() // 2}"
        f" weight {list(operands.weight.shape[1:])} bias {operands.bias is not None} stride {convolution.stride}"
        f" padding {convolution.padding} dilation {convolution.dilation} groups {convolution.groups}"
        f" memory {operands.dim}{order} {x.dtype} autocast {autocast_dtype(x.device)} gradients {differentiated}"
        f" {_device_key(x.device)}"
    )


def _device_key(device: torch.device) -> str:
    if device.type == "cpu":
        return f"on cpu with {torch.get_num_threads()} threads"
    return f"on {torch.get_device_module(device).get_device_name(device)}"


def call_of(
    function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
) -> tuple[Convolution, tuple[Tensor, Tensor, Tensor | None]]:
    """A call of ``torch.conv1d``, ``conv2d`` or ``conv3d`` in standard form: its settings, and its tensors.

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
        convolution, tensors = call_of(function, *args, **kwargs)
        return lowered(partial(stacked_convolution, convolution), *tensors)

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
        return lowered(partial(stacked_convolution, convolution), input, weight, bias)

    return rule


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


RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    torch.conv1d: _rule(torch.conv1d),
    torch.conv2d: _rule(torch.conv2d),
    torch.conv3d: _rule(torch.conv3d),
    torch.conv_transpose1d: _transposed_rule(torch.conv_transpose1d, 1),
    torch.conv_transpose2d: _transposed_rule(torch.conv_transpose2d, 2),
    torch.conv_transpose3d: _transposed_rule(torch.conv_transpose3d, 3),
}
