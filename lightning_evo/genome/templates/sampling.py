"""What does a random template look like? Blocks of a convolution and what may follow it, then hidden linear layers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from lightning_evo.genome.templates.layers import DEPTHWISE, Layer

if TYPE_CHECKING:
    from lightning_evo.genome.templates.gene import Layers

__all__ = ["draw_activation", "draw_conv", "draw_layer", "draw_linear", "draw_pool", "sample_layers"]


def sample_layers(gene: Layers, rng: random.Random) -> list[Layer]:
    """Draw layers as the model generator of sophius does, not repaired yet.

    The numbers of convolutions and of hidden linear layers are drawn evenly between their limits. Behind each
    convolution, and each with its probability, come a norm, an activation, pooling, dropout, and a join that bridges this
    block or the last two; behind each hidden linear layer a norm, an activation and dropout.
    """
    layers: list[Layer] = []
    starts: list[int] = []
    for _ in range(rng.randint(gene.min_conv, gene.max_conv)):
        starts.append(len(layers))
        layers.append(draw_conv(gene, rng))
        _add_norm_and_activation(gene, rng, layers, gene.norms)
        for kind, probability in gene.pool_probabilities.items():
            if rng.random() < probability:
                layers.append(draw_pool(gene, rng, kind))
        if rng.random() < gene.dropout_probability:
            layers.append(Layer("Dropout", rate=rng.choice(gene.rates)))
        if rng.random() < gene.residual_probability:
            layers.append(Layer("Residual", back=len(layers) - rng.choice(starts[-2:])))
    if rng.random() < gene.global_pool_probability:
        layers.append(Layer("GlobalAvgPool"))
    for _ in range(rng.randint(gene.min_linear, gene.max_linear) - 1):
        layers.append(draw_linear(gene, rng))
        _add_norm_and_activation(gene, rng, layers, gene.vector_norms)
        if rng.random() < gene.linear_dropout_probability:
            layers.append(Layer("Dropout", rate=rng.choice(gene.rates)))
    return layers


def draw_layer(gene: Layers, rng: random.Random, on_map: bool, conv: bool, linear: bool, behind: int) -> Layer | None:
    """One layer to insert, of a kind drawn by the gene's probabilities.

    Args:
        gene: Its ranges and probabilities.
        rng: Source of all randomness.
        on_map: Whether it will act on a map, or on a vector.
        conv: Whether another convolution is allowed.
        linear: Whether another linear layer is allowed.
        behind: How many layers there are before it that a join may bridge.

    Returns:
        The layer, or ``None`` where no kind is possible.
    """
    weights = {
        "activation": gene.activation_probability,
        "norm": gene.norm_probability if on_map or gene.vector_norms else 0.0,
        "Dropout": gene.dropout_probability if on_map else gene.linear_dropout_probability,
        "Residual": gene.residual_probability if behind >= 1 else 0.0,
    }
    if on_map:
        weights |= {"Conv2d": 2.0 * conv, "GlobalAvgPool": gene.global_pool_probability / 4, **gene.pool_probabilities}
    else:
        weights["Linear"] = float(linear)
    if not any(weights.values()):
        return None
    kind = rng.choices(list(weights), list(weights.values()))[0]
    if kind == "Conv2d":
        return draw_conv(gene, rng)
    if kind == "Linear":
        return draw_linear(gene, rng)
    if kind == "activation":
        return draw_activation(gene, rng)
    if kind == "norm":
        return Layer(rng.choice(gene.norms if on_map else gene.vector_norms))
    if kind == "Dropout":
        return Layer(kind, rate=rng.choice(gene.rates))
    if kind == "Residual":
        return Layer(kind, back=rng.randint(1, min(behind, gene.max_back)))
    return Layer(kind) if kind == "GlobalAvgPool" else draw_pool(gene, rng, kind)


def draw_conv(gene: Layers, rng: random.Random) -> Layer:
    """A convolution with numbers drawn evenly; sometimes depthwise, or in groups."""
    groups = 1
    if rng.random() < gene.depthwise_probability:
        groups = DEPTHWISE
    elif rng.random() < gene.group_probability:
        groups = rng.choice(gene.groups)
    out, kernel, stride = rng.choice(gene.channels), rng.choice(gene.kernels), rng.choice(gene.strides)
    return Layer("Conv2d", out, kernel, stride, groups)


def draw_pool(gene: Layers, rng: random.Random, kind: str) -> Layer:
    """Pooling with numbers drawn evenly."""
    return Layer(kind, kernel=rng.choice(gene.pool_kernels), stride=rng.choice(gene.pool_strides))


def draw_linear(gene: Layers, rng: random.Random) -> Layer:
    """A hidden linear layer of a width drawn evenly."""
    return Layer("Linear", rng.choice(gene.widths))


def draw_activation(gene: Layers, rng: random.Random) -> Layer:
    """One of the gene's activations, drawn evenly."""
    kind = rng.choice(gene.activations)
    return Layer(kind, slope=rng.choice(gene.slopes) if kind == "LeakyReLU" else 0.0)


def _add_norm_and_activation(gene: Layers, rng: random.Random, layers: list[Layer], norms: list[str]) -> None:
    if norms and rng.random() < gene.norm_probability:
        layers.append(Layer(rng.choice(norms)))
    if rng.random() < gene.activation_probability:
        layers.append(draw_activation(gene, rng))
