"""The limits of templates: the range of every number, and the number of layers of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

__all__ = ["UNLIMITED", "Limits", "check_input"]


MOST_LAYERS = 1000
"""Layers of a kind, or of all, in an architecture."""


@dataclass(frozen=True)
class Limits:
    """The limits of a template; everything left out is free.

    Args:
        min_conv: Least number of ``Conv2d`` layers.
        max_conv: Most of them.
        min_linear: Least number of ``Linear`` layers, the last one (the head) included.
        max_linear: Most of them, the head included.
        max_layers: Most layers of any kind, ``Flatten`` and the head included.
        max_features: Most features after ``Flatten``; where there would be more, a ``GlobalAvgPool`` is put before it.
        channels: Channels that a ``Conv2d`` may have, ascending (a depthwise one follows its input).
        kernels: Kernels of ``Conv2d``, ascending.
        strides: Strides of ``Conv2d``, ascending.
        groups: Groups of ``Conv2d``, ascending; 1 is always allowed.
        widths: Widths of hidden ``Linear`` layers, ascending.
        pool_kernels: Kernels of pooling, ascending.
        pool_strides: Strides of pooling, ascending.
        slopes: Slopes of ``LeakyReLU``, ascending.
        rates: Rates of ``Dropout``, ascending.
        max_back: Most layers that a ``Residual`` bridges.
        kinds: Kinds there may be; ``Conv2d``, ``Linear``, ``Flatten`` and ``GlobalAvgPool`` always may.
        depthwise: Whether a ``Conv2d`` may be depthwise.

    Raises:
        ValueError: If limits contradict each other; names them.
    """

    min_conv: int = 0
    max_conv: int | None = None
    min_linear: int = 1
    max_linear: int | None = None
    max_layers: int | None = None
    max_features: int | None = None
    channels: tuple[int, ...] | None = None
    kernels: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    groups: tuple[int, ...] | None = None
    widths: tuple[int, ...] | None = None
    pool_kernels: tuple[int, ...] | None = None
    pool_strides: tuple[int, ...] | None = None
    slopes: tuple[float, ...] | None = None
    rates: tuple[float, ...] | None = None
    max_back: int | None = None
    kinds: frozenset[str] | None = None
    depthwise: bool = True

    def __post_init__(self) -> None:
        for name, least in (("min_conv", 0), ("min_linear", 1), ("max_features", 1), ("max_back", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: {value!r} is not at least {least}")
        for name in ("max_conv", "max_linear", "max_layers"):
            value = getattr(self, name)
            if value is not None and value > MOST_LAYERS:
                raise ValueError(f"{name}: {value} is not at most {MOST_LAYERS}")
        for kind in ("conv", "linear"):
            low, high = getattr(self, f"min_{kind}"), getattr(self, f"max_{kind}")
            if high is not None and low > high:
                raise ValueError(f"min_{kind}: {low!r} is not at most max_{kind} {high}")
        # Flatten, and a GlobalAvgPool that `max_features` may ask for, need a place of their own.
        least = self.min_conv + self.min_linear + 2
        if self.max_layers is not None and self.max_layers < least:
            raise ValueError(
                f"max_layers: {self.max_layers!r} is not at least {least}; min_conv {self.min_conv} and min_linear "
                f"{self.min_linear} layers, GlobalAvgPool and Flatten"
            )
        for field in fields(self):
            choices = getattr(self, field.name)
            if isinstance(choices, tuple) and (not choices or list(choices) != sorted(set(choices))):
                raise ValueError(f"{field.name}: {list(choices)} is not an ascending list of at least one number")

    def allows(self, kind: str) -> bool:
        """Whether there may be layers of this kind."""
        return self.kinds is None or kind in self.kinds


UNLIMITED = Limits()
"""Any template that can be built."""


def check_input(input_shape: Sequence[int], num_classes: int) -> tuple[int, int, int]:
    """The input shape as a tuple, if a template can be built on it.

    Raises:
        ValueError: If it is not channels, height and width, each at least 1; or there are fewer than 2 classes.
    """
    shape = list(input_shape) if isinstance(input_shape, Sequence) else [input_shape]
    if len(shape) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in shape):
        raise ValueError(f"input_shape: {shape!r} is not [channels, height, width], each an integer of at least 1")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes: {num_classes!r} is not an integer of at least 2")
    return shape[0], shape[1], shape[2]
