"""Crossover and mutation of genomes by operators that act on lists: of values, numbers or bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lightning_evo.algorithms.operators import OURS, Operator
from lightning_evo.genome import Bitstring, Boolean, Genome, SearchSpace, Value

__all__ = ["INACTIVE", "Mate", "Mutate", "mating", "mutation"]

Mate = Callable[[Genome, Genome, random.Random], tuple[Genome, Genome]]
Mutate = Callable[[Genome, random.Random], Genome]


class _Inactive:
    """The only instance is :data:`INACTIVE`."""

    def __repr__(self) -> str:
        return "INACTIVE"


INACTIVE = _Inactive()
"""The entry in a list of values for a gene that is not active."""

_NEEDS_TWO = ("cxOnePoint", "cxTwoPoint", "mutShuffleIndexes")
"""DEAP's operators that raise on a list of length 1, where nothing can be exchanged."""


def mating(operator: Operator, space: SearchSpace) -> Mate:
    """Make a function from two parents to two children.

    Raises:
        ValueError: If the operator doesn't fit the space, or fails on two sampled genomes.
    """
    function = operator.resolve("mate")
    if operator.name in OURS:

        def mate(first: Genome, second: Genome, rng: random.Random) -> tuple[Genome, Genome]:
            return function(space, first, second, rng, **operator.arguments)

    else:
        change = _on_lists(operator, function, space)

        def mate(first: Genome, second: Genome, rng: random.Random) -> tuple[Genome, Genome]:
            one, two = change([first, second], rng)
            return one, two

    _try(lambda rng: mate(space.sample(rng), space.sample(rng), rng), f"mate: {operator.name}", operator)
    return mate


def mutation(operator: Operator, space: SearchSpace) -> Mutate:
    """Make a function from a parent to a child.

    Raises:
        ValueError: If the operator doesn't fit the space, or fails on a sampled genome.
    """
    function = operator.resolve("mutate")
    if operator.name in OURS:

        def mutate(genome: Genome, rng: random.Random) -> Genome:
            return function(space, genome, rng, **operator.arguments)

    else:
        change = _on_lists(operator, function, space)

        def mutate(genome: Genome, rng: random.Random) -> Genome:
            return change([genome], rng)[0]

    _try(lambda rng: mutate(space.sample(rng), rng), f"mutate: {operator.name}", operator)
    return mutate


def _try(change: Callable[[random.Random], object], what: str, operator: Operator) -> None:
    """Change sampled genomes once, so that a wrong argument shows before the search rather than in it."""
    try:
        change(random.Random(0))
    except Exception as error:
        raise ValueError(f"{what} with arguments {operator.arguments} fails: {error}") from error


def _on_lists(
    operator: Operator, function: Callable[..., Any], space: SearchSpace
) -> Callable[[list[Genome], random.Random], list[Genome]]:
    """Turn ``function``, which changes lists in place and returns a tuple of them, into a function of genomes."""
    operate = partial(function, **operator.complete_arguments())
    least = 2 if operator.name in _NEEDS_TWO else 1
    if operator.scale == "bits" and not _bit_genes(space, []):
        raise ValueError(f"{operator.name} acts on the bits of Bitstring and Boolean genes; this space has none")

    def change(genomes: list[Genome], rng: random.Random) -> list[Genome]:
        if operator.scale == "values":
            lists = [[genome.get(path, INACTIVE) for path in space] for genome in genomes]
        else:
            paths = list(space) if operator.scale == "unit" else _bit_genes(space, genomes)
            numbers = [_numbers(space, paths, genome, genomes, operator.scale == "bits") for genome in genomes]
            lists = [[number for gene in row for number in gene] for row in numbers]
        length = len(lists[0])
        if length < least:
            return genomes
        changed = operate(*lists)
        if not isinstance(changed, tuple) or [len(elements) for elements in changed] != [length] * len(genomes):
            raise ValueError(
                f"{operator.name} must return {len(genomes)} lists of {length} in a tuple, not {changed!r}"
            )
        if operator.scale == "values":
            written = [
                {p: value for p, value in zip(space, row, strict=True) if value is not INACTIVE} for row in changed
            ]
        else:
            written = [_decoded(space, paths, row, genomes, numbers) for row in changed]
        children = [
            _child(space, values, genome, genomes, rng) for values, genome in zip(written, genomes, strict=True)
        ]
        if operator.scale == "values":  # only here can a user's function write what no gene accepts
            for child in children:
                space.validate(child)
        return children

    return change


def _child(
    space: SearchSpace, values: dict[str, Value], genome: Genome, genomes: list[Genome], rng: random.Random
) -> Genome:
    """The genome of ``values``; a newly active gene without a value takes the parents', or else is sampled."""
    inherited = {path: value for parent in (*genomes, genome) for path, value in parent.items()}
    return space.complete({**inherited, **values}, rng, genome.rates)


def _bit_genes(space: SearchSpace, genomes: Sequence[Genome]) -> list[str]:
    """Paths of the genes made of bits that are active in all ``genomes``."""
    return [
        path
        for path, gene in space.items()
        if isinstance(gene, (Bitstring, Boolean)) and all(path in genome for genome in genomes)
    ]


def _numbers(
    space: SearchSpace, paths: list[str], genome: Genome, genomes: list[Genome], whole: bool
) -> list[tuple[float, ...]]:
    """Each gene's numbers: the other parent's where only that one has the gene, the middle where neither has."""
    rows: list[tuple[float, ...]] = []
    for path in paths:
        holder = next((g for g in (genome, *genomes) if path in g), None)
        if holder is None:
            rows.append((0.5,) * space[path].width)
        else:
            encoded = space[path].encode(holder[path])
            rows.append(tuple(int(number) for number in encoded) if whole else tuple(encoded))
    return rows


def _decoded(
    space: SearchSpace,
    paths: list[str],
    numbers: list[float],
    genomes: list[Genome],
    before: list[list[tuple[float, ...]]],
) -> dict[str, Value]:
    """Values from numbers; a gene whose numbers are a parent's keeps that parent's value exactly, without rounding."""
    values: dict[str, Value] = {}
    at = 0
    for i, path in enumerate(paths):
        width = space[path].width
        own = tuple(numbers[at : at + width])
        at += width
        holders = [(rows[i], genome[path]) for rows, genome in zip(before, genomes, strict=True) if path in genome]
        if holders:
            same = [value for row, value in holders if row == own]
            values[path] = same[0] if same else space[path].decode(own)
    return values
