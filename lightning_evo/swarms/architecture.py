"""Are two networks of one architecture? Their classes, names, shapes and dtypes, in words that can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import zip_longest

from torch import Tensor, nn

__all__ = ["architecture_of", "describe", "first_difference"]


def describe(module: nn.Module) -> tuple[str, ...]:
    """What makes up an architecture: each submodule's class, each parameter's and buffer's shape and dtype.

    Settings that no tensor shows (a stride, a dropout's probability) are not part of it.

    >>> describe(nn.Linear(3, 2))
    ('the module is torch.nn.modules.linear.Linear', 'weight is float32 (2, 3)', 'bias is float32 (2,)')
    """
    classes = (
        f"{name or 'the module'} is {type(child).__module__}.{type(child).__qualname__}"
        for name, child in module.named_modules(remove_duplicate=False)
    )
    tensors = (
        f"{name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    )
    return (*classes, *tensors)


def architecture_of(module: nn.Module) -> str:
    """A short name of a module's architecture, equal for modules whose weights can be averaged; stable across machines.

    >>> architecture_of(nn.Linear(3, 2)) == architecture_of(nn.Linear(3, 2)) != architecture_of(nn.Linear(3, 4))
    True
    """
    return hashlib.blake2b("\n".join(describe(module)).encode(), digest_size=16).hexdigest()


def first_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str] | None:
    """Where two descriptions (:func:`describe`) first differ: what each says there; ``None`` if they are equal.

    >>> first_difference(describe(nn.Linear(3, 2)), describe(nn.Linear(4, 2)))
    ('weight is float32 (2, 3)', 'weight is float32 (2, 4)')
    """
    for ours, theirs in zip_longest(one, other, fillvalue="there is nothing more"):
        if ours != theirs:
            return ours, theirs
    return None
