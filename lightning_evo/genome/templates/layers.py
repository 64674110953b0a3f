"""A layer of a template: a kind and a few numbers, read from and written as one line of text."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

__all__ = [
    "ACTIVATIONS",
    "DEPTHWISE",
    "KINDS",
    "NORMS",
    "POOLS",
    "Layer",
    "Shape",
    "parse_layer",
    "parse_layers",
    "write_layer",
]

Shape = tuple[int, ...]
"""(channels, height, width) of a map, or (features,) of a vector; without the batch."""

POOLS = ("MaxPool2d", "AvgPool2d")
NORMS = ("BatchNorm2d", "LayerNorm")
ACTIVATIONS = ("ReLU", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU")
KINDS = ("Conv2d", *POOLS, "GlobalAvgPool", "Flatten", "Linear", *NORMS, "Dropout", *ACTIVATIONS, "Residual")

DEPTHWISE = 0
"""The ``groups`` of a convolution that has a group, and one filter, per channel: its channels follow its input's."""


class Layer(NamedTuple):
    """One layer of a template; the numbers its kind doesn't have keep their defaults.

    Args:
        kind: One of :data:`KINDS`.
        out: Channels of a ``Conv2d``, width of a ``Linear``.
        kernel: Side of the window of a ``Conv2d`` or pooling.
        stride: Step of the window.
        groups: Groups of a ``Conv2d``; :data:`DEPTHWISE`: one per channel.
        slope: Slope of a ``LeakyReLU`` below 0.
        rate: Share of values that ``Dropout`` sets to 0 while training.
        back: How many layers above it a ``Residual`` bridges: it adds what went into the first of them.
    """

    kind: str
    out: int = 0
    kernel: int = 0
    stride: int = 0
    groups: int = 1
    slope: float = 0.0
    rate: float = 0.0
    back: int = 0


_WINDOW: dict[str, type] = {"kernel": int, "stride": int}
_OPTIONS: dict[str, dict[str, type]] = {
    "Conv2d": {**_WINDOW, "groups": int},
    "MaxPool2d": _WINDOW,
    "AvgPool2d": _WINDOW,
    "LeakyReLU": {"slope": float},
    "Dropout": {"rate": float},
    "Residual": {"back": int},
}
"""What follows a layer's shape as ``name=value``."""

_LINE = re.compile(r"(?P<kind>\w+)\s*(?:\((?P<shape>[\d,\s]*)\)|(?P<size>\d+)\b(?!\s*=))?(?P<rest>.*)")


def write_layer(layer: Layer, shape: Shape) -> str:
    """The layer's canonical line: kind, output shape, numbers.

    >>> write_layer(Layer("Conv2d", out=16, kernel=3, stride=2), (16, 4, 4))
    'Conv2d (16, 4, 4) kernel=3 stride=2'
    >>> write_layer(Layer("LeakyReLU", slope=0.01), (64,))
    'LeakyReLU 64 slope=0.01'
    """
    size = str(shape[0]) if len(shape) == 1 else str(shape)
    return " ".join([layer.kind, size, *options_of(layer)])


def options_of(layer: Layer) -> list[str]:
    """The numbers of a layer as they stand behind its shape."""
    kind = layer.kind
    if kind == "Conv2d":
        groups = ["depthwise"] if layer.groups == DEPTHWISE else [f"groups={layer.groups}"] * (layer.groups > 1)
        return [f"kernel={layer.kernel}", f"stride={layer.stride}", *groups]
    if kind in POOLS:
        return [f"kernel={layer.kernel}", f"stride={layer.stride}"]
    if kind == "LeakyReLU":
        return [f"slope={layer.slope!r}"]
    if kind == "Dropout":
        return [f"rate={layer.rate!r}"]
    return [f"back={layer.back}"] if kind == "Residual" else []


