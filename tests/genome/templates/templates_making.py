"""Random layers, of which nothing needs to fit, and random Layers genes, for property tests."""

from __future__ import annotations

import random

from lightning_evo.genome import Layers
from lightning_evo.genome.templates import Layer
from lightning_evo.genome.templates.layers import ACTIVATIONS, KINDS, NORMS


def wild_layer(rng: random.Random) -> Layer:
    kind = rng.choice(KINDS)
    if kind == "Conv2d":
        out, kernel, stride = rng.choice([1, 3, 10, 16, 64]), rng.randint(1, 12), rng.randint(1, 6)
        return Layer(kind, out, kernel, stride, rng.choice([0, 1, 1, 1, 2, 3, 4, 16]))
    if kind in ("MaxPool2d", "AvgPool2d"):
        return Layer(kind, kernel=rng.randint(1, 5), stride=rng.randint(1, 4))
    if kind == "Linear":
        return Layer(kind, rng.choice([1, 10, 32, 64]))
    return Layer(
        kind,
        slope=rng.choice([0.1, 0.333]) if kind == "LeakyReLU" else 0.0,
        rate=rng.choice([0.0, 0.5, 0.77]) if kind == "Dropout" else 0.0,
        back=rng.randint(1, 20) if kind == "Residual" else 0,
    )


def wild_layers(rng: random.Random, most: int = 40) -> list[Layer]:
    return [wild_layer(rng) for _ in range(rng.randint(0, most))]


def some(rng: random.Random, numbers, most: int) -> list:
    return sorted(rng.sample(list(numbers), rng.randint(1, most)))


def wild_gene(rng: random.Random, input_shape: list[int] | None = None) -> Layers:
    """A gene with random ranges, narrow ones among them, and with some kinds of layers switched off."""
    convs, linear = rng.randint(0, 4), rng.randint(1, 3)
    switches = ["residual", "depthwise", "group", "max_pool", "avg_pool", "norm", "dropout", "linear_dropout"]
    return Layers(
        input_shape or [rng.randint(1, 3), rng.randint(1, 40), rng.randint(1, 40)],
        rng.choice([2, 10, 64]),
        min_conv=convs,
        max_conv=convs + rng.randint(0, 4),
        min_linear=linear,
        max_linear=linear + rng.randint(0, 3),
        max_layers=convs + linear + 2 + rng.randint(1, 25),
        max_features=rng.choice([1, 10, 500, 10**6]),
        channels=some(rng, [2, 3, 8, 24, 64, 96], 4),
        kernels=some(rng, range(1, 17), 4),
        strides=some(rng, range(1, 9), 3),
        groups=some(rng, range(2, 17), 3),
        widths=some(rng, [10, 20, 64], 2),
        pool_kernels=some(rng, range(1, 6), 2),
        pool_strides=some(rng, range(1, 5), 2),
        max_back=rng.randint(1, 20),
        norms=rng.sample(NORMS, rng.randint(1, 2)),
        activations=rng.sample(ACTIVATIONS, rng.randint(1, 6)),
        activation_probability=rng.choice([0.0, 0.5, 1.0]),
        **{f"{switch}_probability": rng.choice([0.0, 0.3, 1.0]) for switch in switches},
    )


def narrow_gene(rng: random.Random, input_shape: list[int]) -> Layers:
    """A gene whose templates are quick to train at any size."""
    return Layers(
        input_shape,
        rng.choice([2, 10]),
        min_conv=rng.choice([0, 1]),
        max_conv=rng.choice([3, 6]),
        max_features=256,
        channels=[2, 3, 4, 8],
        kernels=[1, 2, 3, 5, 7],
        strides=[1, 2, 3],
        groups=[2, 3, 4],
        widths=[4, 8, 16],
        residual_probability=0.4,
        depthwise_probability=0.2,
        group_probability=0.2,
    )
