"""Networks for images of 8 x 8 pixels."""

from torch import nn


def dense_net(hidden: int, last: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, last), nn.ReLU(), nn.Linear(last, 10)
    )


def convolutional_net(channels: int, **_: object) -> nn.Module:
    """One convolution."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * channels, 10),
    )
