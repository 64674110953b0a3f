"""Averaging of networks of one architecture: rules that give coefficients, and the linear combinations they stand for.

A rule is a matrix of coefficients, (size, size), in double precision on the CPU: network ``i`` becomes the sum over ``j``
of ``coefficients[i, j]`` times network ``j``. :func:`combine` computes that sum. All rules are convex: no coefficient is
negative, and each row sums to 1. Only :func:`pso` isn't such a rule: its particles have a velocity, and it works on tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

__all__ = [
    "apso",
    "combine",
    "draw_subset",
    "papa",
    "papa_all",
    "papa_pairs",
    "pso",
    "ranked",
    "soup",
]


@torch.no_grad()
def combine(values: Mapping[str, Tensor], coefficients: Tensor, own: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Linear combinations of the networks' tensors.

    A network with coefficient 0 contributes nothing, whatever it holds: one that has diverged to NaN affects only networks
    that have a nonzero coefficient for it. Half precision is summed in single precision; sums are element-wise in the order
    of the networks, so that neither TF32 nor the choice of a kernel changes them.

    Integers and booleans (``num_batches_tracked``) can't be averaged: each is taken from the network with the largest
    coefficient; of several such, from the row's own network, otherwise from the first.

    Args:
        values: Name -> (size, ...), the networks along the first axis.
        coefficients: (rows, size), real.
        own: The network that each row belongs to, (rows,); default: row ``i`` belongs to network ``i``.

    Returns:
        Name -> (rows, ...), new tensors of the same dtype on the same device, detached from autograd.

    Raises:
        ValueError: If the shapes don't fit.

    >>> combine({"w": torch.tensor([[0.0], [1.0]]), "n": torch.tensor([3, 5])}, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    {'w': tensor([[0.5000],
            [1.0000]]), 'n': tensor([3, 5])}
    """
    matrix = coefficients.detach().double().cpu()
    if matrix.ndim != 2:
        raise ValueError(f"coefficients of shape {tuple(matrix.shape)} are not (rows, size)")
    rows, size = matrix.shape
    own = range(rows) if own is None else own
    if len(own) != rows:
        raise ValueError(f"own names {len(own)} networks for {rows} rows of coefficients")
    for name, tensor in values.items():
        if tensor.ndim == 0 or tensor.shape[0] != size:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)} does not hold {size} networks along its first axis"
            )
    groups = _groups(matrix)
    chosen = [_largest(row, mine) for row, mine in zip(matrix.tolist(), own, strict=True)]
    return {
        name: _summed(tensor.detach(), groups, rows)
        if tensor.is_floating_point() or tensor.is_complex()
        else tensor.detach()[chosen].clone()
        for name, tensor in values.items()
    }


# Members of an averaging.


def draw_subset(size: int, subset: int, generator: torch.Generator) -> list[int]:
    """Draw ``subset`` of ``size`` networks without replacement, in ascending order.

    The Nytorch tutorial (https://github.com/jimmyzzzz/nytorch) draws with replacement, which gives 4.88 distinct networks
    for 6 of 12 on average, and moves a network that was drawn twice two times.

    Raises:
        ValueError: If ``subset`` is not from 1 to ``size``.

    >>> draw_subset(4, 4, torch.Generator())
    [0, 1, 2, 3]
    """
    if not 1 <= subset <= size:
        raise ValueError(f"subset: {subset!r} is not from 1 to the swarm's size, {size}")
    return sorted(torch.randperm(size, generator=generator)[:subset].tolist())


def ranked(scores: Tensor, members: Sequence[int] | None = None) -> list[int]:
    """Networks from the lowest score to the highest; NaN comes last, and equal ones in the order of ``members``.

    Args:
        scores: (size,), such as losses.
        members: The networks to rank; default: all.

    >>> ranked(torch.tensor([float("nan"), 2.0, 1.0]))
    [2, 1, 0]
    """
    known = scores.detach().double().cpu().tolist()
    chosen = range(len(known)) if members is None else members
    return sorted(chosen, key=lambda one: (known[one] != known[one], known[one] if known[one] == known[one] else 0.0))


# Rules.


