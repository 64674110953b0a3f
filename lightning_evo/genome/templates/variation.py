"""Variation of templates: five mutations of one layer, and two crossovers of templates of different lengths."""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Mapping, Sequence

from lightning_evo.genome.templates.layers import ACTIVATIONS, DEPTHWISE, NORMS, POOLS, Layer
from lightning_evo.genome.templates.sampling import LayerRanges, draw_activation, draw_layer

__all__ = ["CROSSOVERS", "MUTATIONS", "splice"]

_JUMP = 0.25
"""How often an altered number is drawn anew instead of stepping to a neighbor."""

_WEIGHTY = 3.0
"""How much likelier a convolution or linear layer is altered than an auxiliary layer."""


def insert(ranges: LayerRanges, layers: list[Layer], rng: random.Random) -> list[Layer] | None:
    """Put a random layer somewhere before the head."""
    if len(layers) >= ranges.max_layers:
        return None
    flatten = _flatten(layers)
    at = rng.randrange(len(layers))
    on_map = at <= flatten
    conv = _count(layers, "Conv2d") < ranges.max_conv
    linear = _count(layers, "Linear") < ranges.max_linear
    new = draw_layer(ranges, rng, on_map, conv, linear, at if on_map else at - flatten - 1)
    return None if new is None else splice(layers, at, 0, [new])


def delete(ranges: LayerRanges, layers: list[Layer], rng: random.Random) -> list[Layer] | None:
    """Take out a layer; not one of which there must be as many."""
    conv = _count(layers, "Conv2d") > ranges.min_conv
    linear = _count(layers, "Linear") > ranges.min_linear
    needed = {"Flatten", *([] if conv else ["Conv2d"]), *([] if linear else ["Linear"])}
    places = [i for i, layer in enumerate(layers[:-1]) if layer.kind not in needed]
    return splice(layers, rng.choice(places), 1, []) if places else None


def duplicate(ranges: LayerRanges, layers: list[Layer], rng: random.Random) -> list[Layer] | None:
    """Repeat a convolution, hidden linear layer or pooling, together with the auxiliary layers that follow it."""
    room = {"Conv2d": ranges.max_conv, "Linear": ranges.max_linear}
    places = [
        i
        for i, layer in enumerate(layers[:-1])
        if layer.kind in POOLS or (layer.kind in room and _count(layers, layer.kind) < room[layer.kind])
    ]
    if not places:
        return None
    start = rng.choice(places)
    stop = start + 1
    while layers[start].kind not in POOLS and layers[stop].kind in (*NORMS, *ACTIVATIONS, "Dropout"):
        stop += 1
    stop = min(stop, start + ranges.max_layers - len(layers))
    return splice(layers, stop, 0, layers[start:stop]) if stop > start else None


def swap(ranges: LayerRanges, layers: list[Layer], rng: random.Random) -> list[Layer] | None:
    """Exchange two layers that both act on maps, or both on vectors."""
    flatten = _flatten(layers)
    parts = [range(flatten), range(flatten + 1, len(layers) - 1)]
    first = rng.randrange(len(layers) - 1)
    part = next((part for part in parts if first in part), ())
    places = [i for i in part if layers[i] != layers[first] and layers[i].kind != "Residual"]
    if not places or layers[first].kind == "Residual":
        return None
    second = rng.choice(places)
    changed = list(layers)
    changed[first], changed[second] = changed[second], changed[first]
    return changed


def alter(ranges: LayerRanges, layers: list[Layer], rng: random.Random) -> list[Layer] | None:
    """Change a number, or the kind, of one layer: mostly a step to a neighbor in its range."""
    places = [i for i, layer in enumerate(layers[:-1]) if layer.kind not in ("Flatten", "GlobalAvgPool")]
    if not places:
        return None
    weights = [_WEIGHTY if layers[i].kind in ("Conv2d", "Linear") else 1.0 for i in places]
    at = rng.choices(places, weights)[0]
    return [*layers[:at], _altered(ranges, layers[at], rng), *layers[at + 1 :]]


def one_point(
    ranges: LayerRanges, first: list[Layer], second: list[Layer], rng: random.Random
) -> tuple[list[Layer], list[Layer]]:
    """Cut each parent once, both within the maps or both within the vectors, and exchange what follows."""
    ends = _flatten(first), _flatten(second)
    one = rng.randrange(len(first))
    two = rng.randint(0, ends[1]) if one <= ends[0] else rng.randrange(ends[1] + 1, len(second))
    return first[:one] + second[two:], second[:two] + first[one:]


def homologous(
    ranges: LayerRanges, first: list[Layer], second: list[Layer], rng: random.Random
) -> tuple[list[Layer], list[Layer]]:
    """Align the parents by the families of their layers and exchange what stands between two aligned places."""
    columns = _aligned([_family(layer) for layer in first], [_family(layer) for layer in second])
    start, stop = sorted(rng.sample(range(len(columns) + 1), 2))
    one, two = [], []
    for column, (a, b) in enumerate(columns):
        if start <= column < stop:
            a, b = b, a
            source_a, source_b = second, first
        else:
            source_a, source_b = first, second
        if a is not None:
            one.append(source_a[a])
        if b is not None:
            two.append(source_b[b])
    return one, two


