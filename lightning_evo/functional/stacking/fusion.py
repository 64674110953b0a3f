"""Fusion of convolution, ReLU and max pooling, an optional part of the stacked computation.

``max_pool(relu(conv(x)))`` passes four times over the convolution's output, forward and backward. For many particles that
output is tens of megabytes, more than a processor's cache holds. Two changes reduce the traffic, not the result:

- A ReLU that is followed by max pooling is computed after it, on the smaller output.
- A large convolution that is followed by max pooling is computed for a few samples of the batch at a time, together with the
  pooling, so that its output stays in the cache.

Both need to know what follows a call. :class:`Fuser` therefore defers convolutions and ReLUs: it returns a placeholder, and
computes the value when another call needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo._compat.torch import tensor_version
from lightning_evo.functional.stacking.convolution import Convolution, convolution_call, in_memory_format
from lightning_evo.functional.stacking.optional import PARTS, Call
from lightning_evo.functional.stacking.tensors import (
    NotCovered,
    autocast_dtype,
    channels_joined,
    lowered,
    particles_first,
)

__all__ = ["Fuser", "pooled_convolution"]

_RELUS = {F.relu, torch.relu, Tensor.relu}
_MAX_POOLS = {
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    torch.max_pool1d,
    torch.max_pool2d,
    torch.max_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
}
_METADATA = {
    Tensor.dim,
    Tensor.get_device,
    Tensor.is_floating_point,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda")),
}
"""Calls that depend on a tensor's form and not on its values."""

_RELU_ELEMENTS = 2**17
"""Elements of all particles from which on a pass over the memory costs more than deferring a ReLU."""

_CONVOLUTION_ELEMENTS = 2**20
"""Elements of an output, those of all particles, that a core's cache doesn't hold."""

_CHUNK_ELEMENTS = 2**19
"""Elements of the output that are computed at a time."""


class Fuser:
    """Defers large convolutions and ReLUs under ``vmap`` until the next calls show what can be fused.

    They return a placeholder. Max pooling of a ReLU's placeholder pools the input of the ReLU, and the ReLU follows; if that
    input is a convolution's placeholder, convolution and pooling are computed together. Any other call that is given a
    placeholder gets its value, computed then; before a call that changes a tensor in place, all values are computed.

    A network that changes a ReLU's input in place after its output was pooled gets autograd's own error.

    Args:
        particles: The number of particles.
        proceed: Makes a call that isn't deferred.
    """

    def __init__(self, particles: int, proceed: Call) -> None:
        self.particles, self.proceed = particles, proceed
        self._deferred: dict[int, _DeferredCall] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the call, or a placeholder for it."""
        plain_relu = func in _RELUS and len(args) == 1 and not any(kwargs.values())
        if self._deferred and func not in _METADATA:
            first = self._deferred.get(id(args[0])) if args else None
            if first is not None and first.value is None:
                if func in _MAX_POOLS and len(args) < 7 and not kwargs.get("return_indices"):
                    relu = first.func in _RELUS
                    return self._pooled(func, first.args[0] if relu else args[0], args[1:], kwargs, relu)
                if first.func is torch.conv2d and func is F.relu and kwargs == {"inplace": True}:
                    return self._relu_in_place(first)
            if _changes_in_place(func, kwargs):
                for deferred in self._deferred.values():
                    self._value_of(deferred)
        if func is torch.conv2d or plain_relu:
            try:
                return self._defer(func, args if plain_relu else self.settled(args), self.settled(kwargs))
            except NotCovered:
                pass
        return self.proceed(func, self.settled(args), self.settled(kwargs))

    def settled(self, values: Any) -> Any:
        """The same values (a tensor, or lists, tuples and dicts of any) without placeholders."""
        if not self._deferred:
            return values
        if isinstance(values, Tensor):
            deferred = self._deferred.get(id(values))
            return values if deferred is None else self._value_of(deferred)
        if type(values) in (list, tuple):
            return type(values)(self.settled(value) for value in values)
        if type(values) is dict:
            return {name: self.settled(value) for name, value in values.items()}
        return values

    def _defer(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        deferred = _DeferredCall(func, args, kwargs)
        if func is torch.conv2d:
            deferred.placeholder = _output_placeholder(self.particles, *args, **kwargs)
        elif args[0].numel() * self.particles < _RELU_ELEMENTS:
            raise NotCovered
        else:
            deferred.placeholder = lowered(deferred.alias, args[0])
        self._deferred[id(deferred.placeholder)] = deferred
        return deferred.placeholder

    def _relu_in_place(self, convolution: _DeferredCall) -> Tensor:
        """There is no memory to change yet: from now on the placeholder stands for the ReLU's value."""
        before = _DeferredCall(convolution.func, convolution.args, convolution.kwargs)
        before.placeholder = _output_placeholder(self.particles, *before.args, **before.kwargs)
        relu = _DeferredCall(F.relu, (before.placeholder,), {})
        relu.placeholder = convolution.placeholder
        self._deferred |= {id(before.placeholder): before, id(relu.placeholder): relu}
        return relu.placeholder

    def _value_of(self, deferred: _DeferredCall) -> Tensor:
        if deferred.value is None:
            if deferred.func in _RELUS:
                deferred.value = lowered(deferred.relu, self.settled(deferred.args[0]))
            else:
                deferred.value = self.proceed(deferred.func, deferred.args, deferred.kwargs)
        return deferred.value

    def _pooled(
        self, func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], relu: bool
    ) -> Tensor:
        """The pooled ``x``, which may be a deferred convolution, and the ReLU of it if there is one."""
        convolution = self._deferred.get(id(x))
        if convolution is not None and convolution.value is None and func in (F.max_pool2d, torch.max_pool2d):
            try:
                return pooled_convolution(convolution.args, convolution.kwargs, args, kwargs, relu)
            except NotCovered:
                pass
        pooled: Tensor = self.proceed(func, (self.settled(x), *args), kwargs)
        return torch.relu(pooled) if relu else pooled


