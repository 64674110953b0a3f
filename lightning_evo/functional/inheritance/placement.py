"""The new value of each of a child's tensors: its map into the parent's tensor, or a fill value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lightning_evo.functional.graph.channels import NEW, keeps_statistics
from lightning_evo.functional.inheritance.alignment import Unit
from lightning_evo.functional.inheritance.layout import Layout, TracedLayer
from lightning_evo.functional.inheritance.roles import Role

__all__ = ["Outcome", "Placement", "TensorMap", "place"]


@dataclass(frozen=True)
class TensorMap:
    """Where each slice of a parent's tensor goes in a child's.

    Args:
        rows: For each index of the child's first axis the parent's, or -1 for none. ``None``: the tensors are alike.
        columns: The same for the second axis, of shape (1, columns), or (rows, columns) where it differs by row as in
            grouped convolutions; ``None`` for tensors of one axis.
        axes: The child's axes in the order rows, columns; ``(1, 0)`` for transposed convolutions.
        zero_new: Whether the weights from new columns to old rows are 0, rather than fresh.
        spread: How unequally copies of a column share its weight, from 0 (equally) to below 1.
        seed: Seed of the spread.

    Further axes, those of a kernel, are aligned at their centers: a smaller one is surrounded by zeros, of a larger one the
    middle is taken.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    axes: tuple[int, int] = (0, 1)
    zero_new: bool = True
    spread: float = 0.0
    seed: int = 0

    def weights(self, parent: Tensor, child: Tensor) -> Tensor:
        """Return the child's weights: the parent's in their places, divided among copies; the child's own in new rows."""
        return self._lay(parent, child.detach().clone(), self._divided)

    def moments(self, parent: Tensor, child: Tensor) -> Tensor:
        """Return an optimizer's state for the child: the parent's in its places, 0 for whatever is new or a copy."""
        first = TensorMap(_first(self.rows), _first(self.columns), self.axes)
        return first._lay(parent, torch.zeros_like(child), lambda values, *_: values)

    def drops_columns(self, parent: Tensor) -> bool:
        """Whether old rows lack some of the parent's columns."""
        if self.rows is None or self.columns is None or not self.zero_new:
            return False
        kept = self.rows >= 0
        if not kept.any():
            return False
        columns = self.columns[kept] if len(self.columns) > 1 else self.columns
        held = torch.zeros(len(columns), parent.shape[self.axes[1]] + 1, dtype=torch.bool)
        held.scatter_(1, columns + 1, True)
        return not bool(held[:, 1:].all())

    def _lay(self, parent: Tensor, child: Tensor, share: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        parent = parent.detach().to(child)
        if self.rows is None:
            return parent.clone()
        kept = (self.rows >= 0).to(child.device)
        rows = self.rows.to(child.device)[kept]
        if self.columns is None:
            child[kept] = parent[rows]
            return child
        view, source = (child.transpose(0, 1), parent.transpose(0, 1)) if self.axes == (1, 0) else (child, parent)
        columns = self.columns.to(child.device)
        columns = (columns[kept] if len(columns) > 1 else columns).expand(len(rows), -1)
        values = source[rows[:, None], columns.clamp(min=0)]
        old = (columns >= 0).reshape(*columns.shape, *[1] * (values.ndim - 2))
        values = share(values, columns, old)
        inner, outer = (
            zip(*(_centred(a, b) for a, b in zip(view.shape[2:], values.shape[2:], strict=True)), strict=True)
            if values.ndim > 2
            else ((), ())
        )
        before = view[kept]
        after = torch.zeros_like(before)
        after[(..., *inner)] = values[(..., *outer)]
        view[kept] = torch.where(old, after, torch.zeros_like(before) if self.zero_new else before)
        return child

    def _divided(self, values: Tensor, columns: Tensor, old: Tensor) -> Tensor:
        """Divide the weights of columns that occur several times among the copies."""
        if not self.zero_new:
            return values
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(columns.shape, generator=generator, dtype=torch.float64).to(values.device)
        share = torch.where(columns >= 0, 1 + self.spread * (2 * noise - 1), 0.0)
        total = torch.zeros(
            len(columns), int(columns.max()) + 2 if columns.numel() else 1, dtype=torch.float64, device=values.device
        )
        total.scatter_add_(1, columns + 1, share)
        share = share / total.gather(1, columns + 1).clamp(min=torch.finfo(torch.float64).tiny)
        alone = share.eq(1) | columns.lt(0)
        return values * torch.where(alone, 1.0, share).to(values).reshape(old.shape)


Outcome = Literal["copied", "sliced", "identity", "fresh"]
_SPREAD_OF_COPIES = 0.5
"""Spread of copies that were not asked for but are needed: with equal outgoing weights they would stay equal for ever."""


@dataclass(frozen=True)
class Placement:
    """The new value of one tensor of the child.

    Args:
        name: In the child's state dict.
        tensor: The child's tensor.
        outcome: How it is reported.
        fill: A number for all of it.
        source: The tensor its numbers are taken from, if any.
        parents_name: Its counterpart's name in the parent's state dict, if there is one.
        map: Which numbers go where.
    """

    name: str
    tensor: Tensor
    outcome: Outcome = "fresh"
    fill: float | None = None
    source: Tensor | None = None
    parents_name: str = ""
    map: TensorMap | None = None

    def value(self) -> Tensor | None:
        """Return what to write, in memory of its own; ``None`` for nothing."""
        if self.fill is not None:
            return torch.full_like(self.tensor, self.fill)
        if self.source is None or self.map is None:
            return None
        return self.map.weights(self.source, self.tensor)

    def left_fresh(self) -> Placement:
        return Placement(self.name, self.tensor, parents_name=self.parents_name)


def place(
    units: list[Unit],
    pairs: Mapping[str, Unit],
    roles: Mapping[str, Role],
    layout: Layout,
    *,
    spread: float,
    seed: int,
) -> tuple[list[Placement], list[str]]:
    """Return the placements of all of a child's tensors, and why some don't preserve what the parent computes."""
    placer = _Placer(pairs, roles, layout, spread, seed)
    placements = [placement for unit in units for placement in placer.unit(unit)]
    return placements, placer.reasons


class _Placer:
    def __init__(
        self, pairs: Mapping[str, Unit], roles: Mapping[str, Role], layout: Layout, spread: float, seed: int
    ) -> None:
        self.pairs, self.roles, self.layout, self.spread, self.seed = pairs, roles, layout, spread, seed
        self.reasons: list[str] = []

    def unit(self, unit: Unit) -> list[Placement]:
        layer, role = self.layout.layers.get(unit.name), self.roles[unit.name]
        role = layer.role if layer is not None else role
        if role == "zero":
            zeroed = dict.fromkeys(_AFFINE, ("identity", 0.0))
            return [Placement(unit.path(n), t, *zeroed.get(n, ())) for n, t in unit.tensors.items()]
        if role == "fresh" or (role == "identity" and layer is None):
            return self._fresh(unit)
        if layer is None or unit.kind == "other":
            return self._apart(unit)
        final = [part for part in layer.gives.parts or () if part.root.final and part.changes]
        if final:
            was, now = final[0].parents, final[0].root.width
            self.reasons.append(f"{unit.name} gives {now} outputs, the parent's {was}")
            return self._fresh(unit)
        if unit.kind in ("linear", "conv", "transposed"):
            return self._weighted(unit, layer)
        if unit.kind == "embedding":
            return self._embedding(unit, layer)
        return self._normalising(unit, layer)

    def _fresh(self, unit: Unit) -> list[Placement]:
        theirs = self.pairs.get(unit.name)
        return [
            Placement(unit.path(n), t, parents_name=theirs.path(n) if theirs and n in theirs.tensors else "")
            for n, t in unit.tensors.items()
        ]

    def _apart(self, unit: Unit) -> list[Placement]:
        """Tensors of which only name and shape are known: as they are, or overlapping slices."""
        placements, source = [], self.pairs[unit.name]
        for name, tensor in unit.tensors.items():
            found, path = source.tensors.get(name), unit.path(name)
            if found is None:
                self.reasons.append(f"{path} is new")
                placements.append(Placement(path, tensor))
                continue
            rows = columns = None
            if path in self.layout.loose:
                flow, axis = self.layout.loose[path]
                index = flow.index(tensor.shape[axis], found.shape[axis])
                if index is not None and axis == 0 and tensor.shape[1:] == found.shape[1:]:
                    placements.append(self._placed(unit, name, found, _rows(index, found.shape[0]), None))
                    continue
                if index is not None and axis == 1 and tensor.shape[0] == found.shape[0]:
                    moved = TensorMap(_rows(index, found.shape[1]), torch.arange(tensor.shape[0])[None], (1, 0), False)
                    placements.append(self._mapped(unit, name, found, moved))
                    continue
            if tensor.shape != found.shape:
                self.reasons.append(f"{path} changed its shape, and what it does isn't known")
                rows = _prefix(tensor.shape[0], found.shape[0])
                columns = _prefix(tensor.shape[1], found.shape[1])[None] if tensor.ndim > 1 else None
            placements.append(self._placed(unit, name, found, rows, columns, zero_new=False))
        return placements

    def _weighted(self, unit: Unit, layer: TracedLayer) -> list[Placement]:
        weight, source = unit.tensors["weight"], layer.source["weight"]
        transposed = unit.kind == "transposed"
        width, features = (
            (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1] * layer.groups)
        )
        rows, taken = layer.gives.index(width, layer.outputs), layer.takes.index(features, layer.inputs)
        if rows is None or taken is None:
            self.reasons.append(f"{unit.name} takes other positions than the parent's did")
            rows = rows if rows is not None else _prefix(width, layer.outputs)
            taken = taken if taken is not None else _prefix(features, layer.inputs)
        if transposed and layer.groups > 1 and (width != layer.outputs or features != layer.inputs):
            return self._apart(unit)
        columns = (
            taken[None] if layer.groups == layer.parents_groups == 1 or transposed else _by_group(rows, taken, layer)
        )
        copies = len(taken[taken >= 0].unique()) < int((taken >= 0).sum())
        spread = max(self.spread, _SPREAD_OF_COPIES) if copies and self._needs_copies(layer) else self.spread
        placement = self._placed(unit, "weight", source, rows, columns, transposed, spread=spread)
        if placement.map is not None and placement.map.drops_columns(source):
            self.reasons.append(f"{unit.name} can't hold all of the parent's weights")
        self._check_kernel(unit, weight, source)
        if layer.role == "identity":
            placement = replace(placement, outcome="identity")
        return [placement, *([self._shift(unit, layer, rows)] if "bias" in unit.tensors else self._lost(unit, layer))]

    def _needs_copies(self, layer: TracedLayer) -> bool:
        return any(part.root.statistics for part in layer.takes.parts or ())

    def _shift(
        self, unit: Unit, layer: TracedLayer, rows: Tensor, default: float = 0.0, name: str = "bias"
    ) -> Placement:
        """Place a vector over channels; where the parent has none, with the number that has no effect."""
        source = layer.source.get(name)
        if source is not None:
            return self._placed(unit, name, source, _rows(rows, source.shape[0]), None)
        tensor = unit.tensors[name]
        parents = max(int(rows.max()) + 1, 1) if len(rows) else 1
        return Placement(
            unit.path(name), tensor, "identity", source=torch.full((parents,), default), map=TensorMap(_rows(rows, -1))
        )

    def _lost(self, unit: Unit, layer: TracedLayer, name: str = "bias") -> list[Placement]:
        if name in layer.source and bool(layer.source[name].any()):
            self.reasons.append(f"{unit.name} has no {name}, unlike the parent's")
        return []

    def _check_kernel(self, unit: Unit, weight: Tensor, source: Tensor) -> None:
        if any(size < was for size, was in zip(weight.shape[2:], source.shape[2:], strict=True)):
            self.reasons.append(f"{unit.name} has a smaller kernel")

    def _embedding(self, unit: Unit, layer: TracedLayer) -> list[Placement]:
        weight, source = unit.tensors["weight"], layer.source["weight"]
        index = layer.gives.index(weight.shape[1], layer.outputs)
        assert index is not None
        if weight.shape[0] < source.shape[0]:
            self.reasons.append(f"{unit.name} has fewer entries")
        if getattr(unit.module, "max_norm", None) is not None and weight.shape[1] != source.shape[1]:
            self.reasons.append(f"{unit.name} bounds the norm of its vectors, which are longer now")
        entries = _prefix(weight.shape[0], source.shape[0])
        # As a map from channels to entries: nothing is summed over, so nothing is zeroed.
        plan = TensorMap(index, entries[None], (1, 0), zero_new=False)
        alike = weight.shape == source.shape and _rows(index, source.shape[1]) is None
        return [self._mapped(unit, "weight", source, TensorMap() if alike else plan)]

    def _normalising(self, unit: Unit, layer: TracedLayer) -> list[Placement]:
        module, source, placements = unit.module, layer.source, []
        index = None
        if layer.takes.parts is not None:
            index = layer.takes.index(next(t.numel() for n, t in unit.tensors.items() if t.ndim), layer.outputs)
            if index is None:
                self.reasons.append(f"{unit.name} takes other positions than the parent's did")
                return self._apart(unit) if unit.name in self.pairs else self._fresh(unit)
            if unit.kind == "statistic" and not keeps_statistics(
                index, layer.outputs, layer.parents_groups, layer.groups
            ):
                self.reasons.append(f"{unit.name} ({type(module).__name__}) normalises over new units too")
        for name, tensor in unit.tensors.items():
            if layer.role == "identity":  # a PReLU of slope 1; of batch normalization see make_identities
                placements.append(Placement(unit.path(name), tensor, "identity", fill=_NEUTRAL[name]))
            elif index is None or name == "num_batches_tracked":
                found = source.get(name)
                placements.append(
                    Placement(unit.path(name), tensor) if found is None else self._placed(unit, name, found, None, None)
                )
            else:
                if name.startswith("running") and name not in source:
                    self.reasons.append(f"{unit.path(name)} is new")
                placements.append(self._shift(unit, layer, index, _NEUTRAL[name], name))
        for name in set(source) - set(unit.tensors):
            self.reasons.append(f"{unit.name} has no {name}, unlike the parent's")
        return placements

    def _placed(
        self,
        unit: Unit,
        name: str,
        source: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        transposed: bool = False,
        *,
        zero_new: bool = True,
        spread: float = 0.0,
    ) -> Placement:
        shape, parents = unit.tensors[name].shape, source.shape
        first, second = (1, 0) if transposed else (0, 1)
        plain = rows is None or _rows(rows, parents[first]) is None
        if columns is not None:
            plain = plain and bool(
                (columns == torch.arange(parents[second])).all() if columns.shape[1] == parents[second] else False
            )
        if plain and shape == parents:
            return self._mapped(unit, name, source, TensorMap())
        return self._mapped(unit, name, source, TensorMap(rows, columns, (first, second), zero_new, spread, self.seed))

    def _mapped(self, unit: Unit, name: str, source: Tensor, plan: TensorMap) -> Placement:
        outcome: Outcome = "copied" if plan.rows is None else "sliced"
        paired = self.pairs.get(unit.name)
        parents_name = paired.path(name) if paired is not None else ""
        return Placement(unit.path(name), unit.tensors[name], outcome, None, source, parents_name, plan)


