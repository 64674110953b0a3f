"""Steps of growth as plain data: the request, the step, what it did, and what a child has inherited after it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from lightning_evo.functional.inheritance.inheritance import Inheritance
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
    "StepRequest",
    "check_operation",
    "check_request",
    "inheritance_after",
    "number",
]


Operation = Literal["insert", "widen", "residual", "prune", "kernel", "activation"]
NewWeights = Literal["zero", "net2wider", "gradmax"]


class GrowthError(ValueError):
    """Raised for a step that can't be taken; the message names the layer and the reason."""


class NothingChanged(GrowthError):
    """Raised for a step that was taken and left the network as it was."""


@dataclass(frozen=True)
class GrowthStep:
    """One change of a network's structure, in absolute numbers: on the same network it always builds the same structure.

    Args:
        operation: The operation.
        layer: Path of the layer that is changed, in ``named_modules()`` just before the step.
        settings: Whatever else determines the structure, as JSON: absolute numbers, never ratios.
    """

    operation: Operation
    layer: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.operation not in get_args(Operation):
            raise GrowthError(f"operation: {self.operation!r} is not one of {', '.join(get_args(Operation))}")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"operation": self.operation, "layer": self.layer, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GrowthStep:
        """Make it from the result of :meth:`to_dict`."""
        return cls(data["operation"], data["layer"], dict(data.get("settings", {})))


@dataclass(frozen=True)
class Moved:
    """A parameter that replaced another one.

    Args:
        name: Its name now.
        old: The replaced parameter, no longer part of the network.
        new: The new one.
        map: Where the old one's numbers went; optimizer moments follow it (:meth:`TensorMap.moments`).
    """

    name: str
    old: nn.Parameter
    new: nn.Parameter
    map: TensorMap


@dataclass(frozen=True)
class Added:
    """A parameter that the network didn't have before.

    Args:
        name: Its name.
        new: The parameter.
        beside: A parameter whose optimizer group it belongs to: the same kind of tensor (weight, bias, normalization) of the
            layer it was added to. ``None`` if there is none.
    """

    name: str
    new: nn.Parameter
    beside: nn.Parameter | None


@dataclass(frozen=True)
class Growth:
    """The effect of a step. Parameters that are neither moved, added nor removed are the same objects as before.

    Args:
        step: The step.
        before: Counted number of parameters before.
        after: Counted number of parameters afterwards.
        moved: Parameters that replaced others.
        added: New parameters.
        removed: Parameters that were removed without a replacement.
        renamed: Old name -> new name, for all tensors of the state dict that stayed under another name.
        why_not: Why the network may compute something other than before (eval mode); empty if it computes the same.
        notes: What was done differently from what was asked, and why (GradMax where it isn't possible).
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
        width: Its number of output channels; 0 for an activation.
        shares: Layers whose tensors change with its width.
    """

    layer: str
    kind: str
    operations: tuple[str, ...]
    why_not: Mapping[str, str]
    width: int = 0
    shares: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepRequest:
    """The requested settings of one step.

    Args:
        where: Path of the layer and the operation, with which error messages begin.
        settings: The settings as given.
        max_added: How many parameters the step may add; ``None`` for any number.
    """

    where: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_added: int | None = None

    def refuse(self, reason: str) -> GrowthError:
        """Return the error to raise."""
        return GrowthError(f"{self.where}: {reason}")

    def only(self, *names: str) -> None:
        """Raise an error for settings of other names."""
        strange = [name for name in self.settings if name not in names]
        if strange:
            raise self.refuse(f"settings: {strange[0]!r} is not one of {', '.join(names)}")

    def number(self, name: str, default: int, least: int = 1) -> int:
        """Return a setting that is a whole number of at least ``least``."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refuse(f"{name}: {value!r} is not an integer of at least {least}")
        return value

    def kernel(self, default: int) -> int:
        """Return the side of a kernel that keeps the size of maps."""
        side = self.number("kernel", default)
        if side % 2 == 0:
            raise self.refuse(f"kernel: {side} is not odd: maps would not keep their size")
        return side

    def allows(self, added: int) -> bool:
        """Whether a number of parameters may be added."""
        return self.max_added is None or added <= self.max_added

    def check(self, least: int) -> None:
        """Raise an error if not even the smallest addition is allowed."""
        if not self.allows(least):
            raise self.refuse(f"it adds at least {least:,} parameters, and at most {self.max_added:,} are allowed")


def check_operation(operation: Any) -> Operation:
    """Return the operation; raise :class:`GrowthError` if it is unknown."""
    if operation not in get_args(Operation):
        raise GrowthError(f"operation: {operation!r} is not one of {', '.join(get_args(Operation))}")
    return cast(Operation, operation)


def number(where: str, value: Any) -> float:
    """Return a finite number; raise an error that begins with ``where`` if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GrowthError(f"{where}: {value!r} is not a number")
    return value


