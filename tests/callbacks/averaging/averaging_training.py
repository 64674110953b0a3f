"""Small networks, data and trainings for the tests of averaging."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.swarms import ParticleStack


class Net(LightningModule):
    """A small regression with what averaging has to mind: batch statistics, dropout, moments, a schedule."""

    def __init__(self, lr=0.05, norm=False, adam=False, decay=1.0, dropout=0.0, shift=0.0):
        super().__init__()
        self.save_hyperparameters()
        layers = [nn.Linear(2, 4), nn.BatchNorm1d(4)] if norm else [nn.Linear(2, 4)]
        self.net = nn.Sequential(*layers, nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 1))

    def forward(self, inputs):
        return self.net(inputs)

    def _loss(self, batch):
        return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])

    def training_step(self, batch, batch_idx):
        return self._loss(batch)

    def validation_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("val_loss", loss)
        self.log("val_score", -loss)

    def configure_optimizers(self):
        kind = torch.optim.Adam if self.hparams.adam else torch.optim.SGD
        options = {} if self.hparams.adam else {"momentum": 0.9}
        optimizer = kind(self.parameters(), lr=self.hparams.lr, **options)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.hparams.decay)]


def data(size=32, seed=0):
    inputs = torch.randn(size, 2, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(inputs, inputs.prod(1)), batch_size=8)


def swarm(size=3, seed=0, lowering="loop", **options):
    seed_everything(seed)
    return ParticleStack([Net(**options) for _ in range(size)], lowering=lowering)


def weights(stack):
    return [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in stack.particles]


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


class Watch(Callback):
    """What the particles were just before and after the averaging that stands behind it in the list, and their losses."""

    def __init__(self, averaging):
        self.averaging, self.events = averaging, []
        watch, inner = self, averaging.on_train_batch_end

        def around(trainer, module, *args):
            before, count, random = weights(module), averaging.averagings, torch.random.get_rng_state()
            inner(trainer, module, *args)
            if averaging.averagings > count:
                watch.events.append((trainer.global_step, before, weights(module), module.losses.clone()))
            assert torch.equal(random, torch.random.get_rng_state())

        averaging.on_train_batch_end = around


def trainer_of(directory, *callbacks, epochs=1, **options):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def fit(stack, averaging, directory, epochs=1, callbacks=(), loader=None, validation=True, **options):
    watch = Watch(averaging)
    trainer = trainer_of(directory, averaging, *callbacks, epochs=epochs, **options)
    trainer.fit(stack, data() if loader is None else loader, data(seed=1) if validation else None)
    return trainer, watch.events
