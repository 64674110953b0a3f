"""How does a network get deeper without computing anything else? By a residual branch that begins as nothing."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

__all__ = ["CONVOLUTIONS", "NORMS", "ZeroResidual"]

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
"""By the number of dimensions of the maps."""
NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
"""The same."""


class ZeroResidual(nn.Module):
    """``x + branch(x)``, where the branch gives exactly 0 until it is trained: the identity in train and in eval mode.

    For maps the branch is convolution - batch normalisation - ReLU - convolution - batch normalisation, whose last scale
    is 0. For vectors (``dimensions=0``) it is linear - ReLU - linear, whose last weights are 0. The gradient reaches
    that scale, or these weights, with the first batch, and all others with the second.

    Args:
        channels: Channels (features) of the input, and of the output.
        hidden: Channels in between. Default: as many.
        dimensions: Of the maps: 1, 2 or 3; 0 for vectors (..., channels).
        kernel: Side of both kernels, odd; maps keep their size.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        He et al. 2016, Deep residual learning, arXiv:1512.03385; the scale of 0: Goyal et al. 2017, Accurate, large
        minibatch SGD, arXiv:1706.02677.

    >>> block, maps = ZeroResidual(4, hidden=2), torch.randn(3, 4, 5, 5)
    >>> torch.equal(block(maps), maps), block.branch.norm2.weight.requires_grad
    (True, True)
    """

    def __init__(self, channels: int, hidden: int | None = None, dimensions: int = 2, kernel: int = 3) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        for name, number in (("channels", channels), ("hidden", hidden)):
            if number < 1:
                raise ValueError(f"{name} {number} is not at least 1")
        if dimensions not in (0, 1, 2, 3):
            raise ValueError(f"dimensions {dimensions} is none of 0, 1, 2, 3")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is not odd: maps would not keep their size")
        layers: list[tuple[str, nn.Module]]
        if dimensions == 0:
            layers = [
                ("linear1", nn.Linear(channels, hidden)),
                ("act", nn.ReLU()),
                ("linear2", nn.Linear(hidden, channels)),
            ]
            silent = layers[-1][1]
        else:
            convolution, norm = CONVOLUTIONS[dimensions], NORMS[dimensions]
            layers = [
                ("conv1", convolution(channels, hidden, kernel, padding=kernel // 2, bias=False)),
                ("norm1", norm(hidden)),
                ("act", nn.ReLU()),
                ("conv2", convolution(hidden, channels, kernel, padding=kernel // 2, bias=False)),
                ("norm2", norm(channels)),
            ]
            silent = layers[-1][1]
        self.branch = nn.Sequential(OrderedDict(layers))
        with torch.no_grad():
            for parameter in silent.parameters():
                parameter.zero_()

    def forward(self, values: Tensor) -> Tensor:
        """The input and what the branch makes of it, summed; of the input's shape."""
        return values + self.branch(values)
