"""Small modules, data and Trainers for the tests of swarms."""

import copy

import lightning as L
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(L.LightningModule):
    """A small convolutional network with everything that a stack has to keep apart."""

    def __init__(self, lr=0.1, optimizer="sgd", weight_decay=0.0, dropout=0.0, norm=True):
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * 9, 3),
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        scores = self(x)
        self.log("val_loss", F.cross_entropy(scores, y))
        self.log("val_acc", (scores.argmax(1) == y).float().mean(), prog_bar=True)

    def test_step(self, batch, batch_idx):
        x, y = batch
        self.log("test_loss", F.cross_entropy(self(x), y))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        decay = self.hparams.weight_decay
        if self.hparams.optimizer == "sgd":
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=decay)
        if self.hparams.optimizer == "adamw":
            return torch.optim.AdamW(self.parameters(), lr=self.lr / 10, weight_decay=decay)
        return torch.optim.RMSprop(self.parameters(), lr=self.lr / 10, weight_decay=decay)


def tensors(count=160, seed=0):
    """Images (count, 1, 8, 8) and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def batches(count=160, size=16, seed=0):
    """Always the same batches of images, the last one smaller where ``count`` says so."""
    return DataLoader(TensorDataset(*tensors(count, seed)), batch_size=size)


def modules(number=3, kind=Net, **options):
    """Modules of different weights and learning rates."""
    made = []
    for index in range(number):
        torch.manual_seed(index)
        made.append(kind(lr=0.1 / (index + 1), **options))
    return made


def trainer(**options):
    """A quiet Trainer on the CPU that writes nothing unless told to."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "max_epochs": 2,
    }
    return L.Trainer(**{**quiet, **options})


def trained_alone(module, train, val=None, **options):
    """The module, trained by an ordinary Trainer, and that Trainer's metrics."""
    single = trainer(**options)
    single.fit(module, train, val)
    return module, {name: value.item() for name, value in single.callback_metrics.items()}


def copies(made):
    """Deep copies of modules."""
    return copy.deepcopy(made)


def difference(one, other):
    """The largest difference between two modules' state dicts."""
    others = other.state_dict()
    return max(
        (tensor.double() - others[name].double()).abs().max().item() for name, tensor in one.state_dict().items()
    )
