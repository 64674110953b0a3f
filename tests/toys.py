"""Small models and data for tests: real Lightning, trained in milliseconds, and able to misbehave on demand."""

from __future__ import annotations

import errno
import os
import signal
import time

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class ToyData(LightningDataModule):
    """Two noisy blobs in the plane."""

    def __init__(self, size: int = 64, batch_size: int = 32, num_workers: int = 0) -> None:
        super().__init__()
        self.size, self.batch_size, self.num_workers = size, batch_size, num_workers
        self.num_features = 2

    def _loader(self, seed: int, shuffle: bool = False) -> DataLoader:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.size) % 2
        points = torch.randn(self.size, 2, generator=generator) + 2.0 * labels[:, None]
        data = TensorDataset(points, labels)
        return DataLoader(data, self.batch_size, shuffle=shuffle, num_workers=self.num_workers)

    def train_dataloader(self) -> DataLoader:
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:
        return self._loader(2)


class ToyNet(LightningModule):
    """A two-layer classifier of points."""

    def __init__(
        self,
        width: int = 4,
        lr: float = 0.1,
        depth: int = 1,
        activation: str = "relu",
        features: int = 2,
        misbehave: str = "",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.misbehave = misbehave
        self.lr = lr
        layers: list[nn.Module] = []
        for at in range(depth):
            layers += [
                nn.Linear(features if at == 0 else width, width),
                nn.ReLU() if activation == "relu" else nn.Tanh(),
            ]
        self.net = nn.Sequential(*layers, nn.Linear(width, 2))
        if misbehave == "crash":
            raise RuntimeError("this model always crashes")
        if misbehave == "crash-if-wide" and width > 4:
            raise RuntimeError(f"width {width} is too much")

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return self.net(points)

    def training_step(self, batch, batch_idx):
        if self.misbehave == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.misbehave == "exit":
            os._exit(3)
        if self.misbehave == "die-on-rank-1" and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.misbehave == "sleep":
            time.sleep(60)
        if self.misbehave == "slow":
            time.sleep(0.5)
        if self.misbehave == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.misbehave == "out-of-memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        points, labels = batch
        loss = nn.functional.cross_entropy(self(points), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self._evaluate(batch, "val")

    def test_step(self, batch, batch_idx):
        self._evaluate(batch, "test")

    def _evaluate(self, batch, stage: str) -> None:
        points, labels = batch
        scores = self(points)
        accuracy = (scores.argmax(-1) == labels).float().mean()
        if self.misbehave == "nan":
            accuracy = accuracy * float("nan")
        self.log(f"{stage}_acc", accuracy)
        self.log(f"{stage}_loss", nn.functional.cross_entropy(scores, labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class WideNet(ToyNet):
    """Another class that takes some of the same arguments, and one of its own."""

    def __init__(self, width: int = 8, lr: float = 0.1, extra: int = 1) -> None:
        super().__init__(width=width * extra, lr=lr)


class NoTestNet(LightningModule):
    """A model that can't be tested."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def sphere(genome, seed, directory):
    """A function to evolve: best, 0, where every gene is 0."""
    return {"value": -sum(float(value) ** 2 for value in genome.values())}


def slow_sphere(genome, seed, directory):
    """The same, taking a while."""
    time.sleep(0.2)
    return sphere(genome, seed, directory)
