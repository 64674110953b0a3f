"""What has a child inherited that takes a step of growth after it got its parent's weights? The same, carried through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lightning_evo.functional.growth.steps import Growth
from lightning_evo.functional.inheritance.inheritance import Inheritance
from lightning_evo.functional.inheritance.placement import TensorMap

__all__ = ["inheritance_after"]


def inheritance_after(
    inheritance: Inheritance, growth: Growth, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Inheritance:
    """What a network has inherited, under the names it has after a step of growth.

    What a step moved is in part the parent's; what it added begins so that the network computes the same, and counts as
    identity. Of a tensor that inheriting and growth have both changed no map is kept, so that it begins without moments.

    Args:
        inheritance: Before the step, as :func:`~lightning_evo.functional.inherit` or this gave it.
        growth: What :func:`~lightning_evo.functional.grow` returned.
        before: ``state_dict(keep_vars=True)`` of the network before the step.
        after: The same afterwards.

    >>> from torch import nn
    >>> from lightning_evo.functional import inherit
    >>> from lightning_evo.functional.growth.growth import GrowthStep, grow
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
    """For each tensor that was there before the step, its name then."""
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
    """Two maps as one, where one of them leaves a tensor as it is."""
    if move is None or move.rows is None:
        return inherited
    return move if inherited.rows is None else None
