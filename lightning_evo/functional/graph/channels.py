"""Channels that several layers share, and the map from each of a child's channels to its parent's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, fx, nn

from lightning_evo.functional.graph.operations import argument

__all__ = ["Dimension", "Flow", "Kind", "NewUnits", "choose_channel_maps", "concatenated", "reshaped", "unify"]


NewUnits = Literal["zero", "net2wider"]
NEW = -1
"""In an index: a channel that the parent hasn't."""
SEVERAL = -2


Kind = Literal["map", "vector", "sequence", "unknown"]


@dataclass(eq=False)
class Dimension:
    """Channels that several layers share: the output of one, the input of others, both operands of an addition.

    Args:
        width: The child's number of channels.
        parents_width: The parent's; ``None`` as long as it is unknown.
        fixed: Why its channels must not change; empty if they may.
        final: Whether they are the network's outputs.
        blocks: (parent's, child's) numbers of groups of the grouped convolutions on it.
        statistics: The same of layers that normalize over groups of channels.
        same_as: Another dimension that it was unified with.
        made_of: Dimensions whose channels, concatenated, are its own, where it is added to a concatenation.
        index: For each channel the parent's, or ``NEW``.
    """

    width: int
    parents_width: int | None
    fixed: str = ""
    final: bool = False
    blocks: set[tuple[int, int]] = field(default_factory=set)
    statistics: set[tuple[int, int]] = field(default_factory=set)
    same_as: Dimension | None = None
    made_of: tuple[Dimension, ...] = ()
    index: Tensor | None = None

    @property
    def root(self) -> Dimension:
        return self if self.same_as is None else self.same_as.root

    @property
    def parents(self) -> int:
        """The parent's width; 0 where there is none."""
        return self.root.parents_width or 0

    @property
    def changes(self) -> bool:
        return self.root.width != self.parents


def unify(one: Dimension, other: Dimension) -> str:
    """Unify two dimensions; return why that is impossible, or an empty string."""
    one, other = one.root, other.root
    if one is other:
        return ""
    if one.parents_width is not None and other.parents_width not in (None, one.parents_width):
        return f"the parent joins {one.parents_width} and {other.parents_width} channels"
    one.parents_width = one.parents_width if one.parents_width is not None else other.parents_width
    one.fixed, one.final = one.fixed or other.fixed, one.final or other.final
    one.blocks |= other.blocks
    one.statistics |= other.statistics
    if one.made_of and other.made_of and one.made_of != other.made_of:
        return "two concatenations are joined"
    one.made_of = one.made_of or other.made_of
    other.same_as = one
    return ""


@dataclass(frozen=True)
class Flow:
    """The channels that one value in the graph has.

    Args:
        parts: The dimensions that make up the channels, in order; ``None`` where they are unknown.
        kind: ``map``: (N, channels, positions...), ``vector``: (N, channels), ``sequence``: (..., channels).
        flat: Whether each channel's positions are consecutive features, as after ``flatten``.
        silent: Whether it is 0, because it is the output of a new branch whose last layer is zero.
    """

    parts: tuple[Dimension, ...] | None = None
    kind: Kind = "unknown"
    flat: bool = False
    silent: bool = False

    @property
    def width(self) -> int:
        return sum(part.root.width for part in self.parts or ())

    @property
    def parents_width(self) -> int | None:
        """The width that the value has in the parent, if known so far."""
        parts = self.parts or ()
        widths = [width for part in parts if (width := part.root.parents_width) is not None]
        return sum(widths) if widths and len(widths) == len(parts) else None

    def fits(self, features: int) -> bool:
        """Whether a layer with this number of input features can take it."""
        return bool(self.width) and (features % self.width == 0 if self.flat else features == self.width)

    def index(self, features: int, parents: int) -> Tensor | None:
        """For each of the child's features the parent's, or ``NEW``; ``None`` where the two differ in positions."""
        before = sum(part.parents for part in self.parts or ())
        if not self.parts or not before or features % self.width or parents % before:
            return torch.full((features,), NEW) if self.parts and not before else None
        positions = features // self.width
        if parents // before != positions or (positions > 1 and not self.flat):
            return None
        pieces, begin = [], 0
        for part in self.parts:
            channels = part.root.index
            assert channels is not None
            pieces.append(torch.where(channels < 0, NEW, channels + begin))
            begin += part.parents
        channels = torch.cat(pieces)
        spread = channels[:, None] * positions + torch.arange(positions)
        return torch.where(channels[:, None] < 0, NEW, spread).flatten()

    def of_kind(self, kind: Kind, flat: bool | None = None) -> Flow:
        return replace(self, kind=kind, flat=self.flat if flat is None else flat)


