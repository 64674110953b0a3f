"""The network that a list of layers builds: shapes, parameters and operations, and a readable listing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from lightning_evo.genome.templates.layers import NORMS, Layer, Shape, options_of, parse_layers, write_layer
from lightning_evo.genome.templates.limits import UNLIMITED, Limits
from lightning_evo.genome.templates.repair import projection_stride, repair

__all__ = ["Template"]


class Template:
    """A repaired, immutable list of layers: everything about a network that is known without building it.

    Args:
        layers: The layers wished for; :func:`~lightning_evo.genome.templates.repair` makes them fit.
        input_shape: (channels, height, width) of the images.
        num_classes: Number of classes.
        limits: Ranges and counts to keep to; none by default.

    Raises:
        ValueError: If ``input_shape`` or ``num_classes`` admit no network.

    >>> print(Template.parse(["Conv2d 8 kernel=3", "ReLU", "MaxPool2d"], [1, 8, 8], 10))
    Conv2d     (8, 8, 8)  kernel=3 stride=1  # 80 parameters
    ReLU       (8, 8, 8)
    MaxPool2d  (8, 4, 4)  kernel=2 stride=2
    Flatten    128
    Linear     10                            # 1,290 parameters
    # total: 1,370 parameters, 11,776 FLOPs forward
    """

    def __init__(
        self, layers: Sequence[Layer], input_shape: Sequence[int], num_classes: int, limits: Limits = UNLIMITED
    ) -> None:
        repaired = repair(layers, input_shape, num_classes, limits)
        channels, height, width = input_shape
        self._layers, self._shapes, self._sources = repaired
        self._input_shape, self._num_classes = (channels, height, width), num_classes

    @classmethod
    def parse(
        cls, lines: str | Sequence[str], input_shape: Sequence[int], num_classes: int, limits: Limits = UNLIMITED
    ) -> Template:
        """The template of lines, canonical, printed or written by hand (see :func:`parse_layers`).

        Raises:
            ValueError: If a line can't be read, or ``input_shape`` or ``num_classes`` admit no network.
        """
        return cls(parse_layers(lines), input_shape, num_classes, limits)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The repaired layers."""
        return self._layers

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Output shape of each layer, without the batch."""
        return self._shapes

    @property
    def sources(self) -> tuple[int | None, ...]:
        """For a ``Residual``, how many layers stand before what it adds (0: the image); ``None`` for other layers."""
        return self._sources

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        return self._input_shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._num_classes

    @cached_property
    def lines(self) -> list[str]:
        """A canonical line per layer: equal lines are equal networks."""
        return [write_layer(layer, shape) for layer, shape in zip(self._layers, self._shapes, strict=True)]

    def before(self, index: int) -> Shape:
        """The shape that goes into layer ``index``."""
        return self._shapes[index - 1] if index else self._input_shape

    def projection(self, index: int) -> tuple[int, int, int] | None:
        """(channels in, channels out, stride) of the 1x1 convolution in a ``Residual``; ``None`` where it adds as is."""
        source = self._sources[index]
        if source is None or self.before(source) == self._shapes[index]:
            return None
        there, here = self.before(source), self._shapes[index]
        return there[0], here[0], projection_stride(there, here)

    @cached_property
    def layer_params(self) -> tuple[int, ...]:
        """Trainable parameters of each layer."""
        return tuple(self._params(i) for i in range(len(self._layers)))

    @cached_property
    def layer_flops(self) -> tuple[int, ...]:
        """Floating-point operations of each layer for one image forward, as ``torch.utils.flop_counter`` counts them."""
        return tuple(self._flops(i) for i in range(len(self._layers)))

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(self.layer_params)

    @property
    def flops(self) -> int:
        """Floating-point operations of convolutions and linear layers for one image forward."""
        return sum(self.layer_flops)

    def _weights(self, index: int) -> int:
        """Weights of a layer's convolution or matrix, without the biases."""
        layer, inside = self._layers[index], self.before(index)
        if layer.kind == "Conv2d":
            return layer.out * inside[0] // (layer.groups or inside[0]) * layer.kernel**2
        if layer.kind == "Linear":
            return layer.out * inside[0]
        projected = self.projection(index)
        return projected[0] * projected[1] if projected else 0

    def _params(self, index: int) -> int:
        layer = self._layers[index]
        if layer.kind in NORMS:
            return 2 * self._shapes[index][0]
        if layer.kind == "PReLU":
            return 1
        return self._weights(index) + layer.out

    def _flops(self, index: int) -> int:
        return 2 * self._weights(index) * math.prod(self._shapes[index][1:])

    def __str__(self) -> str:
        rows = [
            (layer.kind, line.removeprefix(layer.kind).removesuffix(options).strip(), options)
            for layer, line in zip(self._layers, self.lines, strict=True)
            for options in [" ".join(options_of(layer))]
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        listing = [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=True)), self._remark(i)]).rstrip()
            for i, row in enumerate(rows)
        ]
        return "\n".join([*listing, f"# total: {self.params:,} parameters, {self.flops:,} FLOPs forward"])

    def _remark(self, index: int) -> str:
        count, projected = self.layer_params[index], self.projection(index)
        how = f", 1x1 convolution with stride {projected[2]}" if projected else ""
        return f"# {count:,} parameter{'s' * (count > 1)}{how}" if count else ""

    def __repr__(self) -> str:
        return f"Template.parse({self.lines!r}, {self._input_shape}, {self._num_classes})"

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple:
        return self._layers, self._input_shape, self._num_classes
