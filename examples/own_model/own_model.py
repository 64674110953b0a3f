"""An example project in plain Lightning, without any dependence on lightning-evo."""

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
        dropout: Dropout after each hidden layer.
        activation: Name of a class in ``torch.nn``: ReLU, GELU, Tanh, ...
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        lr: float = 1e-3,
        dropout: float = 0.1,
        activation: str = "ReLU",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = [nn.Flatten()]
        features = 64
        for _ in range(depth):
            layers += [nn.Linear(features, width), getattr(nn, activation)(), nn.Dropout(dropout)]
            features = width
        self.layers = nn.Sequential(*layers, nn.Linear(features, 10))
        self.val_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes=10, average="micro")
        self.lr = lr

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
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class DigitsData(L.LightningDataModule):
    """scikit-learn's handwritten digits, split 60 / 20 / 20.

    Args:
        batch_size: Images per training batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32) / 16
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