def choose_channel_maps(dimensions: list[Dimension], new_units: NewUnits, generator: torch.Generator) -> list[str]:
    """Choose the index of every dimension that has none; return why some can't preserve what the parent computes."""
    reasons = []
    roots = list(dict.fromkeys(dimension.root for dimension in dimensions))
    for dimension in roots:
        for part in dimension.made_of:
            part.root.fixed = part.root.fixed or dimension.fixed
            if dimension.statistics:
                part.root.statistics.add((1, 1))
    for dimension in sorted(roots, key=lambda dimension: bool(dimension.made_of)):
        if dimension.made_of:
            dimension.index = Flow(dimension.made_of).index(dimension.width, dimension.parents)
            if dimension.index is not None:
                continue
        if dimension.index is None:
            possible = list(_candidates(dimension, new_units, generator))
            good = (index for index in possible if _satisfies(dimension, index))
            dimension.index = next(good, possible[0])
        if dimension.fixed and dimension.changes:
            reasons.append(f"{dimension.fixed}: {dimension.parents} channels became {dimension.width}")
        elif 0 < dimension.width < dimension.parents:
            reasons.append(f"{dimension.parents} channels were cut to {dimension.width}")
    return reasons


def _candidates(dimension: Dimension, new_units: NewUnits, generator: torch.Generator) -> Iterator[Tensor]:
    """Possible maps of the parent's channels into the child's, the simplest first."""
    width, parents = dimension.width, dimension.parents
    if width == parents:
        yield torch.arange(width)
        return
    shapes = [(1, 1), *sorted(dimension.blocks | dimension.statistics)]
    if dimension.blocks | dimension.statistics:
        shapes += [(math.lcm(*(g for g, _ in shapes)), math.lcm(*(g for _, g in shapes)))]
    usable = [(p, c) for p, c in shapes if c >= p > 0 and parents % p == 0 and width % c == 0]
    usable = usable or [(1, 1)]
    if new_units == "zero":
        yield from (_block_index(width, parents, *blocks) for blocks in usable)
    if parents and width > parents:
        if new_units == "net2wider" and not dimension.statistics:
            yield from [_block_index(width, parents, *blocks, copies="drawn", generator=generator) for blocks in usable]
        # Copies keep the mean and variance that layer and group normalization compute, where all are copied alike: side
        # by side for as many groups as before, else one run after the other.
        if width % parents == 0:
            yield torch.arange(parents).repeat_interleave(width // parents)
        yield from (_block_index(width, parents, *blocks, copies="all alike") for blocks in usable)
    if new_units != "zero":
        yield from (_block_index(width, parents, *blocks) for blocks in usable)


def _block_index(
    width: int,
    parents: int,
    parents_blocks: int,
    blocks: int,
    copies: str = "",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Put the parent's block j first in the child's block j; the rest is new, or copies from the same block."""
    size, old = width // blocks, parents // parents_blocks
    index = torch.full((blocks, size), NEW)
    kept = min(size, old)
    index[:parents_blocks, :kept] = torch.arange(parents).reshape(parents_blocks, old)[:, :kept]
    if copies and old:
        rows = torch.arange(blocks) % parents_blocks  # whole new blocks are copies of whole blocks
        filled = index[rows][:, :kept]
        if copies == "all alike":
            more = filled.repeat(1, -(-size // kept))[:, kept:size]
        else:
            more = filled[:, torch.randint(kept, (size - kept,), generator=generator)]
        index = torch.cat([filled, more], 1)
    return index.flatten()


def _satisfies(dimension: Dimension, index: Tensor) -> bool:
    return all(keeps_blocks(index, dimension.parents, *blocks) for blocks in dimension.blocks) and all(
        keeps_statistics(index, dimension.parents, *blocks) for blocks in dimension.statistics
    )


def keeps_blocks(index: Tensor, parents: int, parents_blocks: int, blocks: int) -> bool:
    """Whether each block of the child holds channels of one of the parent's blocks (of whole ones, where it has fewer)."""
    if not parents or parents % parents_blocks or len(index) % blocks:
        return not parents
    of = torch.where(index < 0, NEW, index // (parents // parents_blocks)).reshape(blocks, -1)
    if blocks < parents_blocks:
        per = parents_blocks / blocks
        return all(_only(torch.where(row < 0, row, (row / per).long())) in (None, j) for j, row in enumerate(of))
    return all(_only(row) in (None, j % parents_blocks) for j, row in enumerate(of))


def keeps_statistics(index: Tensor, parents: int, parents_blocks: int, blocks: int) -> bool:
    """Whether mean and variance over each of the child's blocks are those of one of the parent's.

    They are if a block holds each channel of one of the parent's blocks equally often and nothing else, or nothing of
    the parent's.
    """
    if not parents or parents % parents_blocks or len(index) % blocks:
        return not parents
    size = parents // parents_blocks
    for row in index.reshape(blocks, -1):
        if (row < 0).all():
            continue
        if (row < 0).any() or _only(row // size) == SEVERAL:
            return False
        if len(torch.bincount(row % size, minlength=size).unique()) > 1:
            return False
    return True


def _only(row: Tensor) -> int | None:
    """The only value of at least 0 in a row; ``None`` if there is none, ``SEVERAL`` if there are several."""
    held = row[row >= 0].unique()
    return None if not len(held) else int(held[0]) if len(held) == 1 else SEVERAL


# Changes of shape: flattening, pooling, permuting and concatenating

_POSITIONS = ((2, 3), (3, 2), (-1, -2), (-2, -1), (2, 3, 4), (-3, -2, -1))
_TO_BACK, _TO_FRONT = ((0, 2, 3, 1), (0, 2, 3, 4, 1)), ((0, 3, 1, 2), (0, 4, 1, 2, 3))


def reshaped(node: fx.Node, call: str, module: nn.Module | None, flow: Flow) -> Flow | None:
    """The output of a step that changes the shape; ``None`` where its channels can't be followed.

    Args:
        node: The step.
        call: Its name (:func:`~lightning_evo.functional.graph.operations.call_of`).
        module: The module it calls, if any.
        flow: Its input.
    """
    if call in ("mean", "amax", "sum"):
        return _pooled(node, flow)
    if call in ("permute", "transpose"):
        return _permuted(node, module, flow)
    if call == "squeeze":
        return flow.of_kind("vector") if flow.kind == "map" and len(node.args) == 1 else None
    if not (_flattens(node, module) if call == "flatten" else _keeps_rows(node)):
        return None
    if flow.kind == "map":
        return flow.of_kind("vector", flat=True)
    if flow.parts is None:
        return Flow(kind="vector")
    return flow if flow.kind == "vector" else None


def concatenated(node: fx.Node, flows: Sequence[Flow]) -> Flow | None:
    """The output of a concatenation along the channels; ``None`` if it is along another axis or of unknown channels."""
    axes = {"map": (1,), "vector": (1, -1), "sequence": (-1,), "unknown": ()}
    kind = flows[0].kind
    known = all(flow.kind == kind and flow.parts is not None and not flow.flat for flow in flows)
    if not known or argument(node, 1, "dim", 0) not in axes[kind]:
        return None
    return Flow(tuple(part for flow in flows for part in flow.parts or ()), kind)


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    begin = module.start_dim if isinstance(module, nn.Flatten) else argument(node, 1, "start_dim", 0)
    end = module.end_dim if isinstance(module, nn.Flatten) else argument(node, 2, "end_dim", -1)
    return bool(begin == 1 and end == -1)


def _keeps_rows(node: fx.Node) -> bool:
    """Whether a view is of the form ``x.view(x.size(0), -1)``."""
    sizes = node.args[1:] if len(node.args) > 2 else argument(node, 1, "shape", ())
    if not isinstance(sizes, tuple | list) or len(sizes) != 2:
        return False
    return isinstance(sizes[0], fx.Node) and isinstance(sizes[1], int) and sizes[1] == -1


def _pooled(node: fx.Node, flow: Flow) -> Flow | None:
    dims = argument(node, 1, "dim")
    if flow.kind != "map" or not isinstance(dims, tuple | list) or tuple(dims) not in _POSITIONS:
        return None
    return flow.of_kind("map" if argument(node, 2, "keepdim", False) else "vector")


def _permuted(node: fx.Node, module: nn.Module | None, flow: Flow) -> Flow | None:
    order = getattr(module, "dims", node.args[1:] if len(node.args) > 2 else argument(node, 1, "dims"))
    order = tuple(order) if isinstance(order, tuple | list) else ()
    if flow.kind == "map" and order in _TO_BACK:
        return flow.of_kind("sequence")
    return flow.of_kind("map") if flow.kind == "sequence" and order in _TO_FRONT else None
