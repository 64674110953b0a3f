"""Users' modules for the tests of opening grown checkpoints; they know nothing of this project."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn


class Net(LightningModule):
    """Convolutions whose widths, kernel and activation are arguments; a number that isn't a width is among them, too."""

    def __init__(
        self,
        width: int = 8,
        second: int = 12,
        kernel: int = 3,
        activation: str = "ReLU",
        heads: int = 8,
        lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.heads = heads
        self.body = nn.Sequential(
            nn.Conv2d(1, width, kernel, padding=kernel // 2),
            nn.BatchNorm2d(width),
            getattr(nn, activation)(),
            nn.Conv2d(width, second, 3),
            getattr(nn, activation)(),
            nn.Flatten(),
            nn.Linear(second * 16, 3),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Deep(LightningModule):
    """A perceptron with a list of widths."""

    def __init__(self, hidden: list[int], scale: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        widths = [5, *hidden]
        layers: list[nn.Module] = []
        for taken, given in pairwise(widths):
            layers += [nn.Linear(taken, given), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
        self.scale = scale

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.net(values) * self.scale

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["mine"] = self.scale

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.met = checkpoint["mine"]


class Ratio(Deep):
    """Its width decides more than shapes: what it computes between its layers depends on it."""

    def __init__(self, width: int = 4) -> None:
        super().__init__([width], 1.0)
        self.save_hyperparameters()
        self.divisor = width

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.net(values) / self.divisor


class Together(LightningModule):
    """Takes its hyperparameters in one argument."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.save_hyperparameters(settings)
        self.net = nn.Sequential(nn.Linear(5, settings["width"]), nn.ReLU(), nn.Linear(settings["width"], 2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.net(values)


class Given(LightningModule):
    """Takes a network that no checkpoint keeps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["net"])
        self.net = net

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.net(values)
