"""Each mutation and crossover of layers as an operator that can be chosen by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from lightning_evo.genome import Gene, Genome, Layers, SearchSpace, Value

__all__ = ["LAYER_MATES", "LAYER_MUTATIONS"]


def _mutation(operation: str) -> Callable[..., Genome]:
    def mutate_layers(space: SearchSpace, genome: Genome, rng: random.Random, rate: float | None = None) -> Genome:
        """Change the layers by this operation, and each other gene with probability ``rate``.

        Args:
            space: Must have a :class:`~lightning_evo.genome.Layers` gene.
            genome: The parent.
            rng: Source of all randomness.
            rate: Default: one in the number of active genes.
        """
        paths = [path for path in _layer_genes(space) if path in genome]
        if not paths:
            return space.mutate(genome, rng, rate)
        chosen = rng.choice(paths)
        rate = 1 / len(genome) if rate is None else rate
        changed = {}
        for path, value in genome.items():
            gene = space[path]
            if path == chosen and isinstance(gene, Layers):
                changed[path] = gene.mutate(value, rng, operation)
            elif rng.random() < rate:
                changed[path] = gene.mutate(value, rng)
        return space.complete({**genome, **changed}, rng, genome.rates)

    return mutate_layers


def _crossover(kind: str) -> Callable[..., tuple[Genome, Genome]]:
    def mate_layers(
        space: SearchSpace, first: Genome, second: Genome, rng: random.Random, swap: float = 0.5
    ) -> tuple[Genome, Genome]:
        """Cross the layers this way; all genes then swap with probability ``swap``, as in ``uniform``.

        Args:
            space: Must have a :class:`~lightning_evo.genome.Layers` gene.
            first: One parent.
            second: The other.
            rng: Source of all randomness.
            swap: Probability per gene.
        """
        _layer_genes(space)

        def within(gene: Gene, one: Value, two: Value) -> tuple[Value, Value]:
            return gene.crossover(one, two, rng, kind) if isinstance(gene, Layers) else gene.crossover(one, two, rng)

        return space.crossover_within(first, second, rng, within, swap)

    return mate_layers


def _layer_genes(space: SearchSpace) -> list[str]:
    paths = [path for path, gene in space.items() if isinstance(gene, Layers)]
    if not paths:
        raise ValueError(f"it acts on a Layers gene, and this space has none: {', '.join(space)}")
    return paths


LAYER_MUTATIONS: Mapping[str, Callable[..., Any]] = {
    "insert_layer": _mutation("insert"),
    "delete_layer": _mutation("delete"),
    "duplicate_layer": _mutation("duplicate"),
    "swap_layers": _mutation("swap"),
    "alter_layer": _mutation("alter"),
}
"""Mutations of a Layers gene by name: (space, genome, rng, rate) -> child."""

LAYER_MATES: Mapping[str, Callable[..., Any]] = {
    "one_point_layers": _crossover("one_point"),
    "homologous_layers": _crossover("homologous"),
}
"""Crossovers of a Layers gene by name: (space, genome, genome, rng, swap) -> two children."""
