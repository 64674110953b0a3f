"""What does one step of a traced network do to its channels, and to the sign of what runs through it?"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import fx, nn

__all__ = [
    "ACTIVATIONS",
    "ADDITIONS",
    "ANY",
    "DROPS",
    "KEEPS_ZERO",
    "NOTHING",
    "POINTWISE",
    "POOLS",
    "PRODUCTS",
    "SHAPES",
    "SIZES",
    "Interval",
    "argument",
    "call_of",
    "interval",
    "settings",
]

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)

ADDITIONS = frozenset({"add", "iadd"})
PRODUCTS = frozenset({"mul", "imul", "multiply"})
DROPS = frozenset({"dropout", "alphadropout", "featurealphadropout", "featuredropout", "stochasticdepth", "droppath"})
"""What is the identity in eval mode, and dropout in train mode."""
NOTHING = frozenset({"identity", "contiguous", "clone"})
POOLS = frozenset(
    [
        "maxpool",
        "avgpool",
        "adaptiveavgpool",
        "adaptivemaxpool",
        "lppool",
        "upsample",
        "interpolate",
        "zeropad",
        "batchnorm",
        "instancenorm",
    ]
)
"""What treats each channel by itself, over its positions."""
SHAPES = frozenset({"flatten", "view", "reshape", "permute", "transpose", "squeeze"})
ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "leakyrelu",
        "elu",
        "celu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "hardshrink",
        "softshrink",
        "tanhshrink",
        "tanh",
        "sigmoid",
        "logsigmoid",
        "softplus",
        "softsign",
        "threshold",
        "abs",
        "square",
        "clamp",
        "clampmin",
    ]
)
"""What treats each number by itself, and isn't linear."""
KEEPS_ZERO = (
    frozenset(
        [
            "relu",
            "relu6",
            "leakyrelu",
            "prelu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "hardswish",
            "tanh",
            "softsign",
            "abs",
            "hardshrink",
            "softshrink",
            "tanhshrink",
        ]
    )
    | NOTHING
    | DROPS
    | POOLS
    | SHAPES
)
"""What gives 0 where it is given 0 (average pooling's and interpolation's weights sum to 1 or less)."""
POINTWISE = ACTIVATIONS | NOTHING | DROPS
SIZES = frozenset({"size", "getattr", "dim", "ne", "eq", "lt", "gt", "le", "ge", "floordiv", "numel"})
"""What asks for a shape."""


def call_of(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The operation's name, alike for module, function and method: ``maxpool`` for nn.MaxPool2d and F.max_pool2d."""
    if node.op == "call_module":
        name = type(modules[str(node.target)]).__name__
    elif isinstance(node.target, str):
        name = node.target
    else:
        name = getattr(node.target, "__name__", str(node.target))
    return re.sub(r"[123]d$", "", name.lower().replace("_", ""))


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, wherever it stands."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def settings(node: fx.Node, modules: dict[str, nn.Module]) -> tuple:
    """All that decides what a step without parameters computes, its inputs apart."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return (re.sub(r",? ?inplace(=True|=False)?", "", module.extra_repr()),)
    plain = fx.node.map_arg((node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}), lambda _: "·")
    return (repr(plain),)


def interval(call: str, node: fx.Node, modules: dict[str, nn.Module], given: Interval) -> tuple[Interval, bool]:
    """Between which bounds an operation's values lie, given those of its input; and whether it changes none of them."""
    low, high = given
    if call in NOTHING or call in DROPS:
        return given, True
    if call in ("relu", "leakyrelu") or call == "abs":
        result = (low, high) if low >= 0 else ((-math.inf if call == "leakyrelu" else 0.0), math.inf)
        return result, low >= 0
    if call in ("relu6", "hardtanh"):
        module = modules.get(str(node.target))
        least = getattr(module, "min_val", argument(node, 1, "min_val", -1.0)) if call == "hardtanh" else 0.0
        most = getattr(module, "max_val", argument(node, 2, "max_val", 1.0)) if call == "hardtanh" else 6.0
        return (max(low, least), min(high, most)), low >= least and high <= most
    if call in ("sigmoid", "hardsigmoid", "softmax"):
        return (0.0, 1.0), False
    if call in ("maxpool", "avgpool", "adaptivemaxpool", "adaptiveavgpool"):  # padding may bring in zeros
        return (min(low, 0.0), max(high, 0.0)), False
    keeps_sign = low >= 0 and call in SHAPES | {"mean", "silu", "gelu", "tanh", "softplus"}
    return ((0.0, math.inf) if keeps_sign else ANY), False
