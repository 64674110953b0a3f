"""The network that a template describes, with a plain module per layer, trained as a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_evo.genome import Template
from lightning_evo.genome.templates.layers import DEPTHWISE
from lightning_evo.models.classifier import Classifier

__all__ = ["TemplateNet", "TemplateNetwork"]

_DEFAULT = ("Conv2d 16", "ReLU", "MaxPool2d", "Conv2d 32", "ReLU", "MaxPool2d", "Linear 64", "ReLU")


class TemplateNet(Classifier):
    """Image classifier whose architecture is a list of layers that repairs itself, after the templates of sophius.

    Any list builds: see :func:`~lightning_evo.genome.templates.repair` for what happens to layers that don't fit.
    ``print(model.template)`` shows what was built.

    Args:
        layers: One line per layer, such as ``Conv2d 16 kernel=3``, or a single string of several lines. See
            :func:`~lightning_evo.genome.templates.layers.parse_layer`. The last layer, ``Linear`` to the classes, is
            added if it is missing.
        input_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        training: The arguments of :class:`Classifier`: ``optimizer``, ``lr``, ``schedule`` and so on.

    Raises:
        ValueError: If a line can't be read, or no network is possible for the input shape or number of classes.

    >>> TemplateNet(["Conv2d 4 kernel=3 stride=2", "ReLU"], input_shape=[1, 8, 8]).template
    Template.parse(['Conv2d (4, 4, 4) kernel=3 stride=2', 'ReLU (4, 4, 4)', 'Flatten 64', 'Linear 10'], (1, 8, 8), 10)
    """

    def __init__(
        self,
        layers: list[str] | str = _DEFAULT,  # type: ignore[assignment]
        input_shape: Sequence[int] = (1, 28, 28),
        num_classes: int = 10,
        **training: Any,
    ) -> None:
        template = Template.parse(layers, input_shape, num_classes)
        super().__init__(TemplateNetwork(template), num_classes, **training)
        self.template = template
        self.save_hyperparameters()


class TemplateNetwork(nn.Module):
    """The network of a template as a plain module: images (N, C, H, W) -> scores (N, classes).

    One module per layer; that of a residual connection is the 1x1 convolution (without bias) of its shortcut, or
    ``Identity``. ``LayerNorm`` normalizes a whole map, with a scale and shift per channel (``GroupNorm`` with one
    group).

    Args:
        template: The template to build. Images must have its input shape.
    """

    def __init__(self, template: Template) -> None:
        super().__init__()
        self.input_shape = template.input_shape
        self.layers = nn.ModuleList(_module(template, i) for i in range(len(template)))
        self._sources = template.sources
        self._kept = frozenset(source for source in template.sources if source is not None)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, classes) of images (N, C, H, W).

        Raises:
            ValueError: If the images are not of the template's input shape.
        """
        if images.shape[1:] != self.input_shape:
            raise ValueError(f"images of shape {tuple(images.shape[1:])}; the layers were fitted to {self.input_shape}")
        values = images
        kept = {0: images}
        for i, (layer, source) in enumerate(zip(self.layers, self._sources, strict=True), 1):
            values = layer(values) if source is None else values + layer(kept[source])
            if i in self._kept:
                kept[i] = values
        return values


def _module(template: Template, index: int) -> nn.Module:
    layer, inside = template.layers[index], template.before(index)
    width = inside[0]
    kind = layer.kind
    if kind == "Conv2d":
        groups = width if layer.groups == DEPTHWISE else layer.groups
        padding = (layer.kernel - 1) // 2
        return nn.Conv2d(width, layer.out, layer.kernel, layer.stride, padding, groups=groups)
    if kind == "Linear":
        return nn.Linear(width, layer.out)
    if kind in ("MaxPool2d", "AvgPool2d"):
        return getattr(nn, kind)(layer.kernel, layer.stride)
    if kind == "LayerNorm":
        return nn.LayerNorm(width) if len(inside) == 1 else nn.GroupNorm(1, width)
    if kind == "Residual":
        projection = template.projection(index)
        return nn.Identity() if projection is None else nn.Conv2d(*projection[:2], 1, projection[2], bias=False)
    return _MODULES[kind](layer, width)


_MODULES: dict[str, Any] = {
    "GlobalAvgPool": lambda layer, width: nn.AdaptiveAvgPool2d(1),
    "Flatten": lambda layer, width: nn.Flatten(),
    "BatchNorm2d": lambda layer, width: nn.BatchNorm2d(width),
    "Dropout": lambda layer, width: nn.Dropout(layer.rate),
    "ReLU": lambda layer, width: nn.ReLU(),
    "LeakyReLU": lambda layer, width: nn.LeakyReLU(layer.slope),
    "PReLU": lambda layer, width: nn.PReLU(),
    "ELU": lambda layer, width: nn.ELU(),
    "GELU": lambda layer, width: nn.GELU(),
    "SiLU": lambda layer, width: nn.SiLU(),
}
