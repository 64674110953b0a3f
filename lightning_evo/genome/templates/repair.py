"""Repair of any list of layers into a network that builds: shapes are propagated, and what doesn't fit is changed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lightning_evo.genome.templates.layers import ACTIVATIONS, DEPTHWISE, NORMS, POOLS, Layer, Shape
from lightning_evo.genome.templates.limits import UNLIMITED, Limits, check_input

__all__ = ["Repaired", "projection_stride", "repair", "window"]

FLATTEN = Layer("Flatten")
GLOBAL_POOL = Layer("GlobalAvgPool")


class Repaired(NamedTuple):
    """Layers that build, with what follows from them.

    Args:
        layers: The repaired layers.
        shapes: Each layer's output shape, without the batch.
        sources: For a ``Residual``, how many layers stand before what it adds (0: the image); ``None`` for the others.
    """

    layers: tuple[Layer, ...]
    shapes: tuple[Shape, ...]
    sources: tuple[int | None, ...]


def repair(
    layers: Sequence[Layer], input_shape: Sequence[int], num_classes: int, limits: Limits = UNLIMITED
) -> Repaired:
    """The network nearest to ``layers`` that builds and keeps to ``limits``; what already does is left as it is.

    Decided by its arguments alone, and idempotent: it repeats until nothing changes. The rules:

    - numbers move to the nearest allowed one; a convolution's kernel shrinks to ``2 * side - 1`` of its map (the taps
      beyond only ever see padding), its stride to the side; groups to the next lower number that divides the channels;
    - pooling whose window is larger than the map, or that changes nothing, is dropped; ``GlobalAvgPool`` stays only
      behind the last convolution;
    - ``Flatten`` stands before the first ``Linear`` and nowhere else; of what follows, only linear layers, activations,
      dropout, joins and norms stay, ``BatchNorm2d`` as ``LayerNorm``;
    - of several activations, norms or dropouts in a row the first stays; a norm of a single value is dropped;
    - a ``Residual`` keeps its source when layers between are dropped; it stays where it bridges a convolution or linear
      layer and both shapes agree, or can be made to agree by a 1x1 convolution with a stride;
    - the last layer is ``Linear`` with a score per class;
    - missing convolutions are added before ``Flatten`` and missing linear layers before the head; surplus ones, and then
      layers beyond ``max_layers``, are dropped from the end, auxiliary ones first.

    Args:
        layers: What is wished for.
        input_shape: (channels, height, width) of the images.
        num_classes: Number of classes.
        limits: Ranges and counts.

    Raises:
        ValueError: If ``input_shape`` or ``num_classes`` admit no network.
    """
    shape = check_input(input_shape, num_classes)
    wished = tuple(layers)
    surplus: set[int] = set()
    # Each round drops layers, lowers numbers, or adds one of the few that are missing: a handful of rounds at most.
    for _ in range(2 * len(wished) + 100):
        walk = _Walk(wished, shape, num_classes, limits, surplus)
        found = walk.repaired()
        surplus = _surplus(found.layers, limits)
        if not surplus and found.layers == wished:
            return found
        wished = found.layers
    raise RuntimeError(f"repair of {wished} on {shape} does not end")


class _Walk:
    """One walk along the layers, with the shape that has been reached."""

    def __init__(
        self,
        wished: tuple[Layer, ...],
        shape: tuple[int, int, int],
        classes: int,
        limits: Limits,
        surplus: set[int],
    ) -> None:
        self.wished, self.input, self.classes, self.limits, self.surplus = wished, shape, classes, limits, surplus
        self.shape: Shape = shape
        self.layers: list[Layer] = []
        self.shapes: list[Shape] = []
        self.sources: list[int | None] = []
        self.convs = self.hidden = 0

    def repaired(self) -> Repaired:
        wished, limits = self.wished, self.limits
        linear = [i for i, layer in enumerate(wished) if layer.kind == "Linear"]
        first = linear[0] if linear else len(wished)
        head = linear[-1] if linear and wished[linear[-1]].out == self.classes else len(wished)
        convs = [i for i in range(first) if wished[i].kind == "Conv2d" and i not in self.surplus]
        last_conv = -1 if not convs else convs[: limits.max_conv][-1] if limits.max_conv != 0 else -1
        reached: list[int] = []  # how many layers there are when a wished one's turn comes
        for i, layer in enumerate(wished[:head]):
            if i == first:
                self._flatten()
            reached.append(len(self.layers))
            kind = layer.kind
            if i in self.surplus or kind == "Flatten" or (kind == "GlobalAvgPool" and i < last_conv):
                continue
            if kind == "Residual":
                if layer.back <= i:
                    self._join(reached[i - layer.back])
            elif i < first:
                self._map_layer(layer)
            else:
                self._vector_layer(layer)
        if len(self.shape) == 3:
            self._flatten()
        while self.hidden < limits.min_linear - 1:
            self._hidden(Layer("Linear", out=64))
        self._add(Layer("Linear", out=self.classes), (self.classes,))
        return Repaired(tuple(self.layers), tuple(self.shapes), tuple(self.sources))

    def _add(self, layer: Layer, shape: Shape, source: int | None = None) -> None:
        self.layers.append(layer)
        self.shapes.append(shape)
        self.sources.append(source)
        self.shape = shape

    def _map_layer(self, layer: Layer) -> None:
        """A layer that acts on a map."""
        kind = layer.kind
        if kind == "Conv2d":
            if self.limits.max_conv is None or self.convs < self.limits.max_conv:
                self._conv(layer)
        elif kind in POOLS:
            self._pool(layer)
        elif kind == "GlobalAvgPool":
            if self.shape[1:] != (1, 1):
                self._add(layer, (self.shape[0], 1, 1))
        else:
            self._elementwise(layer)

    def _vector_layer(self, layer: Layer) -> None:
        """A layer that acts on a vector; those for maps are dropped."""
        if layer.kind == "Linear":
            if self.limits.max_linear is None or self.hidden < self.limits.max_linear - 1:
                self._hidden(layer)
        elif layer.kind == "BatchNorm2d":
            self._elementwise(Layer("LayerNorm"))
        elif layer.kind in ("Dropout", "LayerNorm") or layer.kind in ACTIVATIONS:
            self._elementwise(layer)

    def _conv(self, layer: Layer) -> None:
        limits, (channels, height, width) = self.limits, self.shape
        side = min(height, width)
        kernel = _fit(layer.kernel, limits.kernels, 2 * side - 1)
        stride = _fit(layer.stride, limits.strides, side)
        out = _nearest(layer.out, limits.channels)
        if layer.groups == DEPTHWISE and channels > 1 and limits.depthwise:
            out, groups = channels, DEPTHWISE
        else:
            groups = _groups(layer.groups or channels, math.gcd(channels, out), limits.groups)
            if 1 < groups == channels == out:  # the same in other words
                less = _groups(groups, math.gcd(channels, out), limits.groups, below=groups)
                groups = DEPTHWISE if limits.depthwise else less
        shape = (out, window(height, kernel, stride), window(width, kernel, stride))
        self._add(Layer("Conv2d", out, kernel, stride, groups), shape)
        self.convs += 1

    def _pool(self, layer: Layer) -> None:
        channels, height, width = self.shape
        side = min(height, width)
        kernel = _nearest(layer.kernel, self.limits.pool_kernels)
        stride = _fit(layer.stride, self.limits.pool_strides, side)
        if kernel > side or kernel == stride == 1 or not self.limits.allows(layer.kind):
            return
        shape = (channels, (height - kernel) // stride + 1, (width - kernel) // stride + 1)
        self._add(Layer(layer.kind, kernel=kernel, stride=stride), shape)

    def _elementwise(self, layer: Layer) -> None:
        """An activation, norm or dropout."""
        kind = layer.kind
        before = self.layers[-1].kind if self.layers else ""
        if not self.limits.allows(kind):
            return
        if kind == "LeakyReLU":
            layer = Layer(kind, slope=_nearest(layer.slope, self.limits.slopes))
        elif kind == "Dropout":
            layer = Layer(kind, rate=_nearest(layer.rate, self.limits.rates))
            if before == kind or layer.rate == 0:
                return
        if kind in NORMS and (before in NORMS or (kind == "LayerNorm" and math.prod(self.shape) == 1)):
            return
        if kind in ACTIVATIONS and before in ACTIVATIONS:
            return
        self._add(layer, self.shape)

    def _hidden(self, layer: Layer) -> None:
        width = _nearest(layer.out, self.limits.widths)
        self._add(Layer("Linear", width), (width,))
        self.hidden += 1

    def _join(self, source: int) -> None:
        here = len(self.layers)
        if self.limits.max_back is not None:
            source = max(source, here - self.limits.max_back)
        if not self.limits.allows("Residual") or not any(
            layer.kind in ("Conv2d", "Linear") for layer in self.layers[source:]
        ):
            return
        there = self.shapes[source - 1] if source else self.input
        if there == self.shape or projection_stride(there, self.shape):
            self._add(Layer("Residual", back=here - source), self.shape, source)

    def _flatten(self) -> None:
        """The end of the maps."""
        while self.convs < self.limits.min_conv:
            self._conv(Layer("Conv2d", out=16, kernel=3, stride=1))
        most = self.limits.max_features
        if most is not None and math.prod(self.shape) > most and self.shape[1:] != (1, 1):
            self._add(GLOBAL_POOL, (self.shape[0], 1, 1))
        self._add(FLATTEN, (math.prod(self.shape),))


def window(side: int, kernel: int, stride: int) -> int:
    """The side of a convolution's output; padded by ``(kernel - 1) // 2``, an odd kernel without a stride keeps it."""
    return (side + 2 * ((kernel - 1) // 2) - kernel) // stride + 1


def projection_stride(there: Shape, here: Shape) -> int:
    """The stride with which a 1x1 convolution takes a map of shape ``there`` to ``here``; 0 where none does.

    >>> projection_stride((8, 28, 28), (16, 14, 14)), projection_stride((8, 4, 4), (8, 8, 8))
    (2, 0)
    """
    if len(there) != 3 or len(here) != 3:
        return 0
    lowest, highest = 1, max(there)
    for before, after in zip(there[1:], here[1:], strict=True):
        lowest = max(lowest, (before - 1) // after + 1)
        if after > 1:
            highest = min(highest, (before - 1) // (after - 1))
    fits = lowest <= highest and all((b - 1) // lowest + 1 == a for b, a in zip(there[1:], here[1:], strict=True))
    return lowest if fits else 0


def _nearest(number, choices):
    """The nearest of ``choices``, of two the smaller; the number itself where all are allowed."""
    if choices is None or number in choices:
        return number
    return min(choices, key=lambda choice: abs(choice - number))


def _fit(number: int, choices: tuple[int, ...] | None, most: int) -> int:
    """The nearest choice; the largest of at most ``most``, or else ``most`` itself, where that one is too large."""
    number = _nearest(number, choices)
    if number <= most:
        return number
    return max((choice for choice in choices or () if choice <= most), default=most)


def _groups(requested: int, common: int, choices: Sequence[int] | None, below: int = sys.maxsize) -> int:
    """The largest number of groups that divides ``common``, is allowed, not above ``requested`` and less than ``below``."""
    if requested == 1 or common == 1:
        return 1
    requested = _nearest(requested, choices)
    allowed = range(2, min(requested, common) + 1) if choices is None else choices
    return max(
        (groups for groups in allowed if groups <= requested and groups < below and common % groups == 0), default=1
    )


def _surplus(layers: tuple[Layer, ...], limits: Limits) -> set[int]:
    """Which layers to drop so that at most ``max_layers`` are left: auxiliary ones, convolutions, linear ones."""
    count = 0 if limits.max_layers is None else len(layers) - limits.max_layers
    if count <= 0:
        return set()
    places: dict[str, list[int]] = {"Conv2d": [], "Linear": [], "": []}
    for i, layer in enumerate(layers[:-1]):
        # A GlobalAvgPool may be there because there would be too many features without it.
        if layer.kind not in ("Flatten", "GlobalAvgPool"):
            places[layer.kind if layer.kind in places else ""].append(i)
    spare_convs = places["Conv2d"][limits.min_conv :]
    spare_linear = places["Linear"][limits.min_linear - 1 :]
    return set([*places[""][::-1], *spare_convs[::-1], *spare_linear[::-1]][:count])
