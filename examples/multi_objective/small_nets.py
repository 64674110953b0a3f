"""Multilayer and convolutional networks for handwritten digits, in plain Lightning."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


class SmallNet(L.LightningModule):
    """Convolutions, then linear layers, for the 8 x 8 digits.

    Args:
        convolutions: How many convolutions, each followed by batch normalization and ReLU; 0: linear layers alone.
        channels: Channels of each convolution.
        kernel: Side of their kernels, odd.
        hidden: Linear layers before the last.
        width: Units of each of them.
        lr: Learning rate of Adam.
    """

    def __init__(
        self,
        convolutions: int = 2,
        channels: int = 16,
        kernel: int = 3,
        hidden: int = 1,
        width: int = 64,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        maps = 1
        for _ in range(convolutions):
            layers += [nn.Conv2d(maps, channels, kernel, padding=kernel // 2), nn.BatchNorm2d(channels), nn.ReLU()]
            maps = channels
        if convolutions:
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.Flatten())
        units = maps * (16 if convolutions else 64)
        for _ in range(hidden):
            layers += [nn.Linear(units, width), nn.ReLU()]
            units = width
        self.layers = nn.Sequential(*layers, nn.Linear(units, 10))
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
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


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