def apso(losses: Tensor, members: Sequence[int], alpha: float) -> Tensor:
    """Accelerated particle swarm optimization: members move toward the best of them, as in the Nytorch tutorial.

    ``W_i <- (1 - alpha) W_i + alpha W_best`` for every member ``i`` but the best, the one of the lowest finite loss. If no
    member's loss is finite, no member moves.

    Args:
        losses: Current losses of all networks, (size,).
        members: The networks that take part.
        alpha: How far they move, in (0, 1).

    Returns:
        Coefficients (size, size).

    >>> apso(torch.tensor([2.0, 1.0, 0.5]), [0, 1], 0.25)
    tensor([[0.7500, 0.2500, 0.0000],
            [0.0000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]], dtype=torch.float64)
    """
    _check_alpha(alpha)
    matrix = torch.eye(len(losses), dtype=torch.float64)
    candidates = [one for one in members if bool(torch.isfinite(losses[one]))]
    if not candidates:
        return matrix
    best = ranked(losses, candidates)[0]
    for one in members:
        if one != best:
            matrix[one, one] = 1 - alpha
            matrix[one, best] = alpha
    return matrix


def papa(size: int, members: Sequence[int], alpha: float | Tensor) -> Tensor:
    """PAPA (arXiv 2304.03094): every member is pulled a little toward the mean of all members, often.

    ``W_i <- (1 - alpha_i) W_i + alpha_i mean(W)``. The paper's ``alpha_PAPA`` is ``1 - alpha`` here; the paper uses 0.99
    every 10 steps; ``alpha`` shrinks with the learning rate, see :class:`~lightning_evo.callbacks.SwarmAveraging`.

    Args:
        size: The number of networks.
        members: The networks that take part.
        alpha: How far they move, in [0, 1]; one number, or one for each network, (size,).

    Returns:
        Coefficients (size, size).

    >>> papa(2, [0, 1], 0.5)
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]], dtype=torch.float64)
    """
    pulls = torch.as_tensor(alpha, dtype=torch.float64).cpu().expand(size)
    if not bool(((pulls >= 0) & (pulls <= 1)).all()):
        raise ValueError(f"alpha: {pulls.tolist()!r} is not from 0 to 1")
    matrix = torch.eye(size, dtype=torch.float64)
    mean = _mean(size, members)
    for one in members:
        if pulls[one] > 0:
            matrix[one] = pulls[one] * mean
            matrix[one, one] += 1 - pulls[one]
    return matrix


def papa_all(size: int, members: Sequence[int]) -> Tensor:
    """PAPA-all (arXiv 2304.03094): every member is replaced by the mean of all members, rarely (every 5 epochs).

    Args:
        size: The number of networks.
        members: The networks that take part.

    Returns:
        Coefficients (size, size).

    >>> papa_all(3, [0, 2])
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000],
            [0.5000, 0.0000, 0.5000]], dtype=torch.float64)
    """
    return papa(size, members, 1.0)


def papa_pairs(size: int, members: Sequence[int], generator: torch.Generator) -> Tensor:
    """PAPA-2 (arXiv 2304.03094): every member is replaced by the mean of a random pair of members, rarely.

    As many pairs are drawn as there are members, without replacement as long as there are enough (two members form only one
    pair); a member's pair need not contain it.

    Args:
        size: The number of networks.
        members: The networks that take part; fewer than two change nothing.
        generator: The source of randomness.

    Returns:
        Coefficients (size, size).

    >>> papa_pairs(3, [0, 2], torch.Generator())
    tensor([[0.5000, 0.0000, 0.5000],
            [0.0000, 1.0000, 0.0000],
            [0.5000, 0.0000, 0.5000]], dtype=torch.float64)
    """
    matrix = torch.eye(size, dtype=torch.float64)
    pairs = list(combinations(members, 2))
    if pairs:
        order = torch.randperm(len(pairs), generator=generator).tolist()
        for place, one in enumerate(members):
            matrix[one] = _mean(size, pairs[order[place % len(pairs)]])
    return matrix