PARTS.fusion = Fuser


class _DeferredCall:
    """A convolution or ReLU that hasn't been computed yet."""

    placeholder: Tensor

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.value: Tensor | None = None
        self._version: int | None = None

    def alias(self, particles: int, dims: tuple[int, ...], x: Tensor) -> tuple[Tensor, int]:
        """A ReLU's placeholder: a view of its input."""
        self._version = None if x.is_inference() else tensor_version(x)
        return x.view_as(x), dims[0]

    def relu(self, particles: int, dims: tuple[int, ...], x: Tensor) -> tuple[Tensor, int]:
        """The ReLU's value, if its input is still what it was."""
        if self._version not in (None, 0 if x.is_inference() else tensor_version(x)):
            raise RuntimeError(
                "the input of a ReLU was changed in place before the ReLU was computed: stack without rules"
            )
        return torch.relu(x), dims[0]


def _output_placeholder(particles: int, *args: Any, **kwargs: Any) -> Tensor:
    """A tensor of the form of ``torch.conv2d(*args, **kwargs)``, under ``vmap``, without values of its own.

    Raises:
        NotCovered: If :func:`pooled_convolution` doesn't pay for an output this small, or doesn't cover the call.
    """
    convolution, (x, weight, _) = convolution_call(torch.conv2d, *args, **kwargs)
    if x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu" or autocast_dtype(x.device) is not None:
        raise NotCovered
    sizes = (len(x), weight.shape[0], *convolution.output_sizes(x.shape[2:], weight.shape[2:]))
    if particles * torch.Size(sizes).numel() < _CONVOLUTION_ELEMENTS:
        raise NotCovered
    return lowered(partial(_empty, sizes), x, weight)


def _empty(
    sizes: tuple[int, ...], particles: int, dims: tuple[int | None, ...], x: Tensor, weight: Tensor
) -> tuple[Tensor, int]:
    if dims[1] is None:
        raise NotCovered
    return x.new_empty(()).expand(particles, *sizes), 0


def _changes_in_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    operator = name == "__setitem__" or (name.startswith("__i") and name.endswith("__"))
    return (
        operator or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs or bool(kwargs.get("inplace"))
    )


# Convolution and pooling together.


def pooled_convolution(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pool_args: tuple[Any, ...],
    pool_kwargs: dict[str, Any],
    relu: bool = True,
) -> Tensor:
    """``relu(max_pool2d(conv2d(*args, **kwargs), *pool_args, **pool_kwargs))``, under ``vmap``; or without ReLU.

    Raises:
        NotCovered: If it can only be computed one after the other.
    """
    convolution, tensors = convolution_call(torch.conv2d, *args, **kwargs)
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
    weight = particles_first(weight, dims[1]).flatten(0, 1)
    bias = None if bias is None else particles_first(bias, dims[2]).flatten()
    groups = convolution.groups
    if dims[0] is not None or groups > 1:
        x, groups = channels_joined(x, dims[0], particles), groups * particles
    out = _InChunks.apply(in_memory_format(x, channels_last=True), weight, bias, convolution, groups, pool)
    return out.unflatten(1, (particles, -1)), 1


class _InChunks(torch.autograd.Function):
    """Convolution, max pooling and perhaps ReLU of some samples at a time; keeps only the indices of the maxima."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution, groups: int, pool: _Pool
    ) -> Tensor:
        each = weight.shape[0] * torch.Size(convolution.output_sizes(x.shape[2:], weight.shape[2:])).numel()
        ctx.chunk = max(1, _CHUNK_ELEMENTS // each)
        pooled, ctx.indices, ctx.form = [], [], None
        for samples in x.split(ctx.chunk):
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
        if torch.is_grad_enabled():  # to be differentiated once more: by autograd's own formulas
            out = pool(convolution(x, weight, bias, ctx.groups))
            inputs = [t for t, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(out, inputs, gradient, create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:3]), None, None, None
        if result is not None:
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0)
        sums: list[Tensor | None] = [None, None]
        of_x = []
        chunks = zip(x.split(ctx.chunk), gradient.split(ctx.chunk), ctx.indices, strict=True)
        for samples, pooled, indices in chunks:
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
