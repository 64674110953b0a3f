"""Random templates: blocks of a convolution with its auxiliary layers, then hidden linear layers."""

from __future__ import annotations

import random
from typing import Protocol

from lightning_evo.genome.templates.layers import DEPTHWISE, Layer

__all__ = ["LayerRanges", "draw_activation", "draw_conv", "draw_layer", "draw_linear", "draw_pool", "sample_layers"]


class LayerRanges(Protocol):
    """The ranges and probabilities of layers: the settings of :class:`~lightning_evo.genome.Layers`, documented there."""

    min_conv: int
    max_conv: int
    min_linear: int
    max_linear: int
    max_layers: int
    max_back: int
    channels: list[int]
    kernels: list[int]
    strides: list[int]
    groups: list[int]
    widths: list[int]
    pool_kernels: list[int]
    pool_strides: list[int]
    slopes: list[float]
    rates: list[float]
    activations: list[str]
    norms: list[str]
    vector_norms: list[str]
    activation_probability: float
    norm_probability: float
    dropout_probability: float
    linear_dropout_probability: float
    residual_probability: float
    global_pool_probability: float
    group_probability: float
    depthwise_probability: float
    pool_probabilities: dict[str, float]


def sample_layers(ranges: LayerRanges, rng: random.Random) -> list[Layer]:
    """Draw layers as the model generator of sophius does, before repair.

    The numbers of convolutions and of hidden linear layers are drawn evenly between their limits. Behind each
    convolution, and each with its probability, come a norm, an activation, pooling, dropout, and a join that bridges this
    block or the last two; behind each hidden linear layer a norm, an activation and dropout.
    """
    layers: list[Layer] = []
    starts: list[int] = []
    for _ in range(rng.randint(ranges.min_conv, ranges.max_conv)):
        starts.append(len(layers))
        layers.append(draw_conv(ranges, rng))
        _add_norm_and_activation(ranges, rng, layers, ranges.norms)
        for kind, probability in ranges.pool_probabilities.items():
            if rng.random() < probability:
                layers.append(draw_pool(ranges, rng, kind))
        if rng.random() < ranges.dropout_probability:
            layers.append(Layer("Dropout", rate=rng.choice(ranges.rates)))
        if rng.random() < ranges.residual_probability:
            layers.append(Layer("Residual", back=len(layers) - rng.choice(starts[-2:])))
    if rng.random() < ranges.global_pool_probability:
        layers.append(Layer("GlobalAvgPool"))
    for _ in range(rng.randint(ranges.min_linear, ranges.max_linear) - 1):
        layers.append(draw_linear(ranges, rng))
        _add_norm_and_activation(ranges, rng, layers, ranges.vector_norms)
        if rng.random() < ranges.linear_dropout_probability:
            layers.append(Layer("Dropout", rate=rng.choice(ranges.rates)))
    return layers


def draw_layer(
    ranges: LayerRanges, rng: random.Random, on_map: bool, conv: bool, linear: bool, behind: int
) -> Layer | None:
    """One layer to insert, of a kind drawn by their probabilities.

    Args:
        ranges: Ranges and probabilities.
        rng: Source of all randomness.
        on_map: Whether it will act on a map, or on a vector.
        conv: Whether another convolution is allowed.
        linear: Whether another linear layer is allowed.
        behind: How many layers there are before it that a join may bridge.

    Returns:
        The layer, or ``None`` where no kind is possible.
    """
    weights = {
        "activation": ranges.activation_probability,
        "norm": ranges.norm_probability if on_map or ranges.vector_norms else 0.0,
        "Dropout": ranges.dropout_probability if on_map else ranges.linear_dropout_probability,
        "Residual": ranges.residual_probability if behind >= 1 else 0.0,
    }
    if on_map:
        weights |= {
            "Conv2d": 2.0 * conv,
            "GlobalAvgPool": ranges.global_pool_probability / 4,
            **ranges.pool_probabilities,
        }
    else:
        weights["Linear"] = float(linear)
    if not any(weights.values()):
        return None
    kind = rng.choices(list(weights), list(weights.values()))[0]
    if kind == "Conv2d":
        return draw_conv(ranges, rng)
    if kind == "Linear":
        return draw_linear(ranges, rng)
    if kind == "activation":
        return draw_activation(ranges, rng)
    if kind == "norm":
        return Layer(rng.choice(ranges.norms if on_map else ranges.vector_norms))
    if kind == "Dropout":
        return Layer(kind, rate=rng.choice(ranges.rates))
    if kind == "Residual":
        return Layer(kind, back=rng.randint(1, min(behind, ranges.max_back)))
    return Layer(kind) if kind == "GlobalAvgPool" else draw_pool(ranges, rng, kind)


def draw_conv(ranges: LayerRanges, rng: random.Random) -> Layer:
    """A convolution with numbers drawn evenly; sometimes depthwise, or in groups."""
    groups = 1
    if rng.random() < ranges.depthwise_probability:
        groups = DEPTHWISE
    elif rng.random() < ranges.group_probability:
        groups = rng.choice(ranges.groups)
    out, kernel, stride = rng.choice(ranges.channels), rng.choice(ranges.kernels), rng.choice(ranges.strides)
    return Layer("Conv2d", out, kernel, stride, groups)


def draw_pool(ranges: LayerRanges, rng: random.Random, kind: str) -> Layer:
    """Pooling with numbers drawn evenly."""
    return Layer(kind, kernel=rng.choice(ranges.pool_kernels), stride=rng.choice(ranges.pool_strides))


def draw_linear(ranges: LayerRanges, rng: random.Random) -> Layer:
    """A hidden linear layer of a width drawn evenly."""
    return Layer("Linear", rng.choice(ranges.widths))


def draw_activation(ranges: LayerRanges, rng: random.Random) -> Layer:
    """One of the activations, drawn evenly."""
    kind = rng.choice(ranges.activations)
    return Layer(kind, slope=rng.choice(ranges.slopes) if kind == "LeakyReLU" else 0.0)


def _add_norm_and_activation(ranges: LayerRanges, rng: random.Random, layers: list[Layer], norms: list[str]) -> None:
    if norms and rng.random() < ranges.norm_probability:
        layers.append(Layer(rng.choice(norms)))
    if rng.random() < ranges.activation_probability:
        layers.append(draw_activation(ranges, rng))
