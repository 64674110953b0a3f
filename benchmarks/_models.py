"""Small models for the benchmarks, which workers can import (this folder must be on their PYTHONPATH)."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

FEATURES, CLASSES, BATCH = 32, 4, 32

TRAINER: dict[str, Any] = {
    "max_epochs": 1,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Points(LightningDataModule):
    """Random points in memory with labels from a linear function: ``batches`` for training, one for validation."""

    def __init__(self, batches: int = 1) -> None:
        super().__init__()
        self.batches = batches

    def _loader(self, batches: int, seed: int) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(seed)
        points = torch.randn(BATCH * batches, FEATURES, generator=generator)
        return DataLoader(TensorDataset(points, points[:, :CLASSES].argmax(1)), BATCH)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.batches, seed=0)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(1, seed=1)


class Perceptron(LightningModule):
    """Two layers.

    Args:
        width: Units of the hidden layer.
        lr: Learning rate of SGD.
        sleep: Seconds that each training step takes longer.
    """

    def __init__(self, width: int = 32, lr: float = 0.1, sleep: float = 0.0) -> None:
        super().__init__()
        self.lr, self.sleep = lr, sleep
        self.net = nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.sleep:
            time.sleep(self.sleep)
        points, labels = batch
        return nn.functional.cross_entropy(self.net(points), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        points, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self.net(points), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Mortal(Perceptron):
    """Dies on one rank, by a signal, in one of the Trainer's hooks.

    Args:
        hook: Name of the hook.
        rank: The local rank that dies.
        number: The signal.
    """

    def __init__(self, hook: str, rank: int, number: int) -> None:
        super().__init__()
        original = getattr(self, hook)

        def die(*arguments: Any, **named: Any) -> Any:
            if int(os.environ.get("LOCAL_RANK", "0")) == rank:
                os.kill(os.getpid(), number)
            return original(*arguments, **named)

        setattr(self, hook, die)


def bare_fit(width: int, lr: float) -> float:
    """Train and validate one batch without any search: the baseline, and the objective of the other libraries."""
    trainer = Trainer(**TRAINER, enable_checkpointing=False)
    trainer.fit(Perceptron(width, lr), datamodule=Points())
    return float(trainer.callback_metrics["val_loss"])


def timed_fit(width: int, lr: float, times: str) -> float:
    """:func:`bare_fit`, its start and end appended as a line to the file ``times``."""
    started = time.time()
    loss = bare_fit(width, lr)
    append(times, f"{started} {time.time()}")
    return loss


def evolved_fit(genome: dict[str, Any], seed: int, directory: str) -> dict[str, float]:
    """:func:`timed_fit` as a function to evolve; the times are stored next to the run's directory."""
    return {"val_loss": timed_fit(genome["width"], genome["lr"], str(Path(directory).parents[2] / "times"))}


def be_quiet() -> None:
    """Silence Lightning's output, as a search does, and train on one thread."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(1)


def append(path: str, line: str) -> None:
    """Append a line atomically, so that no kill and no other process can split it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


class DigitsNet(LightningModule):
    """A small network for 8 x 8 pictures that keeps a log of its trainings.

    Args:
        width: Units of the hidden layer.
        dropout: Share of them that is switched off in training.
        lr: Learning rate of Adam.
        fit_log: A file, relative to where the search was started, to which each training appends a line
            ``start|end DIRECTORY PID TIME``.
    """

    def __init__(self, width: int = 64, dropout: float = 0.0, lr: float = 1e-3, fit_log: str = "fits.log") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.fit_log = fit_log
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
        )

    def on_fit_start(self) -> None:
        self._write("start")

    def on_fit_end(self) -> None:
        self._write("end")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def _evaluate(self, batch: list[Tensor], stage: str) -> None:
        images, labels = batch
        scores = self.net(images)
        self.log(f"{stage}_acc", (scores.argmax(1) == labels).float().mean())
        self.log(f"{stage}_loss", nn.functional.cross_entropy(scores, labels))

    def _write(self, event: str) -> None:
        directory = Path(self.trainer.default_root_dir).name
        append(self.fit_log, f"{event} {directory} {os.getpid()} {time.time()}")


class SmallCNN(LightningModule):
    """Convolutions with BatchNorm, a global average, one linear layer; trained by Adam.

    Args:
        width: Channels.
        depth: 3x3 convolutions; the second halves the resolution.
        lr: Learning rate.
    """

    def __init__(self, width: int = 16, depth: int = 2, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        layers: list[nn.Module] = []
        for at in range(depth):
            channels = 1 if at == 0 else width
            convolution = nn.Conv2d(channels, width, 3, stride=2 if at == 1 else 1, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._log(batch, "val_acc")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._log(batch, "test_acc")

    def _log(self, batch: Any, name: str) -> None:
        self.log(name, (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
