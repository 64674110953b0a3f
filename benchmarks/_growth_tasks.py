"""Tasks of benchmarks/growth.py: three image tasks with random shifts, and a small convolutional network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, pad
from torch.utils.data import DataLoader, Dataset, Sampler

BATCH, SHIFT, SMOOTHING = 32, 1, 0.1


@dataclass(frozen=True)
class Task:
    """A data set: file, numbers of training and validation images, and whether images are mirrored."""

    file: str
    train: int
    validation: int
    mirror: bool = False


TASKS = {
    "mnist": Task("mnist.npz", 1600, 500),
    "fashion": Task("fashion_mnist.npz", 1600, 500, mirror=True),
    "signs": Task("sign_digits_32px.npz", 900, 362),
}
TEST = 5000
"""Of data sets with an official test set; of the signs, which have none, the rest: 800."""


@dataclass(frozen=True)
class Data:
    """Training images with a margin of SHIFT and their labels; (images, labels) for validation and test."""

    images: Tensor
    labels: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def load(task: Task, directory: Path, seed: int) -> Data:
    """The seed chooses training and validation images; the test images are always the same."""
    with np.load(directory / task.file) as file:
        if "x_train" in file:
            x, y, x_test, y_test = file["x_train"], file["y_train"], file["x_test"][:TEST], file["y_test"][:TEST]
        else:
            order = np.random.default_rng(0).permutation(len(file["y"]))
            rest, held = np.split(order, [task.train + task.validation])
            x, y, x_test, y_test = file["x"][rest], file["y"][rest], file["x"][held], file["y"][held]
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).numpy()
    train, validation = chosen[: task.train], chosen[task.train : task.train + task.validation]
    images = prepared(x[train])
    mean, spread = images.mean(), images.std()

    def split(pictures: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        return (prepared(pictures) - mean) / spread, torch.tensor(labels, dtype=torch.long)

    images, labels = split(x[train], y[train])
    margin = pad(images, (SHIFT,) * 4, mode="replicate")
    return Data(margin, labels, split(x[validation], y[validation]), split(x_test, y_test))


def prepared(pictures: np.ndarray) -> Tensor:
    """Grayscale images (N, 1, 14, 14) from 0 to 1; images of 32 x 32 are cropped to the central 28 x 28."""
    images = torch.tensor(pictures, dtype=torch.float32) / 255
    images = images.mean(-1) if images.ndim == 4 else images
    margin = (images.shape[-1] - 28) // 2
    return avg_pool2d(images[:, None, margin : margin + 28, margin : margin + 28], 2)


class Orders(Sampler[Tensor]):
    """Sampler whose epochs are a fixed number of batches of indices, from consecutive seeded shuffles."""

    def __init__(self, count: int, batches: int, seed: int) -> None:
        self.count, self.batches, self.generator = count, batches, torch.Generator().manual_seed(seed)
        self.left = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.batches):
            while len(self.left) < BATCH:
                self.left = torch.cat([self.left, torch.randperm(self.count, generator=self.generator)])
            chosen, self.left = self.left[:BATCH], self.left[BATCH:]
            yield chosen


class Shifted(Dataset[tuple[Tensor, Tensor]]):
    """Batches of images, each shifted by up to SHIFT pixels and optionally mirrored."""

    def __init__(self, data: Data, mirror: bool, seed: int) -> None:
        self.data, self.mirror, self.generator = data, mirror, torch.Generator().manual_seed(seed)

    def __getitem__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        side = self.data.images.shape[-1] - 2 * SHIFT
        draws = (torch.randint(2 * SHIFT + 1, (len(chosen), 1), generator=self.generator) for _ in range(2))
        down, right = (draw + torch.arange(side) for draw in draws)
        flipped = torch.rand(len(chosen), 1, generator=self.generator) < 0.5
        right = torch.where(flipped, right.flip(1), right) if self.mirror else right
        images = self.data.images[chosen[:, None, None], 0, down[:, :, None], right[:, None, :]][:, None]
        return images, self.data.labels[chosen]


class Images(LightningDataModule):
    """Equal seeds give equal images in equal order, whatever is trained on them."""

    def __init__(self, data: Data, mirror: bool, batches: int, seed: int) -> None:
        super().__init__()
        self.data, self.mirror, self.batches, self.seed = data, mirror, batches, seed

    def train_dataloader(self) -> DataLoader[Any]:
        images = Shifted(self.data, self.mirror, 2 * self.seed)
        orders = Orders(len(self.data.labels), self.batches, 2 * self.seed + 1)
        return DataLoader(images, batch_size=None, sampler=orders)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.data.validation], batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.data.test], batch_size=None)  # type: ignore[arg-type]


class ConvNet(LightningModule):
    """Two convolutions with batch normalization, trained for ``steps`` steps by SGD with momentum."""

    def __init__(self, widths: tuple[int, int], lr: float, weight_decay: float, steps: int) -> None:
        super().__init__()
        first, second = widths
        self.layers = nn.Sequential(
            *block(1, first), nn.MaxPool2d(2),
            *block(first, second), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(9 * second, 10),
        )  # fmt: skip
        self.lr, self.weight_decay, self.steps = lr, weight_decay, steps

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1], label_smoothing=SMOOTHING)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_acc", self._accuracy(batch), batch_size=len(batch[1]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test_acc", self._accuracy(batch), batch_size=len(batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, Trapezoid(self.steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _accuracy(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (self(batch[0]).argmax(1) == batch[1]).float().mean()


class Trapezoid:
    """Learning rate factor: linear warm-up in the first 5% of all steps, constant to 60%, then down to 0."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / (0.05 * self.steps), max(0.0, 2.5 * (1 - step / self.steps)))


def block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
