"""A convolutional network for handwritten digits, in plain Lightning."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


class ConvNet(L.LightningModule):
    """Two convolutions and a linear layer for the 8 x 8 digits, trained by SGD with a cosine schedule.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: Of SGD.
        dropout: Before the linear layer.
    """

    def __init__(
        self,
        width: int = 16,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 4, 10),
        )
        self.val_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes=10, average="micro")

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.val_acc.update(self(images), labels)

    def on_validation_epoch_end(self):
        self.log("val_acc", self.val_acc, prog_bar=True)

    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.test_acc.update(self(images), labels)

    def on_test_epoch_end(self):
        self.log("test_acc", self.test_acc)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.parameters(),
            lr=self.hparams.lr,
            momentum=self.hparams.momentum,
            weight_decay=self.hparams.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class DigitsData(L.LightningDataModule):
    """scikit-learn's handwritten digits as images, split 60 / 20 / 20.

    Args:
        batch_size: Images per training batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        # The same split in every run, independent of other seeds.
        rest, test = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
        train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=0)
        self.train, self.validation, self.test = (
            TensorDataset(images[part], labels[part]) for part in (train, validation, test)
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, 512)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, 512)
