"""Which calls wait for the next ones, because together they are cheaper? Convolution and ReLU, for the max pooling.

``max_pool(relu(x))`` and ``relu(max_pool(x))`` are equal, and so are their gradients: the largest element of a window is
positive in both or in neither, and where it is positive it is the same element. The second spares three passes over the
unpooled tensor, a good part of what a small convolutional network's first layer costs on a CPU; where a convolution
comes before, its output needn't be in memory as a whole at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo.functional.pooled_convolution import output_placeholder, pooled_convolution
from lightning_evo.functional.stacked_tensors import NotCovered, lowered

__all__ = ["Postponing"]

_RELUS = {F.relu, torch.relu, Tensor.relu}
_MAXIMA = {
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
_ABOUT = {
    Tensor.dim,
    Tensor.get_device,
    Tensor.is_floating_point,
    Tensor.ndimension,
    Tensor.numel,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "is_cuda")),
}
"""What asks about a tensor's form and not about its values."""

_WORTHWHILE = 2**17
"""Elements of all particles from which on a pass over the memory costs more than the bookkeeping here."""


class Postponing:
    """Stands between a network and torch under ``vmap``, and has large convolutions and ReLUs wait for what follows.

    They return a placeholder. Max pooling of a ReLU's placeholder pools what went into the ReLU, and the ReLU follows; if
    that is a convolution's placeholder, convolution and pooling are one. Any other call that takes a placeholder gets the
    value, computed then; before a call that changes a tensor in place all values are computed.

    A network that changes a ReLU's input in place after its output was pooled is refused by autograd, with its own error.

    Args:
        particles: How many there are.
        proceed: Makes a call that doesn't wait, ``proceed(func, args, kwargs)``.
    """

    def __init__(self, particles: int, proceed: Callable[..., Any]) -> None:
        self.particles, self.proceed = particles, proceed
        self._waiting: dict[int, _Waiting] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the call returns, or a placeholder for it."""
        plain_relu = func in _RELUS and len(args) == 1 and not any(kwargs.values())
        if self._waiting and func not in _ABOUT:
            first = self._waiting.get(id(args[0])) if args else None
            if first is not None and first.value is None:
                if func in _MAXIMA and len(args) < 7 and not kwargs.get("return_indices"):
                    relu = first.func in _RELUS
                    return self._pooled(func, first.args[0] if relu else args[0], args[1:], kwargs, relu)
                if first.func is torch.conv2d and func is F.relu and kwargs == {"inplace": True}:
                    return self._relu_in_place(first)
            if _changes_in_place(func, kwargs):
                for waiting in self._waiting.values():
                    self._settle(waiting)
        if func is torch.conv2d or plain_relu:
            try:
                return self._wait(func, args if plain_relu else self.settled(args), self.settled(kwargs))
            except NotCovered:
                pass
        return self.proceed(func, self.settled(args), self.settled(kwargs))

    def settled(self, values: Any) -> Any:
        """The same values (a tensor, or lists, tuples and dicts of any) without placeholders."""
        if not self._waiting:
            return values
        if isinstance(values, Tensor):
            waiting = self._waiting.get(id(values))
            return values if waiting is None else self._settle(waiting)
        if type(values) in (list, tuple):
            return type(values)(self.settled(value) for value in values)
        if type(values) is dict:
            return {name: self.settled(value) for name, value in values.items()}
        return values

    def _wait(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        waiting = _Waiting(func, args, kwargs)
        if func is torch.conv2d:
            waiting.placeholder = output_placeholder(self.particles, *args, **kwargs)
        elif args[0].numel() * self.particles < _WORTHWHILE:
            raise NotCovered
        else:
            waiting.placeholder = lowered(waiting.alias, args[0])
        self._waiting[id(waiting.placeholder)] = waiting
        return waiting.placeholder

    def _relu_in_place(self, convolution: _Waiting) -> Tensor:
        """There is no memory to change yet: from now on the placeholder stands for the ReLU's value."""
        before = _Waiting(convolution.func, convolution.args, convolution.kwargs)
        before.placeholder = output_placeholder(self.particles, *before.args, **before.kwargs)
        relu = _Waiting(F.relu, (before.placeholder,), {})
        relu.placeholder = convolution.placeholder
        self._waiting |= {id(before.placeholder): before, id(relu.placeholder): relu}
        return relu.placeholder

    def _settle(self, waiting: _Waiting) -> Tensor:
        if waiting.value is None:
            if waiting.func in _RELUS:
                waiting.value = lowered(waiting.relu, self.settled(waiting.args[0]))
            else:
                waiting.value = self.proceed(waiting.func, waiting.args, waiting.kwargs)
        return waiting.value

    def _pooled(
        self, func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], relu: bool
    ) -> Tensor:
        """The pooled ``x``, which is perhaps a convolution that waits; and the ReLU of it, if there is one."""
        convolution = self._waiting.get(id(x))
        if convolution is not None and convolution.value is None and func in (F.max_pool2d, torch.max_pool2d):
            try:
                return pooled_convolution(convolution.args, convolution.kwargs, args, kwargs, relu)
            except NotCovered:
                pass
        pooled: Tensor = self.proceed(func, (self.settled(x), *args), kwargs)
        return torch.relu(pooled) if relu else pooled


class _Waiting:
    """A convolution or ReLU that hasn't been computed yet."""

    placeholder: Tensor

    def __init__(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.value: Tensor | None = None
        self._version: int | None = None

    def alias(self, particles: int, dims: tuple[int, ...], x: Tensor) -> tuple[Tensor, int]:
        self._version = None if x.is_inference() else x._version
        return x.view_as(x), dims[0]

    def relu(self, particles: int, dims: tuple[int, ...], x: Tensor) -> tuple[Tensor, int]:
        if self._version not in (None, 0 if x.is_inference() else x._version):
            raise RuntimeError(
                "the input of a ReLU was changed in place before the ReLU was computed: stack without rules"
            )
        return torch.relu(x), dims[0]


def _changes_in_place(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    name = getattr(func, "__name__", "")
    operator = name == "__setitem__" or (name.startswith("__i") and name.endswith("__"))
    return (
        operator or (name.endswith("_") and not name.endswith("__")) or "out" in kwargs or bool(kwargs.get("inplace"))
    )
