"""A small network on few, noisy digits, in plain Lightning, without any code for swarms."""

import lightning as L
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


class Net(L.LightningModule):
    """A multilayer perceptron for the 8 x 8 digits.

    Args:
        width: Units in each hidden layer.
        depth: Hidden layers.
        lr: Learning rate of Adam.
        weight_decay: Of Adam.
        noise: Standard deviation of the noise that is added to training images.
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        noise: float = 0.3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = [nn.Flatten()]
        features = 64
        for _ in range(depth):
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, 10))
        self.val_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes=10, average="micro")

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        noisy = images + self.hparams.noise * torch.randn_like(images)
        return F.cross_entropy(self(noisy), labels)

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
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr, weight_decay=self.hparams.weight_decay)


class FewDigits(L.LightningDataModule):
    """scikit-learn's handwritten digits: a few for training, the others for validation and test.

    Args:
        batch_size: Images per training batch.
        train_size: Images for training; half of the others are for validation.
    """

    def __init__(self, batch_size: int = 32, train_size: int = 300) -> None:
        super().__init__()
        self.batch_size, self.train_size = batch_size, train_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32) / 16
        labels = torch.tensor(digits.target)
        # The same split in every run, independent of other seeds.
        train, rest = train_test_split(range(len(labels)), train_size=self.train_size, stratify=labels, random_state=0)
        validation, test = train_test_split(rest, test_size=0.5, stratify=labels[rest], random_state=0)
        self.train, self.validation, self.test = (
            TensorDataset(images[part], labels[part]) for part in (train, validation, test)
        )

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.validation, 1024)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, 1024)