def check_request(request: Any) -> None:
    """Raise :class:`GrowthError` for a mapping that doesn't describe a step (:func:`~.growth.resolve`)."""
    given = {name for name, value in request.items() if value is not None} if isinstance(request, Mapping) else set()
    unknown = given - {"operation", "place", "layer", "ratio", "settings"}
    if unknown or "operation" not in given or ("place" in given) == ("layer" in given):
        raise GrowthError(
            f"a step needs an operation and either a layer or a place, and may have a ratio and settings; got {request!r}"
        )
    check_operation(request["operation"])
    if not isinstance(request.get("settings") or {}, Mapping):
        raise GrowthError(f"settings: {request['settings']!r} is not a mapping")
    if "place" in given and not 0 <= number("place", request["place"]) <= 1:
        raise GrowthError(f"place: {request['place']!r} is not from 0 to 1")


def inheritance_after(
    inheritance: Inheritance, growth: Growth, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Inheritance:
    """Return what a network has inherited, with the names it has after a step of growth.

    What the step moved is in part the parent's. What it added is initialized so that the network computes the same, and
    counts as identity. No map is kept for a tensor that both inheritance and growth have changed, so that it has no moments.

    Args:
        inheritance: Before the step, as :func:`~lightning_evo.functional.inherit` or this gave it.
        growth: The result of :func:`~lightning_evo.functional.grow`.
        before: ``state_dict(keep_vars=True)`` of the network before the step.
        after: ``state_dict(keep_vars=True)`` of the network after the step.

    >>> from torch import nn
    >>> from lightning_evo.functional import inherit
    >>> from lightning_evo.functional.growth import GrowthStep, grow
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> inherited, before = inherit(net, net.state_dict()), net.state_dict(keep_vars=True)
    >>> growth = grow(net, GrowthStep("widen", "0", {"width": 5}))
    >>> result = inheritance_after(inherited, growth, before, net.state_dict(keep_vars=True))
    >>> result.copied, result.sliced
    (('2.bias',), ('0.weight', '0.bias', '2.weight'))
    """
    origins = _origins(growth, before, after)
    moves = {id(moved.new): moved.map for moved in growth.moved}
    outcomes = {name: outcome for outcome in _OUTCOMES for name in getattr(inheritance, outcome)}
    found: dict[str, list[str]] = {outcome: [] for outcome in _OUTCOMES}
    parents: dict[str, str] = {}
    maps: dict[str, TensorMap] = {}
    for name, tensor in after.items():
        old = origins.get(name)
        if old is None:
            found["identity"].append(name)
            continue
        move = moves.get(id(tensor))
        changed = move is not None or tensor.shape != before[old].shape
        outcome = outcomes.get(old, "fresh")
        found["sliced" if changed and outcome == "copied" else outcome].append(name)
        if old in inheritance.parents:
            parents[name] = inheritance.parents[old]
        if old in inheritance.maps and (together := _together(inheritance.maps[old], move)) is not None:
            maps[name] = together
    lists: dict[str, Any] = {outcome: tuple(names) for outcome, names in found.items()}
    why_not = (*inheritance.why_not, *growth.why_not)
    return replace(inheritance, **lists, parents=parents, maps=maps, why_not=why_not)


_OUTCOMES = ("copied", "sliced", "identity", "fresh")


def _origins(growth: Growth, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the earlier name of each tensor that was there before the step."""
    names = {id(tensor): name for name, tensor in before.items()}
    earlier = {new: old for old, new in growth.renamed.items()}
    moved = {id(one.new): names[id(one.old)] for one in growth.moved if id(one.old) in names}
    added = {id(one.new) for one in growth.added}
    origins = {}
    for name, tensor in after.items():
        # A name may have gone over to a new tensor.
        by_name = earlier.get(name, None if name in growth.renamed or id(tensor) in added else name)
        old = moved.get(id(tensor), names.get(id(tensor), by_name))
        if old is not None and old in before:
            origins[name] = old
    return origins


def _together(inherited: TensorMap, move: TensorMap | None) -> TensorMap | None:
    """Combine two maps of which one leaves the tensor as it is; ``None`` if neither does."""
    if move is None or move.rows is None:
        return inherited
    return move if inherited.rows is None else None