def parse_layers(lines: str | Sequence[str]) -> list[Layer]:
    """Layers from lines, canonical or written by hand; empty lines and what follows a ``#`` are passed over.

    Args:
        lines: A line per layer, or one text of several lines (such as a printed template).

    Raises:
        ValueError: If a line can't be read; names its number, what it holds and what is accepted.

    >>> [layer.kind for layer in parse_layers("Conv2d 16 kernel=3  # a comment")]
    ['Conv2d']
    """
    if isinstance(lines, str):
        lines = lines.splitlines()
    if not isinstance(lines, Iterable):
        raise ValueError(f"{lines!r} is not a list of lines, one per layer")
    layers = []
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str):
            raise ValueError(f"layer {number}: {line!r} is not a line of text such as 'Conv2d 16 kernel=3'")
        try:
            layer = parse_layer(line)
        except ValueError as error:
            raise ValueError(f"layer {number} ({line.strip()!r}): {error}") from None
        if layer is not None:
            layers.append(layer)
    return layers


@lru_cache(maxsize=1 << 14)
def parse_layer(line: str) -> Layer | None:
    """The layer that a line describes, ``None`` where it describes none.

    Only ``Conv2d`` and ``Linear`` must have a size: a shape, of which the first number counts, or that number alone. Left
    out, a kernel is 3 (pooling: 2), a convolution's stride 1, a pooling's stride its kernel, a slope 0.01, a dropout rate
    0.5 and a join's ``back`` 2.

    Raises:
        ValueError: If the line can't be read; says what is wrong and what is accepted.
    """
    line = line.partition("#")[0].strip()
    if not line:
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("a layer is its kind, its output shape or size, and name=value; as in 'Conv2d 16 kernel=3'")
    kind = match["kind"]
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        raise ValueError(
            f"{kind!r} is not a kind of layer; " + (f"did you mean {close[0]}?" if close else ", ".join(KINDS))
        )
    given = _read_options(kind, match["rest"].split())
    if kind in ("Conv2d", "Linear"):
        given["out"] = _read_size(kind, match["shape"] if match["size"] is None else match["size"])
    if kind in ("Conv2d", *POOLS):
        given.setdefault("kernel", 3 if kind == "Conv2d" else 2)
        given.setdefault("stride", 1 if kind == "Conv2d" else given["kernel"])
    elif kind == "LeakyReLU":
        given.setdefault("slope", 0.01)
    elif kind == "Dropout":
        given.setdefault("rate", 0.5)
    elif kind == "Residual":
        given.setdefault("back", 2)
    return Layer(kind, **given)


def _read_size(kind: str, text: str | None) -> int:
    what = "channels" if kind == "Conv2d" else "width"
    first = (text or "").split(",")[0].strip()
    if not first or int(first) < 1:
        raise ValueError(f"{kind} needs its {what}, at least 1, as in '{kind} 16'")
    return int(first)


def _read_options(kind: str, words: Sequence[str]) -> dict[str, Any]:
    known = _OPTIONS.get(kind, {})
    given: dict[str, Any] = {}
    value: int | float
    for word in words:
        name, equals, text = word.partition("=")
        if word == "depthwise" and kind == "Conv2d":
            name, value = "groups", DEPTHWISE
        elif not equals or name not in known:
            accepted = [f"{option}=..." for option in known] + ["depthwise"] * (kind == "Conv2d")
            raise ValueError(f"{word!r} is not an argument of {kind}, which accepts {', '.join(accepted) or 'none'}")
        else:
            value = _read_number(name, text, known[name])
        if name in given:
            raise ValueError(f"{name} is given twice")
        given[name] = value
    return given


def _read_number(name: str, text: str, kind: type) -> int | float:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is not {'an integer' if kind is int else 'a number'}") from None
    if kind is int and value < 1:
        raise ValueError(f"{name}: {value!r} is not at least 1")
    if name == "rate" and not 0 <= value < 1:
        raise ValueError(f"rate: {value!r} is not in [0, 1)")
    if not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not finite")
    return value
