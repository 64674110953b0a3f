"""What is one step of a network's growth, and what did it do? Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from lightning_evo.functional.inheritance.placement import TensorMap

__all__ = [
    "Added",
    "Growth",
    "GrowthError",
    "GrowthStep",
    "Moved",
    "NewWeights",
    "NothingChanged",
    "Operation",
    "Site",
    "Wishes",
    "check_operation",
    "check_wish",
    "number",
]


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


# -- What may be wished of a step? Its settings as they were given, checked; each error says where and wh --


def check_operation(operation: Any) -> None:
    """Refuse what is no operation's name."""
    if operation not in get_args(Operation):
        raise GrowthError(f"operation: {operation!r} is none of {', '.join(get_args(Operation))}")


def number(where: str, value: Any) -> float:
    """A finite number; an error that begins with ``where`` if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GrowthError(f"{where}: {value!r} is not a number")
    return value


def check_wish(wish: Any) -> None:
    """Refuse what doesn't say what is wished where."""
    said = {name for name, value in wish.items() if value is not None} if isinstance(wish, Mapping) else set()
    strange = said - {"operation", "place", "layer", "ratio", "settings"}
    if strange or "operation" not in said or ("place" in said) == ("layer" in said):
        raise GrowthError(
            f"a wish has an operation, and either a layer or a place, beside them ratio and settings; this is {wish!r}"
        )
    check_operation(wish["operation"])
    if not isinstance(wish.get("settings") or {}, Mapping):
        raise GrowthError(f"settings: {wish['settings']!r} is not a mapping")
    if "place" in said and not 0 <= number("place", wish["place"]) <= 1:
        raise GrowthError(f"place: {wish['place']!r} is not from 0 to 1")


@dataclass(frozen=True)
class Wishes:
    """What is wished of one step.

    Args:
        where: Path of the layer and the operation, with which errors begin.
        settings: The wishes.
        max_added: How many parameters the step may add; ``None``: any number.
    """

    where: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_added: int | None = None

    def refuse(self, reason: str) -> GrowthError:
        """The error to raise."""
        return GrowthError(f"{self.where}: {reason}")

    def only(self, *names: str) -> None:
        """Refuse settings of other names."""
        strange = [name for name in self.settings if name not in names]
        if strange:
            raise self.refuse(f"settings: {strange[0]!r} is none of {', '.join(names)}")

    def number(self, name: str, default: int, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refuse(f"{name}: {value!r} is not an integer of at least {least}")
        return value

    def kernel(self, default: int) -> int:
        """The side of a kernel that leaves maps their size."""
        side = self.number("kernel", default)
        if side % 2 == 0:
            raise self.refuse(f"kernel: {side} is not odd: maps would not keep their size")
        return side

    def allows(self, added: int) -> bool:
        """Whether so many parameters may be added."""
        return self.max_added is None or added <= self.max_added

    def check(self, least: int) -> None:
        """Refuse a step if not even the least that it adds is allowed."""
        if not self.allows(least):
            raise self.refuse(f"the least it adds is {least:,} parameters, allowed are {self.max_added:,}")
