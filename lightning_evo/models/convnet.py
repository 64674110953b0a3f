"""A small network for images: two convolutions and a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["ConvNet"]


class ConvNet(nn.Sequential):
    """Two convolutions and a linear layer: with its defaults the network of the Nytorch tutorial.

    Convolution of 5 x 5, ReLU, max-pooling by 2, convolution of 3 x 3, ReLU, linear; no padding. A backbone for
    :class:`~lightning_evo.models.ImageClassifier`.

    Args:
        num_classes: Number of outputs.
        in_channels: Channels of the images.
        image_size: Side of the images in pixels, at least 10.
        widths: Channels of the two convolutions.

    Raises:
        ValueError: The images are too small, or there are not two widths.

    >>> import torch
    >>> net = ConvNet()
    >>> net(torch.zeros(3, 1, 28, 28)).shape, sum(parameter.numel() for parameter in net.parameters())
    (torch.Size([3, 10]), 22090)
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28, widths: Sequence[int] = (10, 20)
    ) -> None:
        for name, number in (("num_classes", num_classes), ("in_channels", in_channels)):
            if number < 1:
                raise ValueError(f"{name}: {number!r} is not at least 1")
        if image_size < 10:
            raise ValueError(f"image_size: {image_size!r} is not at least 10")
        if len(widths) != 2:
            raise ValueError(f"widths: {list(widths)} is not two numbers, one per convolution")
        first, second = widths
        side = (image_size - 4) // 2 - 2
        super().__init__(
            nn.Conv2d(in_channels, first, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(second * side * side, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, ``num_classes``) of images (N, C, H, W)."""
        return super().forward(images)
