"""Access to the tensors of all particles from inside ``torch.func.vmap``, and the order of their axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_evo._compat.torch import HAS_FUNCTORCH, add_batch_dim, current_vmap, unwrap_batched

__all__ = ["NotCovered", "autocast_dtype", "channels_joined", "lowered", "particles_first"]


class NotCovered(Exception):
    """Raised by a rule for a call that it doesn't compute exactly; vmap's own rule computes it."""


def lowered(function: Callable[..., tuple[Tensor, int]], *operands: Tensor | None) -> Tensor:
    """Call ``function(particles, dims, *operands)`` with the stacked operands, from inside ``torch.func.vmap``.

    Args:
        function: Is given the number of particles, for each operand the axis that counts them (``None`` where the operand
            isn't stacked) and the stacked operands. Returns its output and the output's axis of particles.
        operands: As the caller under ``vmap`` sees them: those of one particle.

    Returns:
        The output as that of one particle, recorded by ordinary autograd.

    Raises:
        NotCovered: If none of the operands is stacked, or the function raises it.

    >>> def add(particles, dims, x, y):
    ...     return x + y.unsqueeze(1 - dims[1]), 0
    >>> torch.func.vmap(lambda x, y: lowered(add, x, y))(torch.zeros(2, 3), torch.tensor([1.0, 2.0]))
    tensor([[1., 1., 1.],
            [2., 2., 2.]])
    """
    if not HAS_FUNCTORCH:
        return _Lowered.apply(function, *operands)
    vmap = current_vmap()
    if vmap is None:
        raise NotCovered  # the network differentiates inside the call
    tensors, dims = [], []
    for operand in operands:
        tensor, dim = (None, None) if operand is None else unwrap_batched(operand, vmap)
        tensors.append(tensor)
        dims.append(dim)
    if all(dim is None for dim in dims):
        raise NotCovered
    with vmap.lower():
        out, at = function(vmap.batch_size(), tuple(dims), *tensors)
    return add_batch_dim(out, at, vmap)


class _Lowered(torch.autograd.Function):
    """The same through documented interfaces alone, at twenty times the cost, for a torch whose private ones have changed.

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
        NotCovered: If the tensor has no such axis.

    >>> particles_first(torch.zeros(5, 2, 3), 1).shape
    torch.Size([2, 5, 3])
    """
    if dim is None:
        raise NotCovered
    return tensor.movedim(dim, 0)


def channels_joined(tensor: Tensor, dim: int | None, particles: int) -> Tensor:
    """The channels of all particles concatenated, (batch, particles · channels, ...); a view where memory allows it.

    Args:
        tensor: (batch, channels, ...) of each particle.
        dim: Its axis of particles; ``None`` if there is one tensor for all.
        particles: The number of particles.

    >>> channels_joined(torch.zeros(2, 5, 3, 8, 8), 0, 2).shape
    torch.Size([5, 6, 8, 8])
    >>> channels_joined(torch.zeros(5, 3, 8, 8), None, 2).shape
    torch.Size([5, 6, 8, 8])
    """
    if dim is not None:
        return tensor.movedim(dim, 1).flatten(1, 2)
    return tensor.unsqueeze(1).expand(-1, particles, *tensor.shape[1:]).flatten(1, 2)


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The data type in which autocast computes layers on a device; ``None`` where it is off.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     autocast_dtype(torch.device("cpu"))
    torch.bfloat16
    """
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
