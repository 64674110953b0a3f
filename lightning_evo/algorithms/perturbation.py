"""Small changes of values for trainings that continue with them: by a factor, or by a step."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lightning_evo.genome import Boolean, Categorical, Gene, Integer, Uniform, Value

__all__ = ["perturb"]


def perturb(gene: Gene, value: Value, factors: Sequence[float], rng: random.Random) -> Value:
    """Change a value slightly, within the gene's range.

    Real numbers are multiplied by a factor; where that changes nothing (0, or an end of the range), they mutate. A whole
    number moves one step; on a logarithmic scale it is multiplied, and moves by at least 1. Unordered values
    (``Categorical``, ``Boolean``) stay; every other gene mutates, which for an ``Ordinal`` is a step to a neighbor.

    Args:
        gene: The gene.
        value: A value in its range.
        factors: Numbers are multiplied by one of these, drawn at random.
        rng: Source of all randomness.

    >>> perturb(Uniform(0.0, 1.0), 0.5, [1.2], random.Random(0))
    0.6
    """
    if isinstance(gene, (Categorical, Boolean)):
        return value
    if isinstance(gene, Uniform):
        moved = gene.snap(value * rng.choice(factors))
        return moved if moved != value else gene.mutate(value, rng)
    if isinstance(gene, Integer):
        return _perturb_integer(gene, value, rng.choice(factors))
    return gene.mutate(value, rng)


def _perturb_integer(gene: Integer, value: int, factor: float) -> int:
    direction = 1 if factor > 1 else -1
    steps = max(1, round(abs(round(value * factor) - value) / gene.step)) if gene.log else 1
    distance = steps * gene.step
    moved = value + direction * distance
    if not gene.low <= moved <= gene.high:
        # Inwards at an end, as a mutation does; in between, up to the end.
        inwards = value - direction * gene.step
        moved = inwards if value in (gene.low, gene.high) else min(gene.high, max(gene.low, moved))
    return min(gene.high, max(gene.low, moved))
