"""The encoding of a layer as 32 bits: one of eight families and 24 bits of numbers; any layer in range comes back exactly.

======== =============== ======================================================================================
bits     holds           how
======== =============== ======================================================================================
0-7      the family      one bit is set: Conv2d, pooling, Flatten, Linear, norm, activation, Dropout, Residual
8-31     Conv2d          8-19 channels (1-4095), 20-23 kernel - 1, 24-26 stride - 1, 27 depthwise, 28-31 groups - 1
8-31     pooling         8 MaxPool2d, 9 AvgPool2d, 10 GlobalAvgPool; 20-23 kernel - 1, 24-26 stride - 1
8-31     Linear          8-23 width (1-65535)
8-31     norm            8 BatchNorm2d, 9 LayerNorm
8-31     activation      8 ReLU, 9 LeakyReLU, 10 PReLU, 11 ELU, 12 GELU, 13 SiLU; 14-23 slope in thousandths
8-31     Dropout         14-23 rate in thousandths
8-31     Residual        8-13 layers bridged (1-63)
======== =============== ======================================================================================

Numbers are binary, the highest bit first; bits without a meaning are 0, and 32 zeros are no layer (padding). Kinds have a
bit each, and so have powers of two, so that a network that reads the rows needs to decode little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_evo.genome.templates.layers import ACTIVATIONS, DEPTHWISE, NORMS, POOLS, Layer

__all__ = ["BIT_WIDTH", "ENCODING_VERSION", "decode_layer", "encode_layer", "read_layer"]

ENCODING_VERSION = 1
"""Changes when the same bits come to mean another layer."""

BIT_WIDTH = 32
"""Bits per layer."""

_FAMILIES: tuple[tuple[str, ...], ...] = (
    ("Conv2d",),
    (*POOLS, "GlobalAvgPool"),
    ("Flatten",),
    ("Linear",),
    NORMS,
    ACTIVATIONS,
    ("Dropout",),
    ("Residual",),
)
_KIND_BIT = len(_FAMILIES)

# name: (first bit, bits, what is subtracted, the size of one)
_Field = tuple[int, int, int, float]
_WINDOW: dict[str, _Field] = {"kernel": (20, 4, 1, 1), "stride": (24, 3, 1, 1)}
_FIELDS: dict[str, dict[str, _Field]] = {
    "Conv2d": {"out": (8, 12, 0, 1), **_WINDOW, "groups": (28, 4, 1, 1)},
    "MaxPool2d": _WINDOW,
    "AvgPool2d": _WINDOW,
    "Linear": {"out": (8, 16, 0, 1)},
    "LeakyReLU": {"slope": (14, 10, 0, 1e-3)},
    "Dropout": {"rate": (14, 10, 0, 1e-3)},
    "Residual": {"back": (8, 6, 0, 1)},
}
_DEPTHWISE_BIT = 27


def encode_layer(layer: Layer) -> list[int]:
    """The layer as 32 bits.

    Raises:
        ValueError: If a number doesn't fit its bits; names it and its range.

    >>> encode_layer(Layer("Linear", out=64))[:8], encode_layer(Layer("Linear", out=64))[8:24].index(1)
    ([0, 0, 0, 1, 0, 0, 0, 0], 9)
    """
    bits = [0] * BIT_WIDTH
    family = next(i for i, kinds in enumerate(_FAMILIES) if layer.kind in kinds)
    bits[family] = 1
    if len(_FAMILIES[family]) > 1:
        bits[_KIND_BIT + _FAMILIES[family].index(layer.kind)] = 1
    for name, (first, width, less, unit) in _FIELDS.get(layer.kind, {}).items():
        value = getattr(layer, name)
        if name == "groups" and value == DEPTHWISE:
            bits[_DEPTHWISE_BIT] = 1
            continue
        code = round(value / unit)
        if not 0 <= code - less < 1 << width or round(code * unit, 3) != value:
            steps = f" in steps of {unit}" if unit < 1 else ""
            highest = round(((1 << width) - 1 + less) * unit, 3)
            raise ValueError(f"{layer.kind}: {name} {value} does not fit its {width} bits: {less} to {highest}{steps}")
        for at in range(width):
            bits[first + at] = (code - less) >> (width - 1 - at) & 1
    return bits


def decode_layer(bits: Sequence[int]) -> Layer | None:
    """The layer of 32 bits, ``None`` for padding; the inverse of :func:`encode_layer`.

    Raises:
        ValueError: If the bits are not those of a layer.
    """
    layer = read_layer(bits) if len(bits) == BIT_WIDTH else None
    if (encode_layer(layer) if layer else [0] * BIT_WIDTH) != list(bits):
        raise ValueError(f"{''.join(str(bit) for bit in bits)!r} is not a layer in encoding {ENCODING_VERSION}")
    return layer


def read_layer(numbers: Sequence[float]) -> Layer | None:
    """The layer that 32 numbers in [0, 1] come nearest to, ``None`` for padding; any numbers will do."""
    family = max(range(len(_FAMILIES)), key=lambda i: numbers[i])
    if numbers[family] < 0.5:
        return None
    kinds = _FAMILIES[family]
    kind = kinds[max(range(len(kinds)), key=lambda i: numbers[_KIND_BIT + i])]
    found: dict[str, Any] = {}
    for name, (first, width, less, unit) in _FIELDS.get(kind, {}).items():
        code = less
        for at in range(width):
            code += (numbers[first + at] >= 0.5) << (width - 1 - at)
        found[name] = round(code * unit, 3) if unit < 1 else code
    if kind == "Conv2d" and numbers[_DEPTHWISE_BIT] >= 0.5:
        found["groups"] = DEPTHWISE
    if "out" in found:
        found["out"] = max(1, found["out"])
    return Layer(kind, **found)
