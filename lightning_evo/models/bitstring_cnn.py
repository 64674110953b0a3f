"""The network that a 20-bit chromosome describes: two to five convolutional blocks and a classifier with dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_evo.models.chromosome import Decoded, decode
from lightning_evo.models.classifier import Classifier

__all__ = ["BitstringCNN", "ChromosomeNetwork"]


class BitstringCNN(Classifier):
    """Convolutional image classifier whose architecture is a string of 20 bits.

    ====== ===============================================================================================
    bits   meaning
    ====== ===============================================================================================
    0-1    width of the first block, one of the four ``widths``, and with it the depth: 2, 3, 4 or 5 blocks
    2      unused
    3-4    kernel of every convolution: 3, 5, 7 or 9
    5      unused
    6-7    activation: ReLU, ELU, LeakyReLU(0.1) or GELU
    8      unused
    9-10   pooling: max, average, the mean of the two, or a last convolution with stride 2
    11     unused
    12-18  a flag per block: 1 = one convolution, 0 = two; unused beyond the depth
    19     unused
    ====== ===============================================================================================

    Two bits encode a choice, from 00 (first) to 11 (fourth). A block is convolution(s) with ``same`` padding, each
    followed by batch normalization and activation, then pooling by 2 and dropout; each block doubles the channels of
    the one before, up to ``max_width``. See :class:`ChromosomeNetwork` for what happens on small images, and
    :func:`~lightning_evo.models.canonical_chromosome` for which chromosomes build the same network.

    Args:
        chromosome: The 20 bits. In YAML in quotes, otherwise the digits are read as a number.
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: The (smaller) side of the images in pixels.
        widths: The four choices for the first block's channels. Small ones make a search fast: on a CPU
            ``[8, 16, 32, 64]`` is sufficient for 28 x 28.
        max_width: Maximum number of channels of a block.
        grid: The last map is averaged to at most ``grid`` x ``grid`` before the classifier.
        head: Hidden sizes of the classifier; may be empty.
        dropout: Dropout after each hidden layer of the classifier.
        block_dropout: Dropout after each block.
        training: The arguments of :class:`Classifier`: ``optimizer``, ``lr``, ``schedule`` and so on.

    >>> import torch
    >>> model = BitstringCNN("01000000000000000000", image_size=8, widths=[4, 8, 16, 32])
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        chromosome: str = "01000000000011100000",
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        widths: Sequence[int] = (16, 32, 64, 128),
        max_width: int = 512,
        grid: int = 2,
        head: Sequence[int] = (256,),
        dropout: float = 0.5,
        block_dropout: float = 0.25,
        **training: Any,
    ) -> None:
        network = ChromosomeNetwork(
            decode(chromosome),
            num_classes,
            in_channels,
            image_size,
            widths=widths,
            max_width=max_width,
            grid=grid,
            head=head,
            dropout=dropout,
            block_dropout=block_dropout,
        )
        super().__init__(network, num_classes, **training)
        self.save_hyperparameters()


class ChromosomeNetwork(nn.Module):
    """The network of :class:`BitstringCNN` as a plain module: images (N, C, H, W) -> scores (N, classes).

    A network built for one size also runs on larger images. Two rules keep every chromosome valid and cheap on small
    images: a block whose map is a single pixel wide doesn't pool, and a kernel is reduced to at most ``2 * side - 1``
    of its map, because weights beyond that only see padding (the function is the same).

    Args:
        decoded: The decoded chromosome.
        num_classes: Number of outputs.
        in_channels: Channels of the images.
        image_size: The (smaller) side of the images in pixels.
        widths: The four choices for the first block's channels.
        max_width: Maximum number of channels of a block.
        grid: The last map is averaged to at most ``grid`` x ``grid`` before the classifier.
        head: Hidden sizes of the classifier.
        dropout: Dropout after each hidden layer of the classifier.
        block_dropout: Dropout after each block.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        decoded: Decoded,
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        max_width: int = 512,
        grid: int = 2,
        head: Sequence[int] = (256,),
        dropout: float = 0.5,
        block_dropout: float = 0.25,
    ) -> None:
        super().__init__()
        if len(widths) != 4 or min(widths) < 1:
            raise ValueError(f"widths: {list(widths)} is not four numbers of channels, each at least 1")
        for name, value in (("in_channels", in_channels), ("image_size", image_size), ("max_width", max_width)):
            if value < 1:
                raise ValueError(f"{name}: {value!r} is not at least 1")
        if grid < 1:
            raise ValueError(f"grid: {grid!r} is not at least 1")
        if head and min(head) < 1:
            raise ValueError(f"head: {list(head)} contains a size below 1")

        blocks: list[nn.Module] = []
        channels, side = in_channels, image_size
        for block, convolutions in enumerate(decoded.convolutions):
            width = min(max_width, widths[decoded.width] * 2**block)
            blocks.append(_block(decoded, channels, width, convolutions, side, block_dropout))
            channels, side = width, max(1, _halved(side, decoded.pooling))
        self.features = nn.Sequential(*blocks)

        side = min(grid, side)
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
        features = channels * side * side
        for hidden in head:
            layers += [nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)]
            features = hidden
        self.classifier = nn.Sequential(*layers, nn.Linear(features, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, classes) of images (N, C, H, W)."""
        return self.classifier(self.features(images))


class MixedPool2d(nn.Module):
    """The mean of max pooling and average pooling over 2 x 2 windows (Lee et al. 2016)."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // 2, W // 2)."""
        return (nn.functional.max_pool2d(maps, 2) + nn.functional.avg_pool2d(maps, 2)) / 2


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
}
_POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
    "mixed": MixedPool2d,
}


def _halved(side: int, pooling: str) -> int:
    """The side of a map after pooling; 0 where there is nothing left to pool."""
    return 0 if side < 2 else -(-side // 2) if pooling == "stride" else side // 2


def _block(
    decoded: Decoded, in_channels: int, channels: int, convolutions: int, side: int, dropout: float
) -> nn.Sequential:
    layers: list[nn.Module] = []
    kernel = min(decoded.kernel_size, 2 * side - 1)
    pools = side >= 2
    for at in range(convolutions):
        stride = 2 if pools and decoded.pooling == "stride" and at == convolutions - 1 else 1
        # With an odd kernel this padding is `same`, which torch doesn't accept together with a stride.
        layers += [
            nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(channels),
            _ACTIVATIONS[decoded.activation](),
        ]
        in_channels = channels
    if pools and decoded.pooling != "stride":
        # The maximum commutes with a rising function: the same numbers, with a quarter of the map to activate.
        commutes = decoded.pooling == "max" and decoded.activation != "gelu"
        layers.insert(len(layers) - commutes, _POOLINGS[decoded.pooling]())
    return nn.Sequential(*layers, nn.Dropout(dropout))
