"""Averaging of particles in several processes: one all-reduce where all move toward one target, otherwise all-gather."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.ranks.strategy import SwarmStrategy
from lightning_evo.swarms.swarm import Particles, Swarm

__all__ = ["RankSwarm", "common_target"]

_BUCKET = 2**24
"""Numbers that are sent at once where tensors are sent together: 64 MiB in single precision."""


class RankSwarm(Swarm):
    """The particles of all ranks of a :class:`~lightning_evo.SwarmStrategy`, one or more in each.

    All its methods are collective: every rank calls them, in the same order. Results for the same particles are bitwise
    equal in every rank. Ranks may hold different numbers of particles, which are numbered rank by rank.

    Args:
        particles: Those of this rank.
        strategy: Its strategy, which has connected the processes.
    """

    def __init__(self, particles: Particles, strategy: SwarmStrategy) -> None:
        super().__init__(particles)
        self._strategy = strategy
        self._counts: list[int] = strategy.gather_objects(particles.count)

    @property
    def size(self) -> int:
        """The number of particles in all ranks."""
        return sum(self._counts)

    @property
    def local(self) -> range:
        """The particles of this rank."""
        first = sum(self._counts[: self._strategy.global_rank])
        return range(first, first + self.particles.count)

    def synchronize(self, losses: Tensor) -> Tensor:
        """The losses of all ranks' particles."""
        return self.gather(losses.detach().double()).cpu()

    def gather(self, values: Tensor) -> Tensor:
        """Tensors of all ranks' particles, (size, ...), from this rank's, (count, ...), on the same device."""
        self._strategy.failure_detector.check()
        return self._gather(values)

    def combine(self, values: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Linear combinations of all ranks' tensors, for the particles of this rank.

        If every particle becomes a part of itself plus a share of one common sum (all members move toward the best, or
        toward the mean), that sum is one all-reduce, which sends each tensor twice however large the swarm is. Otherwise
        tensors are gathered from all ranks, one at a time.
        """
        self._strategy.failure_detector.check()
        matrix = coefficients.detach().double().cpu()
        # The order of collectives must be the same everywhere, whatever order the tensors come in.
        names = sorted(values)
        target = common_target(matrix)
        numbers = [name for name in names if values[name].is_floating_point()] if target is not None else []
        result: dict[str, Tensor] = {}
        if target is not None:
            for bucket in _buckets(numbers, values):
                result |= self._pull({name: values[name] for name in bucket}, *target)
        for name in names:
            if name not in result:
                everybody = {name: self._gather(values[name])}
                result |= combine(everybody, matrix[list(self.local)], own=list(self.local))
        return {name: result[name] for name in values}

    def _pull(self, values: Mapping[str, Tensor], keep: Tensor, share: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """``keep_i x_i + share_i sum_j weights_j x_j`` for the particles here, tensors of one dtype sent as one."""
        first = next(iter(values.values()))
        wide = torch.promote_types(first.dtype, torch.float32)
        own = torch.cat([tensor.detach().reshape(len(tensor), -1) for tensor in values.values()], dim=1).to(wide)
        target = torch.zeros_like(own[0])
        for at, particle in enumerate(self.local):
            if weights[particle] != 0:  # one with weight 0 may hold NaN
                target.add_(own[at], alpha=float(weights[particle]))
        self._sum(target)
        rows = []
        for at, particle in enumerate(self.local):
            if share[particle] == 0:
                rows.append(own[at] if keep[particle] == 1 else own[at] * float(keep[particle]))
            elif keep[particle] == 0:
                rows.append(target * float(share[particle]))
            else:
                rows.append((target * float(share[particle])).add_(own[at], alpha=float(keep[particle])))
        moved = torch.stack(rows).to(first.dtype)
        pieces = moved.split([tensor[0].numel() for tensor in values.values()], dim=1)
        return {
            name: piece.reshape(tensor.shape).clone(memory_format=torch.contiguous_format)
            for (name, tensor), piece in zip(values.items(), pieces, strict=True)
        }

    def _sum(self, tensor: Tensor) -> None:
        """All-reduce in place, through the device that the backend needs."""
        device = self._strategy.root_device
        there = tensor.to(device)
        dist.all_reduce(there)
        if there is not tensor:
            tensor.copy_(there)

    def _gather(self, values: Tensor) -> Tensor:
        # gloo and NCCL send only tensors of equal shape: ranks with fewer particles pad with zeros.
        most = max(self._counts)
        sent = values.detach().to(self._strategy.root_device).contiguous()
        flags = sent.dtype == torch.bool
        sent = sent.to(torch.uint8) if flags else sent
        if len(sent) < most:
            sent = torch.cat([sent, sent.new_zeros((most - len(sent), *sent.shape[1:]))])
        gathered = [torch.empty_like(sent) for _ in self._counts]
        dist.all_gather(gathered, sent)
        everybody = torch.cat([one[:count] for one, count in zip(gathered, self._counts, strict=True)])
        return (everybody.bool() if flags else everybody).to(values.device)


def common_target(coefficients: Tensor, tolerance: float = 1e-12) -> tuple[Tensor, Tensor, Tensor] | None:
    """Decompose a matrix whose rows share one sum: ``C = diag(keep) + share weights^T``.

    Args:
        coefficients: (size, size), double precision.
        tolerance: The largest error, relative to the largest coefficient.

    Returns:
        ``keep``, ``share``, ``weights``, each (size,); ``None`` if there are no such vectors.

    >>> keep, share, weights = common_target(torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]]).double())
    >>> keep.tolist(), share.tolist(), weights.tolist()
    ([0.5, 1.0, 0.5], [1.0, 0.0, 1.0], [0.0, 0.5, 0.0])
    >>> common_target(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]).double()) is None
    True
    """
    size = len(coefficients)
    others = coefficients.clone().fill_diagonal_(0.0)
    scale = float(coefficients.abs().max())
    share, weights = torch.zeros(size).double(), torch.zeros(size).double()
    if scale and float(others.abs().max()) > 0:
        # The row with the largest sum gives the weights, except its own, which is taken from another row.
        pivot = int(others.abs().sum(1).argmax())
        weights = others[pivot].clone()
        taker = int(others[:, pivot].abs().argmax())
        known = float(_shares(others, weights)[taker])
        weights[pivot] = others[taker, pivot] / (known if known else 1.0)
        share = _shares(others, weights)
        off = others - share[:, None] * weights[None, :]
        if float(off.fill_diagonal_(0.0).abs().max()) > tolerance * scale:
            return None
    keep = coefficients.diagonal() - share * weights
    # Rounding errors would otherwise be multiplied into every number.
    keep = torch.where(keep.abs() <= tolerance * scale, 0.0, keep)
    return torch.where((keep - 1).abs() <= tolerance, 1.0, keep), share, weights


def _shares(others: Tensor, weights: Tensor) -> Tensor:
    """The share of the weighted sum in each row, from the column with the largest weight (except the row's own)."""
    share = torch.zeros(len(others)).double()
    for row, values in enumerate(others):
        known = weights.abs().clone()
        known[row] = 0.0
        at = int(known.argmax())
        if float(known[at]) > 0:
            share[row] = values[at] / weights[at]
    return share


def _buckets(names: Sequence[str], values: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names in order, in runs of one dtype and device, each of about the bucket's size at most."""
    run: list[str] = []
    length = 0
    for name in names:
        tensor = values[name]
        if run:
            last = values[run[-1]]
            if (tensor.dtype, tensor.device) != (last.dtype, last.device) or length + tensor.numel() > _BUCKET:
                yield run
                run, length = [], 0
        run.append(name)
        length += tensor.numel()
    if run:
        yield run
