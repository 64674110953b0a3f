"""Kinds of layers, and what the steps of a traced network do to channels and to the range of values."""

from __future__ import annotations

import math
import re
from typing import Any, cast

from torch import fx, nn

from lightning_evo._compat.torch import ConvBase, ConvTransposeBase, NormBase, parameters_dict

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
    "groups_of",
    "hyperparameters",
    "interval",
    "kind_of",
    "paddings",
    "settings",
]


def kind_of(module: nn.Module) -> str:
    """Return ``linear``, ``conv``, ``transposed``, ``embedding``, ``channelwise``, ``statistic`` or ``other``.

    ``channelwise`` treats each channel by itself (batch and instance normalization, PReLU), ``statistic`` normalizes
    over channels (layer, group and RMS normalization).
    """
    # Subclasses may compute something else (nn.MultiheadAttention's linear layer, spectral norm): exact types alone.
    kind = type(module)
    if isinstance(module, nn.Linear | ConvBase | nn.Embedding) and "weight" not in parameters_dict(module):
        return "other"  # weight normalization and its like
    if kind in (nn.Linear, nn.LazyLinear):
        return "linear"
    if isinstance(module, ConvTransposeBase):
        return "transposed"
    if isinstance(module, ConvBase) and kind.__module__.startswith("torch.nn"):
        return "conv"
    if kind is nn.Embedding:
        return "embedding"
    if (isinstance(module, NormBase) and kind.__module__.startswith("torch.nn")) or kind is nn.PReLU:
        return "channelwise"
    if kind is nn.GroupNorm or (
        kind in (nn.LayerNorm, nn.RMSNorm) and len(cast(nn.LayerNorm, module).normalized_shape) == 1
    ):
        return "statistic"
    return "other"


def paddings(module: ConvBase) -> tuple[float, ...]:
    """Return the padding on each side, in each dimension."""
    if module.padding == "same":
        return tuple(spread * (size - 1) / 2 for spread, size in zip(module.dilation, module.kernel_size, strict=True))
    return (0.0,) * len(module.kernel_size) if isinstance(module.padding, str) else module.padding


def hyperparameters(module: nn.Module) -> tuple:
    """Return all settings of a layer that affect what it computes, except widths and kernel sizes."""
    if isinstance(module, ConvBase):
        # Where the center of the kernel begins: this is what a centered kernel keeps.
        begins = tuple(
            pad - spread * (size - 1) / 2
            for pad, spread, size in zip(paddings(module), module.dilation, module.kernel_size, strict=True)
        )
        more = getattr(module, "output_padding", ())
        return (type(module).__name__, module.stride, module.dilation, begins, module.padding_mode, more)
    if isinstance(module, nn.Linear | nn.PReLU):
        return (type(module).__name__,)
    ignored = {"num_features", "num_channels", "num_groups", "normalized_shape", "momentum", "affine", "training"}
    ignored |= {"num_embeddings", "embedding_dim"}
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str) and k not in ignored}
    return (type(module).__name__, *sorted((k, repr(v)) for k, v in plain.items() if not k.startswith("_")))


def groups_of(module: nn.Module) -> int:
    """Return how many groups of channels a layer treats separately."""
    return int(getattr(module, "num_groups", getattr(module, "groups", 1)))


Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)

ADDITIONS = frozenset({"add", "iadd"})
PRODUCTS = frozenset({"mul", "imul", "multiply"})
DROPS = frozenset({"dropout", "alphadropout", "featurealphadropout", "featuredropout", "stochasticdepth", "droppath"})
"""The identity in eval mode, dropout in train mode."""
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
"""Operations on the positions of each channel separately."""
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
"""Nonlinear elementwise operations."""
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
"""Operations that map 0 to 0 (the weights of average pooling and interpolation sum to 1 or less)."""
POINTWISE = ACTIVATIONS | NOTHING | DROPS
SIZES = frozenset({"size", "getattr", "dim", "ne", "eq", "lt", "gt", "le", "ge", "floordiv", "numel"})
"""Operations that read a shape."""


def call_of(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """Return the operation's name, the same for module, function and method: ``maxpool`` for nn.MaxPool2d, F.max_pool2d."""
    if node.op == "call_module":
        name = type(modules[str(node.target)]).__name__
    elif isinstance(node.target, str):
        name = node.target
    else:
        name = getattr(node.target, "__name__", str(node.target))
    return re.sub(r"[123]d$", "", name.lower().replace("_", ""))


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def settings(node: fx.Node, modules: dict[str, nn.Module]) -> tuple:
    """Return whatever determines what a step without parameters computes, except its inputs."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        return (re.sub(r",? ?inplace(=True|=False)?", "", module.extra_repr()),)
    plain = fx.node.map_arg((node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}), lambda _: "·")
    return (repr(plain),)


def interval(call: str, node: fx.Node, modules: dict[str, nn.Module], given: Interval) -> tuple[Interval, bool]:
    """Return the bounds of an operation's values, given those of its input, and whether it leaves all values unchanged."""
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
