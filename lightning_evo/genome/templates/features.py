"""Features of a template for predictors: counts, widths, resolutions, paths, norms, sizes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from lightning_evo.genome.templates.layers import ACTIVATIONS, DEPTHWISE, KINDS, NORMS, POOLS
from lightning_evo.genome.templates.signal import signal
from lightning_evo.genome.templates.template import Template

__all__ = ["FEATURES", "describe"]


def describe(template: Template) -> dict[str, float]:
    """The template in numbers, by name (always those of :data:`FEATURES`).

    - Counts of each kind and of all; which share of the weight layers has an activation, a norm right behind it.
    - Channels and kernels of the convolutions (first, last, mean, extremes), widths of the hidden linear layers.
    - Resolution: the map's side behind the first and the last convolution, on average and at the end, the receptive
      field, how much strides and pooling reduce, how much of that comes before the second convolution.
    - Size: logarithms of parameters and FLOPs, in all, of convolutions and of linear layers, of the flattened features,
      and of the narrowest place that everything must pass.
    - Paths through the joins: most and fewest weight layers between image and scores.
    - The longest run of weight layers without a norm or join between them, and the last.
    - Signal: see :func:`~lightning_evo.genome.templates.signal.signal`.
    - Dropout: the logarithm of what all of it keeps, and the last rate; the last activation.
    """
    return {
        **_counts(template),
        **_widths(template),
        **_resolution(template),
        **_sizes(template),
        **_paths(template),
        **_runs(template),
        **signal(template),
    }


def _counts(template: Template) -> dict[str, float]:
    kinds = [layer.kind for layer in template.layers]
    counted = Counter(kinds)
    weights = [i for i, kind in enumerate(kinds[:-1]) if kind in ("Conv2d", "Linear")]
    # What stands behind a weight layer, up to the next one.
    behind = [set(kinds[i + 1 : end]) for i, end in pairwise([*weights, len(kinds) - 1])]
    total = max(1, len(weights))
    activations = sum(counted[kind] for kind in ACTIVATIONS)
    last = next((kind for kind in reversed(kinds) if kind in ACTIVATIONS), "")
    keep = [1 - layer.rate for layer in template.layers if layer.kind == "Dropout"]
    return {
        **{f"count_{kind}": float(counted[kind]) for kind in KINDS if kind != "Flatten"},
        "count_layers": float(len(kinds)),
        "count_activations": float(activations),
        "count_norms": float(sum(counted[kind] for kind in NORMS)),
        "count_pools": float(sum(counted[kind] for kind in POOLS)),
        "share_activated": sum(bool(found.intersection(ACTIVATIONS)) for found in behind) / total,
        "share_normed": sum(bool(found.intersection(NORMS)) for found in behind) / total,
        "share_relu": counted["ReLU"] / max(1, activations),
        "last_activation": float(ACTIVATIONS.index(last)) if last else -1.0,
        "last_is_activated": float(bool(behind and behind[-1].intersection(ACTIVATIONS))),
        "count_depthwise": float(
            sum(layer.kind == "Conv2d" and layer.groups == DEPTHWISE for layer in template.layers)
        ),
        "count_grouped": float(sum(layer.kind == "Conv2d" and layer.groups > 1 for layer in template.layers)),
        "dropout_log_keep": sum(map(math.log, keep)),
        "dropout_last": 1 - keep[-1] if keep else 0.0,
        "norm_first": float(bool(behind and behind[0].intersection(NORMS))),
    }


def _widths(template: Template) -> dict[str, float]:
    convs = [layer for layer in template.layers if layer.kind == "Conv2d"]
    channels = [math.log2(layer.out) for layer in convs]
    kernels = [float(layer.kernel) for layer in convs]
    hidden = [math.log2(layer.out) for layer in template.layers[:-1] if layer.kind == "Linear"]
    return {
        **_summary("channels", channels),
        **_summary("kernel", kernels),
        **_summary("hidden", hidden),
    }


def _summary(name: str, numbers: Sequence[float]) -> dict[str, float]:
    if not numbers:
        return dict.fromkeys([f"{name}_{what}" for what in ("first", "last", "mean", "min", "max")], 0.0)
    return {
        f"{name}_first": numbers[0],
        f"{name}_last": numbers[-1],
        f"{name}_mean": sum(numbers) / len(numbers),
        f"{name}_min": min(numbers),
        f"{name}_max": max(numbers),
    }


def _resolution(template: Template) -> dict[str, float]:
    """The maps' sides (geometric means of height and width) and what a pixel of the last map sees."""
    side = start = _side(template.input_shape)
    sides: list[float] = []
    field, step, early, seen, told, large, pixels = 1.0, 1.0, 1.0, 1.0, 0.0, 0, 0
    before: Sequence[int] = template.input_shape
    for layer, shape in zip(template.layers, template.shapes, strict=True):
        if len(shape) == 1:
            break
        if layer.kernel:
            field += (layer.kernel - 1) * step
            step *= layer.stride
            seen *= min(1.0, layer.kernel / layer.stride) ** 2
        if layer.kind == "Conv2d":
            told += math.log2(min(layer.kernel, before[1]) * min(layer.kernel, before[2]))
        before = shape
        side = _side(shape)
        if layer.kind == "Conv2d":
            sides.append(side)
            large += side * 2 > start
            pixels += side == 1
        if len(sides) < 2:
            early = step
    end = sides[-1] if sides else side
    return {
        "side_first": sides[0] if sides else side,
        "side_last_conv": end,
        "side_mean": sum(sides) / len(sides) if sides else side,
        "side_final": side,
        "side_log_mean": sum(map(math.log2, sides)) / len(sides) if sides else 0.0,
        "convs_at_high_resolution": float(large),
        "convs_on_one_pixel": float(pixels),
        "share_of_pixels_seen": seen,
        # How many places the weights can tell apart: by the kernels, and by those of the last map; not more than there are.
        "log_places_kernels": min(told, math.log2(start**2 * seen)),
        "log_places": min(told + 2 * math.log2(side), math.log2(start**2 * seen)),
        "receptive_field": field,
        "receptive_share": min(1.0, field / start),
        "log_reduction": math.log2(step),
        "log_reduction_early": math.log2(early),
    }


