"""A small network of images, loaders, and trainings with and without FastTraining that can be compared."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

CUDA = torch.device("cuda", 0)
NOTHING = dict.fromkeys(("channels_last", "precision", "fused", "cudnn_benchmark", "tf32", "data", "compile"), False)


class ImageNet(LightningModule):
    """Convolves images, and notes what it's given."""

    def __init__(self, optimizer=torch.optim.Adam):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
        )
        self.optimizer, self.batches, self.seen = optimizer, [], []

    def training_step(self, batch, batch_idx):
        self.batches.append([part.clone() for part in batch])
        scores = self.net(batch[0])
        self.seen.append((self.trainer.precision, scores.dtype, self.net[0].weight.is_contiguous()))
        return nn.functional.cross_entropy(scores.float(), batch[1])

    def validation_step(self, batch, batch_idx):
        self.batches.append([part.clone() for part in batch])

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.01)


def images(count=22):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 2)


def fit(model, *loaders, fast=None, epochs=2, **arguments):
    seed_everything(1)
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False} | arguments
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[] if fast is None else [fast],
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, *loaders)
    return trainer


def trained(fast, make_loaders, **arguments):
    """The same model trained with a callback: the model, and the random state behind it."""
    torch.manual_seed(0)
    model = ImageNet()
    fit(model, *make_loaders(), fast=fast, **arguments)
    return model, torch.get_rng_state()


def assert_equal_training(first, second):
    for mine, other in zip(first[0].batches, second[0].batches, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    for a, b in zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first[1], second[1])


def split(**arguments):
    parts = random_split(images(30), [22, 8], torch.Generator().manual_seed(3))
    return DataLoader(Subset(parts[0], range(2, 20)), 4, **arguments), DataLoader(parts[1], 8)


LOADERS = {
    "shuffled": lambda: (DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4)),
    "in order": lambda: (DataLoader(images(), 4),),
    "a generator": lambda: (DataLoader(images(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)),),
    "the last batch dropped": lambda: (DataLoader(images(), 4, shuffle=True, drop_last=True),),
    "subsets of subsets": lambda: split(shuffle=True),
    "a sampler": lambda: (
        DataLoader(images(), 4, sampler=torch.utils.data.WeightedRandomSampler([1.0, 5.0] * 11, 16)),
    ),
    "a worker": lambda: (DataLoader(images(), 8, shuffle=True, num_workers=1),),
    "a worker that persists": lambda: (DataLoader(images(), 8, shuffle=True, num_workers=1, persistent_workers=True),),
}
