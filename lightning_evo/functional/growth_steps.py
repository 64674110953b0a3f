"""What is one step of a network's growth, and what did it do? Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from lightning_evo.functional.tensors import TensorMap

__all__ = ["Added", "Growth", "GrowthError", "GrowthStep", "Moved", "NewWeights", "NothingChanged", "Operation", "Site"]

Operation = Literal["insert", "widen", "residual", "prune", "kernel", "activation"]
NewWeights = Literal["zero", "net2wider", "gradmax"]


class GrowthError(ValueError):
    """A step that can't be taken: the message names the layer and the reason."""


class NothingChanged(GrowthError):
    """A step that was taken, and left the network as it was."""


@dataclass(frozen=True)
class GrowthStep:
    """One change of a network's structure, resolved: the same step on the same network always builds the same structure.

    Args:
        operation: What is done.
        layer: Path of the layer it is done to, in ``named_modules()`` just before the step.
        settings: Whatever else decides the structure, plain JSON: absolute numbers, never ratios.
    """

    operation: Operation
    layer: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise GrowthError(f"operation: {self.operation!r} is none of {', '.join(get_args(Operation))}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"operation": self.operation, "layer": self.layer, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GrowthStep:
        """What :meth:`to_dict` gave."""
        return cls(data["operation"], data["layer"], dict(data.get("settings", {})))


@dataclass(frozen=True)
class Moved:
    """A parameter that took another one's place.

    Args:
        name: Its name now.
        old: The parameter that was there, no longer part of the network.
        new: The one that is.
        map: Which of the old one's numbers went where; optimizer moments follow it (:meth:`TensorMap.moments`).
    """

    name: str
    old: nn.Parameter
    new: nn.Parameter
    map: TensorMap


@dataclass(frozen=True)
class Added:
    """A parameter that the network didn't have.

    Args:
        name: Its name.
        new: Itself.
        beside: A parameter in whose optimizer group it belongs: the same kind of tensor (weight, bias, normalisation) of the
            layer it was added to. ``None`` where there is none.
    """

    name: str
    new: nn.Parameter
    beside: nn.Parameter | None


@dataclass(frozen=True)
class Growth:
    """What a step did to a network. Parameters that are neither moved, added nor removed are the same objects as before.

    Args:
        step: The step.
        before: Number of parameters before, counted.
        after: The same afterwards.
        moved: Parameters in others' places.
        added: New ones.
        removed: Gone without a successor.
        renamed: Old name -> new name, of all tensors of the state dict that stayed but are called otherwise now.
        why_not: Why the network may compute something else than before (eval mode); empty where it computes the same.
        notes: What was done otherwise than asked, and why (GradMax where it isn't possible).
    """

    step: GrowthStep
    before: int
    after: int
    moved: tuple[Moved, ...] = ()
    added: tuple[Added, ...] = ()
    removed: tuple[nn.Parameter, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    why_not: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def preserving(self) -> bool:
        """Whether the network computes what it did before, in eval mode."""
        return not self.why_not


@dataclass(frozen=True)
class Site:
    """A layer of a network, and what can be done to it.

    Args:
        layer: Its path in ``named_modules()``, without the prefixes of ``torch.compile``.
        kind: What it computes: ``linear``, ``conv``, ``transposed``, ``embedding`` or ``activation``.
        operations: What can be done to it.
        why_not: For each operation that can't, the reason.
        width: How many channels it gives; 0 for an activation.
        shares: Layers whose tensors change with its width.
    """

    layer: str
    kind: str
    operations: tuple[str, ...]
    why_not: Mapping[str, str]
    width: int = 0
    shares: tuple[str, ...] = ()