def _side(shape: Sequence[int]) -> float:
    return math.sqrt(shape[1] * shape[2])


def _sizes(template: Template) -> dict[str, float]:
    kinds = [layer.kind for layer in template.layers]
    params = {"Conv2d": 0, "Linear": 0}
    flops = {"Conv2d": 0, "Linear": 0}
    for i, kind in enumerate(kinds):
        # A join's projection is a convolution too.
        family = "Linear" if kind == "Linear" else "Conv2d"
        params[family] += template.layer_params[i]
        flops[family] += template.layer_flops[i]
    shapes = template.shapes[:-1]
    flat = shapes[kinds.index("Flatten")][0]
    sizes = [math.prod(shape) for shape in shapes]
    vectors = [shape[0] for shape in shapes if len(shape) == 1]
    return {
        "log_params": _log(template.params),
        "log_params_conv": _log(params["Conv2d"]),
        "log_params_linear": _log(params["Linear"]),
        "log_flops": _log(template.flops),
        "log_flops_conv": _log(flops["Conv2d"]),
        "log_flops_linear": _log(flops["Linear"]),
        "log_features": _log(flat),
        "log_narrowest": _log(min(sizes)),
        "log_narrowest_vector": _log(min(vectors)),
        "log_largest": _log(max(sizes)),
        "log_activations": _log(sum(sizes)),
    }


def _log(number: float) -> float:
    return math.log10(1 + number)


def _paths(template: Template) -> dict[str, float]:
    """The most and the fewest weight layers on a way from the image to the scores."""
    longest, shortest, projections = [0], [0], 0
    for i, layer in enumerate(template.layers):
        source, weighs = template.sources[i], layer.kind in ("Conv2d", "Linear")
        most, fewest = longest[-1] + weighs, shortest[-1] + weighs
        if source is not None:
            projects = template.projection(i) is not None
            projections += projects
            most, fewest = max(most, longest[source] + projects), min(fewest, shortest[source] + projects)
        longest.append(most)
        shortest.append(fewest)
    return {
        "path_longest": float(longest[-1]),
        "path_shortest": float(shortest[-1]),
        "count_projections": float(projections),
    }


def _runs(template: Template) -> dict[str, float]:
    """How many weight layers follow each other without a norm or join."""
    run = longest = 0
    for layer in template.layers:
        if layer.kind in ("Conv2d", "Linear"):
            run += 1
        elif layer.kind in (*NORMS, "Residual"):
            run = 0
        longest = max(longest, run)
    return {"longest_without_norm": float(longest), "last_without_norm": float(run)}


def _names() -> tuple[str, ...]:
    return tuple(describe(Template([], (1, 1, 1), 2)))


FEATURES: tuple[str, ...] = _names()
"""Names of the numbers, in their order."""
