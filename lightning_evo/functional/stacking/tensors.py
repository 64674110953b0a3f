"""How does a function under ``torch.func.vmap`` get at the tensors of all particles, and in which order are their axes?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_functorch: Any
try:  # what torch's own batching of autograd.Function calls
    from torch._C import _functorch
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter as _interpreter

    _functorch.TransformType, _functorch._unwrap_batched, _functorch._add_batch_dim  # noqa: B018
except (ImportError, AttributeError):
    _functorch = None

__all__ = ["NotCovered", "autocast_dtype", "channels_joined", "lowered", "particles_first"]


class NotCovered(Exception):
    """A call that no rule computes exactly; vmap's own rule takes it."""


def lowered(function: Callable[..., tuple[Tensor, int]], *operands: Tensor | None) -> Tensor:
    """Call ``function(particles, dims, *operands)`` with the stacked operands, from inside ``torch.func.vmap``.

    Args:
        function: Gets the number of particles, for each operand the axis that counts them (``None`` where the operand is
            no stacked tensor) and the operands. Returns its output and the output's axis of particles.
        operands: As the caller under ``vmap`` sees them: those of one particle.

    Returns:
        The output as one particle's, recorded by ordinary autograd.

    Raises:
        NotCovered: If none of the operands is stacked, or the function says so.

    >>> def add(particles, dims, x, y):
    ...     return x + y.unsqueeze(1 - dims[1]), 0
    >>> torch.func.vmap(lambda x, y: lowered(add, x, y))(torch.zeros(2, 3), torch.tensor([1.0, 2.0]))
    tensor([[1., 1., 1.],
            [2., 2., 2.]])
    """
    if _functorch is None:
        return _Lowered.apply(function, *operands)
    interpreter: Any = _interpreter()
    if interpreter.key() != _functorch.TransformType.Vmap:
        raise NotCovered  # the network differentiates inside the call
    level = interpreter.level()
    tensors, dims = [], []
    for operand in operands:
        tensor, dim = (None, None) if operand is None else _functorch._unwrap_batched(operand, level)
        tensors.append(tensor)
        dims.append(dim)
    if all(dim is None for dim in dims):
        raise NotCovered
    with interpreter.lower():
        out, at = function(interpreter.batch_size(), tuple(dims), *tensors)
    return _functorch._add_batch_dim(out, at, level)


class _Lowered(torch.autograd.Function):
    """The same by the documented way alone, at twenty times the cost: for a torch whose inner functions have changed.

    ``forward`` is reached where no operand is stacked, ``setup_context`` where the network differentiates inside the call.
    """

    @staticmethod
    def forward(*operands: Any) -> Any:
        raise NotCovered

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise NotCovered

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Callable[..., Any], *operands: Any) -> Any:
        return function(info.batch_size, in_dims[1:], *operands)


def particles_first(tensor: Tensor, dim: int | None) -> Tensor:
    """A view with the axis of particles in front.

    Raises:
        NotCovered: If it has none.

    >>> particles_first(torch.zeros(5, 2, 3), 1).shape
    torch.Size([2, 5, 3])
    """
    if dim is None:
        raise NotCovered
    return tensor.movedim(dim, 0)


def channels_joined(tensor: Tensor, dim: int | None, particles: int) -> Tensor:
    """The channels of all particles behind one another, (batch, particles · channels, ...); a view where memory allows it.

    Args:
        tensor: Each particle's is (batch, channels, ...).
        dim: Its axis of particles; ``None`` if there is one tensor for all.
        particles: How many.

    >>> channels_joined(torch.zeros(2, 5, 3, 8, 8), 0, 2).shape
    torch.Size([5, 6, 8, 8])
    >>> channels_joined(torch.zeros(5, 3, 8, 8), None, 2).shape
    torch.Size([5, 6, 8, 8])
    """
    if dim is not None:
        return tensor.movedim(dim, 1).flatten(1, 2)
    return tensor.unsqueeze(1).expand(-1, particles, *tensor.shape[1:]).flatten(1, 2)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The data type that autocast computes layers in on a device; ``None`` where it is off.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_dtype(torch.device("cpu"))
    torch.bfloat16
    """
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
