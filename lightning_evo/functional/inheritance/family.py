"""Which family of architectures a network is of, and which of its parts somebody has trained before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_evo._compat.torch import buffers_dict, parameters_dict
from lightning_evo.utils.compiled import original_module, plain_name

__all__ = ["Family", "family_of", "why_another_family"]


@dataclass(frozen=True)
class Family:
    """What a state dict doesn't show of where a network's weights come from.

    Args:
        kind: The class that defines how the module is built, followed by its bases, but for those of torch and Lightning.
        backbone: The same of the child that holds most of its parameters; empty where no child does, or where that is
            one of ``torch.nn``.
        pretrained: Its children with weights that were trained before, by name; ``""`` for the module's own layers.
    """

    kind: tuple[str, ...]
    backbone: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Family:
        """Make it from the result of :meth:`to_dict`."""
        return cls(*(tuple(data[name]) for name in ("kind", "backbone", "pretrained")))


@torch.no_grad()
def family_of(module: nn.Module, given_weights: bool = False) -> Family:
    """Return a module's family.

    A part counts as trained before if it holds a normalization that has seen data: running statistics that aren't those of
    a new one, or, where it keeps none, scales that differ among channels.

    Args:
        module: A module that hasn't been trained here.
        given_weights: Its arguments ask for trained weights: then its backbone (or all of it, where it has none) counts as
            trained too, with whatever layers it has.

    >>> family_of(nn.Sequential(nn.Linear(2, 2))).pretrained
    ()
    """
    sizes = {name: _size(child) for name, child in module.named_children()}
    whole = _size(module)
    largest = max(sizes, key=lambda name: sizes[name], default="")
    backbone: tuple[str, ...] = ()
    if largest and 2 * sizes[largest] > whole:
        child = getattr(module, largest)
        backbone = _names(original_module(child) or child)
    trained = {name.partition(".")[0] for name, part in module.named_modules() if _has_seen_data(part)}
    if given_weights:
        trained.add(largest)
    return Family(_names(module), backbone, tuple(sorted(plain_name(name) for name in trained)))


def why_another_family(child: Family, parent: Family) -> str:
    """Return why two networks are of different families, by their classes; empty if they aren't.

    A class and its subclass are of one family.

    >>> why_another_family(Family(("own.Net",), ("own.Mobile",)), Family(("own.Net",), ("own.ResNet",)))
    'its backbone is own.Mobile, the parent has own.ResNet'
    """
    if child.backbone and parent.backbone:
        what, mine, theirs = "backbone", child.backbone, parent.backbone
    else:
        what, mine, theirs = "class", child.kind, parent.kind
    if not mine or not theirs or mine[0] in theirs or theirs[0] in mine:
        return ""
    return f"its {what} is {mine[0]}, the parent has {theirs[0]}"


def _names(module: nn.Module) -> tuple[str, ...]:
    """The class that builds or runs the network, and its bases: one that only changes the optimizer is no other."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] not in _FOREIGN]
    first = next((i for i, kind in enumerate(kinds) if {"__init__", "forward"} & vars(kind).keys()), 0)
    return tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds[first:])


_FOREIGN = ("builtins", "torch", "lightning", "lightning_fabric", "pytorch_lightning")


def _size(module: nn.Module) -> int:
    return sum(0 if is_lazy(parameter) else parameter.numel() for parameter in module.parameters())


def _has_seen_data(part: nn.Module) -> bool:
    own = {
        name: tensor for name, tensor in {**parameters_dict(part), **buffers_dict(part)}.items() if tensor is not None
    }
    if any(is_lazy(tensor) for tensor in own.values()):
        return False
    if "running_mean" in own:
        seen = own.get("num_batches_tracked")
        return bool(own["running_mean"].any()) or bool(seen is not None and seen.any())
    scale = own.get("weight")
    if scale is None or scale.ndim != 1 or scale.numel() < 2 or "norm" not in type(part).__name__.lower():
        return False
    return bool(scale.min() != scale.max())