def soup(size: int, ingredients: Sequence[int], into: int) -> Tensor:
    """A model soup (Wortsman et al. 2022): one network becomes the mean of ``ingredients``, the others don't change.

    Args:
        size: The number of networks.
        ingredients: The networks to average.
        into: The network that becomes their mean.

    Returns:
        Coefficients (size, size).

    >>> soup(2, [0, 1], into=1)
    tensor([[1.0000, 0.0000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    matrix = torch.eye(size, dtype=torch.float64)
    matrix[into] = _mean(size, ingredients)
    return matrix


@torch.no_grad()
def pso(
    position: Tensor,
    velocity: Tensor,
    personal_best: Tensor,
    swarm_best: Tensor,
    inertia: float,
    cognitive: float,
    social: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Particle swarm optimization with inertia (Shi and Eberhart 1998), one step of one particle's tensor.

    ``v <- inertia v + cognitive r1 (personal_best - x) + social r2 (swarm_best - x)``, ``x <- x + v``, with ``r1`` and
    ``r2`` drawn from [0, 1) for every element.

    Args:
        position: x, any shape.
        velocity: v, of the same shape.
        personal_best: The particle's best position so far.
        swarm_best: The best position of any particle so far.
        inertia: The share of the velocity that is kept.
        cognitive: Pull toward the particle's own best.
        social: Pull toward the swarm's best.
        generator: The source of randomness, on the tensors' device.

    Returns:
        The new position and velocity, new tensors.

    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> pso(zero, one, zero, zero, 0.5, 1.0, 1.0, torch.Generator())
    (tensor([0.5000]), tensor([0.5000]))
    """
    drawn = [torch.rand(position.shape, generator=generator, device=position.device) for _ in range(2)]
    wide = torch.promote_types(position.dtype, torch.float32)
    x, pulls = position.to(wide), (cognitive, social)
    moved = inertia * velocity.to(wide)
    for best, pull, random in zip((personal_best, swarm_best), pulls, drawn, strict=True):
        moved += pull * random * (best.to(wide) - x)
    return (x + moved).to(position.dtype), moved.to(velocity.dtype)


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: {alpha!r} is not above 0 and below 1")


def _mean(size: int, members: Sequence[int]) -> Tensor:
    mean = torch.zeros(size, dtype=torch.float64)
    mean[list(members)] = 1 / len(members)
    return mean


def _largest(row: Sequence[float], own: int) -> int:
    """The network with the largest coefficient; of several such, the row's own if it is one of them, otherwise the first."""
    best = max(range(len(row)), key=row.__getitem__)
    return own if own < len(row) and row[own] == row[best] else best


_Group = tuple[list[int], list[int], list[list[float]]]
"""Rows with nonzero coefficients for the same networks, those networks, and the coefficients (rows x networks)."""


def _groups(matrix: Tensor) -> list[_Group]:
    """Rows grouped by the networks with nonzero coefficients, so that no network is ever multiplied by 0."""
    by_support: dict[tuple[int, ...], list[int]] = {}
    rows: list[list[float]] = matrix.tolist()
    for number, row in enumerate(rows):
        by_support.setdefault(tuple(at for at, one in enumerate(row) if one != 0), []).append(number)
    return [
        (members, list(support), [[rows[member][at] for at in support] for member in members])
        for support, members in by_support.items()
    ]


def _summed(tensor: Tensor, groups: Sequence[_Group], rows: int) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    result = torch.zeros((rows, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)
    for members, support, coefficients in groups:
        if len(support) == 1 and all(one == [1.0] for one in coefficients):
            result[members] = tensor[support]  # unchanged, to the bit
            continue
        shared = _shared(support, members, coefficients)
        if shared is not None:
            # The sum is the same for all rows: O(size) instead of O(size squared) passes over the tensor.
            target = _weighted(tensor, support, shared, wide)
            for member, row in zip(members, coefficients, strict=True):
                keep = row[support.index(member)] - shared[support.index(member)] if member in support else 0.0
                result[member] = target if keep == 0 else torch.add(target, tensor[member].to(wide), alpha=keep)
        else:
            for member, row in zip(members, coefficients, strict=True):
                result[member] = _weighted(tensor, support, row, wide)
    return result


def _weighted(tensor: Tensor, support: Sequence[int], weights: Sequence[float], wide: torch.dtype) -> Tensor:
    total = torch.zeros(tensor.shape[1:], dtype=wide, device=tensor.device)
    for at, weight in zip(support, weights, strict=True):
        total.add_(tensor[at].to(wide), alpha=weight)
    return total


def _shared(
    support: Sequence[int], members: Sequence[int], coefficients: Sequence[Sequence[float]]
) -> list[float] | None:
    """The coefficients that all rows share, apart from their own network's; ``None`` if they differ, or for few rows."""
    if len(members) < 3:
        return None
    shared = []
    for place, at in enumerate(support):
        taken = [row[place] for member, row in zip(members, coefficients, strict=True) if member != at]
        if any(one != taken[0] for one in taken):
            return None
        shared.append(taken[0])
    return shared