_NEUTRAL = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
_AFFINE = ("weight", "bias")


def _prefix(width: int, parents: int) -> Tensor:
    index = torch.arange(width)
    return torch.where(index < parents, index, NEW)


def _rows(index: Tensor, parents: int) -> Tensor | None:
    """Return the index, or ``None`` if it is the identity."""
    return None if len(index) == parents and bool((index == torch.arange(parents)).all()) else index


def _by_group(rows: Tensor, taken: Tensor, layer: TracedLayer) -> Tensor:
    """Return, for each row, the columns within its parent's group; -1 where the parent's row doesn't have that channel."""
    width, features = len(rows), len(taken)
    own = taken.reshape(layer.groups, features // layer.groups)[torch.arange(width) // (width // layer.groups)]
    size = layer.inputs // layer.parents_groups
    group = rows // (layer.outputs // layer.parents_groups)
    return torch.where((own >= 0) & (own // size == group[:, None]), own - group[:, None] * size, NEW)


def _centred(width: int, parents: int) -> tuple[slice, slice]:
    """Return where a kernel's numbers go, and which of them, with both centers aligned."""
    if width >= parents:
        begin = (width - parents) // 2
        return slice(begin, begin + parents), slice(0, parents)
    begin = (parents - width) // 2
    return slice(0, width), slice(begin, begin + width)


def _first(index: Tensor | None) -> Tensor | None:
    """Return an index without copies: further occurrences count as new."""
    if index is None:
        return None
    if index.ndim > 1:
        return torch.stack([row for row in map(_first, index) if row is not None])
    order = torch.arange(len(index))
    earliest = torch.full((int(index.max()) + 2 if len(index) else 1,), len(index)).scatter_reduce(
        0, index + 1, order, "amin"
    )
    return torch.where((earliest[index + 1] == order) & (index >= 0), index, NEW)
