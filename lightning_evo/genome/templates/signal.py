"""Mean-field estimates of signal propagation through a template, without building or training it."""

from __future__ import annotations

import math

from lightning_evo.genome.templates.layers import ACTIVATIONS, Layer, Shape
from lightning_evo.genome.templates.template import Template

__all__ = ["signal"]

_TINY = 1e-12


def signal(template: Template) -> dict[str, float]:
    """Sizes of signals and of what an optimizer's step changes, as decimal logarithms, at torch's initialization.

    Two numbers follow an image through the network: the mean square of a value, and the covariance of the values that two
    different images give (as in Poole et al. 2016, arXiv:1606.05340, and Schoenholz et al. 2017, arXiv:1611.01232). Their
    difference is what tells images apart. torch's default initialization divides both by 3 in each weight layer and adds
    a bias; activations make images more alike; ``BatchNorm2d`` takes out what they have in common, ``LayerNorm`` only
    rescales. A step of Adam changes every weight alike, so that a layer changes the scores by its number of inputs, times
    the size of what comes in, times the gain of all that follows.

    Returns:
        ``signal_*``: what tells images apart at the scores, before the head, where it is least, and as a share of the
        mean square at the scores. ``speed_*``: how much a step changes the scores through the first layer, the head, the
        strongest layer and all layers.
    """
    squares, apart, noises, fans = [1.0], [1.0], [0.0], []
    for i, layer in enumerate(template.layers):
        square, different, noise = squares[-1], apart[-1], noises[-1]
        fan = 0.0
        if layer.kind in ("Conv2d", "Linear"):
            fan, weights = _inputs(layer, template.before(i))
            square = (square * fan / weights + 1 / weights) / 3
            different, noise = different * fan / weights / 3, noise * fan / weights / 3
        elif layer.kind in ACTIVATIONS:
            before = different
            square, different = _activated(layer, square, different)
            noise *= different / before
        elif layer.kind == "BatchNorm2d":
            # What images have in common goes; what differs, dropout's noise included, has a variance of 1 afterwards.
            square, different = 1.0, different / max(different + noise, _TINY)
            noise = 1 - different
        elif layer.kind == "LayerNorm":
            square, different, noise = 1.0, different / square, noise / square
        elif layer.kind == "Dropout":
            odds = layer.rate / (1 - layer.rate)
            square, noise = square * (1 + odds), noise + square * odds
        elif layer.kind in ("AvgPool2d", "MaxPool2d", "GlobalAvgPool"):
            size = math.prod(template.before(i)[1:]) if layer.kind == "GlobalAvgPool" else layer.kernel**2
            kept = size ** (-0.25 if layer.kind == "MaxPool2d" else -0.5)
            square, different, noise = square - different * (1 - kept), different * kept, noise * kept**2
        elif (source := template.sources[i]) is not None:
            share = 1.0 if template.projection(i) is None else 1 / 3
            square, different = square + share * squares[source], different + share * apart[source]
            noise += share * noises[source]
        squares.append(max(square, _TINY))
        apart.append(max(different, _TINY))
        noises.append(noise)
        fans.append(fan)
    logs = [math.log10(value) for value in apart]
    # Of each weight layer: inputs, and half a logarithm per variance.
    speeds = [math.log10(fan) + (logs[i] + logs[-1] - logs[i + 1]) / 2 for i, fan in enumerate(fans) if fan > 0]
    inputs = [math.log10(fan) for fan in fans if fan > 0]
    return {
        "signal_scores": logs[-1],
        "signal_features": logs[-2],
        "signal_least": min(logs),
        "signal_share": logs[-1] - math.log10(squares[-1]),
        "signal_mean": sum(logs) / len(logs),
        "signal_to_noise": min(3.0, logs[-1] - math.log10(noises[-1] + _TINY)),
        "speed_first": speeds[0],
        "speed_head": speeds[-1],
        "speed_most": max(speeds),
        "speed_mean": sum(speeds) / len(speeds),
        "speed_all": math.log10(sum(10**speed for speed in speeds)),
        "inputs_least": min(inputs),
        "inputs_mean": sum(inputs) / len(inputs),
    }


def _inputs(layer: Layer, inside: Shape) -> tuple[float, int]:
    """How many inputs of a unit are there on average, and how many weights it has: padding holds nothing."""
    if layer.kind == "Linear":
        return inside[0], inside[0]
    channels = inside[0] // (layer.groups or inside[0])
    taps = math.prod(_taps(side, layer.kernel) for side in inside[1:])
    return channels * taps, channels * layer.kernel**2


def _taps(side: int, kernel: int) -> float:
    padding = (kernel - 1) // 2
    return max(1.0, min(side, kernel - padding * (padding + 1) / side))


def _activated(layer: Layer, square: float, different: float) -> tuple[float, float]:
    """Mean square and difference behind an activation, taken for ``gain * (slope * x + (1 - slope) * relu(x))``."""
    gain, slope = _shape(layer, square)
    common = max(-1.0, min(1.0, 1 - different / square))
    # Cho and Saul's kernel of relu; the mean of x times relu of another is half their covariance.
    relu = (math.sqrt(1 - common**2) + common * (math.pi - math.acos(common))) / (2 * math.pi)
    rest = 1 - slope
    covariance = slope**2 * common + rest**2 * relu + slope * rest * common
    variance = slope**2 + rest**2 / 2 + slope * rest
    scale = gain**2 * square
    return scale * variance, scale * (variance - covariance)


def _shape(layer: Layer, square: float) -> tuple[float, float]:
    """(gain, slope): smooth activations are nearly linear for small signals and like relu for large ones."""
    large = square / (1 + square)
    if layer.kind in ("GELU", "SiLU"):
        return (1 + large) / 2, 1 - large
    if layer.kind == "ELU":
        return 1.0, 1 - 0.8 * large
    return 1.0, {"LeakyReLU": layer.slope, "PReLU": 0.25}.get(layer.kind, 0.0)
