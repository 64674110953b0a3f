"""How is a value changed a little, so that a training which goes on with it isn't thrown off? By a factor, or a step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lightning_evo.genome import Boolean, Categorical, Gene, Integer, Uniform, Value

__all__ = ["perturb"]


def perturb(gene: Gene, value: Value, factors: Sequence[float], rng: random.Random) -> Value:
    """A value near ``value``, within the gene's range.

    Real numbers are multiplied by a factor, and mutate where that leaves them where they are (0, or an end of the range).
    A whole number moves one step; on a logarithmic scale it is multiplied, and moves by at least 1. What has no order
    (``Categorical``, ``Boolean``) stays; every other gene mutates, which for an ``Ordinal`` is a step to a neighbour.

    Args:
        gene: Whose value it is.
        value: A value in its range.
        factors: One of them, drawn at random, multiplies numbers.
        rng: Source of all randomness.

    >>> perturb(Uniform(0.0, 1.0), 0.5, [1.2], random.Random(0))
    0.6
    """
    if isinstance(gene, (Categorical, Boolean)):
        return value
    if isinstance(gene, Uniform):
        moved = min(gene.high, max(gene.low, value * rng.choice(factors)))
        return moved if moved != value else gene.mutate(value, rng)
    if isinstance(gene, Integer):
        return _perturb_integer(gene, value, rng.choice(factors))
    return gene.mutate(value, rng)


def _perturb_integer(gene: Integer, value: int, factor: float) -> int:
    direction = 1 if factor > 1 else -1
    distance = max(1, abs(round(value * factor) - value)) if gene.log else gene.step
    moved = value + direction * distance
    if not gene.low <= moved <= gene.high:
        # Inwards at an end, as a mutation does; in between, up to the end.
        inwards = value - direction * (1 if gene.log else gene.step)
        moved = inwards if value in (gene.low, gene.high) else min(gene.high, max(gene.low, moved))
    return min(gene.high, max(gene.low, moved))
