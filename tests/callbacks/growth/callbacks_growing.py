"""Networks and trainings for the tests of growth: small, real, and the same in one part or in several."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth
from lightning_evo.callbacks.growth.triggers import FixedInterval

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def images(seed=0, size=48):
    """Noise with a bright spot, whose place is the label; in a fixed order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    data = torch.randn(size, 2, 6, 6, generator=generator)
    for at, label in enumerate(labels):
        data[at, :, 2 * label : 2 * label + 2, 1:4] += 1.5
    return DataLoader(TensorDataset(data, labels), 12)


class ConvNet(LightningModule):
    """A small convolutional classifier with batch normalization."""

    def __init__(
        self, width: int = 4, optimizer: str = "adam", schedule: str = "", compiled: str = "", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(width * 9, 6),
            nn.ReLU(),
            nn.Linear(6, 3),
        )
        if compiled == "child":
            self.body = torch.compile(self.body, backend="eager")

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.body(data)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]).float(), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        scores = self(batch[0]).float()
        self.log("val_loss", nn.functional.cross_entropy(scores, batch[1]))
        self.log("val_acc", (scores.argmax(-1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]).float(), batch[1]))

    def configure_optimizers(self) -> Any:
        name, schedule = self.hparams["optimizer"], self.hparams["schedule"]
        if name == "adam":
            optimizer: Any = torch.optim.Adam(self.parameters(), lr=0.01)
        elif name == "groups":
            weights = [p for p in self.parameters() if p.ndim > 1]
            rest = [p for p in self.parameters() if p.ndim <= 1]
            optimizer = torch.optim.AdamW([{"params": weights}, {"params": rest, "weight_decay": 0.0}], lr=0.01)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        if schedule == "cosine":
            scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
        elif schedule == "onecycle":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=40)
        elif schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}
        else:
            return optimizer
        interval = "step" if schedule == "onecycle" else "epoch"
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


class Interrupts(Callback):
    """Ends a training after so many epochs."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 == self.epochs


def net(kind=ConvNet, **hparams):
    """A network whose initial weights are always the same."""
    torch.manual_seed(1)
    return kind(**hparams)


def growing(**settings):
    """Grows at every epoch's start."""
    return StructuralGrowth(**{"triggers": FixedInterval(1), "min_epochs_between": 1, **settings})


def fit(module, directory, callbacks, epochs=4, until=None, ckpt_path=None, data=None, **options):
    """Train on :func:`images`, validate on others."""
    seed_everything(1, verbose=False)
    interrupts = [] if until is None else [Interrupts(until)]
    trainer = Trainer(
        **{
            "max_epochs": epochs,
            "accelerator": "cpu",
            "callbacks": [*interrupts, *callbacks],
            "default_root_dir": directory,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            **QUIET,
            **options,
        }
    )
    trainer.fit(module, data or images(), images(1), ckpt_path=ckpt_path)
    return trainer