Mutation = Callable[[LayerRanges, list[Layer], random.Random], list[Layer] | None]
Crossover = Callable[[LayerRanges, list[Layer], list[Layer], random.Random], tuple[list[Layer], list[Layer]]]

MUTATIONS: Mapping[str, Mutation] = {
    "insert": insert,
    "delete": delete,
    "duplicate": duplicate,
    "swap": swap,
    "alter": alter,
}
"""Mutations by name: (ranges, repaired layers, rng) -> layers to be repaired, or ``None`` where nothing can be done."""

CROSSOVERS: Mapping[str, Crossover] = {"one_point": one_point, "homologous": homologous}
"""Crossovers by name: (ranges, repaired layers of both parents, rng) -> layers of two children, yet to be repaired."""


def splice(layers: Sequence[Layer], at: int, removed: int, added: Sequence[Layer]) -> list[Layer]:
    """Replace ``removed`` layers from ``at`` on by ``added``; joins behind them keep what they add."""
    changed = [*layers[:at], *added]
    moved = len(added) - removed
    for i, layer in enumerate(layers[at + removed :], at + removed):
        if layer.kind == "Residual":
            source = i - layer.back
            source = source + moved if source >= at + max(1, removed) else min(source, at)
            layer = layer._replace(back=max(1, i + moved - source))
        changed.append(layer)
    return changed


def _altered(ranges: LayerRanges, layer: Layer, rng: random.Random) -> Layer:
    kind = layer.kind
    if kind == "Conv2d":
        what = rng.choice(["out", "out", "kernel", "stride", "groups"])
        if what == "groups":
            choices = [1]
            if ranges.group_probability > 0:
                choices += [groups for groups in ranges.groups if groups > 1]
            if ranges.depthwise_probability > 0:
                choices.append(DEPTHWISE)
            return layer._replace(groups=_other(layer.groups, choices, rng))
        if what == "out":
            # Whoever asks a depthwise convolution for other channels asks for one that isn't depthwise.
            out = _stepped(layer.out, ranges.channels, rng)
            return layer._replace(out=out, groups=layer.groups or 1)
        choices = ranges.kernels if what == "kernel" else ranges.strides
        return layer._replace(**{what: _stepped(getattr(layer, what), choices, rng)})
    if kind == "Linear":
        return layer._replace(out=_stepped(layer.out, ranges.widths, rng))
    if kind in POOLS:
        what = rng.choice(["kernel", "stride", "kind"])
        if what == "kind":
            return layer._replace(kind=_other(kind, [k for k, p in ranges.pool_probabilities.items() if p > 0], rng))
        choices = ranges.pool_kernels if what == "kernel" else ranges.pool_strides
        return layer._replace(**{what: _stepped(getattr(layer, what), choices, rng)})
    if kind == "LeakyReLU" and rng.random() < 0.5:
        return layer._replace(slope=_stepped(layer.slope, ranges.slopes, rng))
    if kind in ACTIVATIONS:
        return draw_activation(ranges, rng)
    if kind in NORMS:
        return Layer(_other(kind, ranges.norms, rng))
    if kind == "Dropout":
        return layer._replace(rate=_stepped(layer.rate, ranges.rates, rng))
    return layer._replace(back=rng.randint(1, ranges.max_back))


def _stepped(number: float, choices: Sequence, rng: random.Random):
    """Mostly a neighbor of ``number`` among ``choices``, sometimes any other; itself where there is no other."""
    others = [choice for choice in choices if choice != number]
    if not others:
        return number
    if rng.random() < _JUMP:
        return rng.choice(others)
    below = [choice for choice in others if choice < number]
    above = [choice for choice in others if choice > number]
    return rng.choice([*below[-1:], *above[:1]])


def _other(value, choices: Sequence, rng: random.Random):
    others = [choice for choice in choices if choice != value]
    return rng.choice(others) if others else value


def _flatten(layers: Sequence[Layer]) -> int:
    return next(i for i, layer in enumerate(layers) if layer.kind == "Flatten")


def _count(layers: Sequence[Layer], kind: str) -> int:
    return sum(layer.kind == kind for layer in layers)


def _family(layer: Layer) -> str:
    for family in (POOLS, NORMS, ACTIVATIONS):
        if layer.kind in family:
            return family[0]
    return layer.kind


def _aligned(first: Sequence[str], second: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """Positions of both that stand beside each other; ``None`` where one has nothing to stand there."""
    columns: list[tuple[int | None, int | None]] = []
    for _, a, a_end, b, b_end in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        length = max(a_end - a, b_end - b)
        columns += [(a + n if a + n < a_end else None, b + n if b + n < b_end else None) for n in range(length)]
    return columns
