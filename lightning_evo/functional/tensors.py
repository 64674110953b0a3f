"""Where in the parent's tensor is each number of the child's? Maps of tensors, for weights and optimizer moments alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_evo.functional.channels import NEW

__all__ = ["TensorMap"]


@dataclass(frozen=True)
class TensorMap:
    """Which slices of a parent's tensor go where in a child's.

    Args:
        rows: For each index of the child's first axis the parent's, or -1: none. ``None``: the tensors are alike.
        columns: The same of the second axis, of shape (1, columns), or (rows, columns) where it differs by row as in
            grouped convolutions; ``None`` for tensors of one axis.
        axes: The child's axes in the order rows, columns; ``(1, 0)`` for transposed convolutions.
        silence: Whether what an old row takes from new columns is 0, rather than fresh.
        spread: How unequally copies of a column share its weight: 0, equally, to below 1.
        seed: Of the spread.

    Further axes, a kernel's, are laid centre on centre: 0 around a smaller one, the middle of a larger one.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    axes: tuple[int, int] = (0, 1)
    silence: bool = True
    spread: float = 0.0
    seed: int = 0

    def weights(self, parent: Tensor, child: Tensor) -> Tensor:
        """The child's weights: the parent's in their places, shared among copies; the child's own in new rows."""
        return self._lay(parent, child.detach().clone(), self._shared)

    def moments(self, parent: Tensor, child: Tensor) -> Tensor:
        """An optimizer's state for the child: the parent's in its places, 0 for whatever is new or a copy."""
        first = TensorMap(_first(self.rows), _first(self.columns), self.axes)
        return first._lay(parent, torch.zeros_like(child), lambda values, *_: values)

    def loses(self, parent: Tensor) -> bool:
        """Whether old rows miss some of what the parent's take."""
        if self.rows is None or self.columns is None or not self.silence:
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
        view[kept] = torch.where(old, after, torch.zeros_like(before) if self.silence else before)
        return child

    def _shared(self, values: Tensor, columns: Tensor, old: Tensor) -> Tensor:
        """Weights of columns that are there several times, divided among the copies."""
        if not self.silence:
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


def _centred(width: int, parents: int) -> tuple[slice, slice]:
    """Where a kernel's numbers go, and which of them: centre on centre."""
    if width >= parents:
        begin = (width - parents) // 2
        return slice(begin, begin + parents), slice(0, parents)
    begin = (parents - width) // 2
    return slice(0, width), slice(begin, begin + width)


def _first(index: Tensor | None) -> Tensor | None:
    """An index without the copies: what is there a second time is new."""
    if index is None:
        return None
    if index.ndim > 1:
        return torch.stack([row for row in map(_first, index) if row is not None])
    order = torch.arange(len(index))
    earliest = torch.full((int(index.max()) + 2 if len(index) else 1,), len(index)).scatter_reduce(
        0, index + 1, order, "amin"
    )
    return torch.where((earliest[index + 1] == order) & (index >= 0), index, NEW)
