"""A swarm of two ranks: what averaging does there goes to a file for each rank."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.callbacks import SwarmAveraging
from lightning_evo.swarms import ParticleStack, SwarmStrategy


class RankNet(LightningModule):
    """A small regression with batch statistics and moments."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.mse_loss(self(batch[0])[:, 0], batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def net_of(rank: int) -> RankNet:
    """The particle of a rank."""
    torch.manual_seed(rank)
    return RankNet()


def batches(seed: int) -> DataLoader:
    inputs = torch.randn(32, 2, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(inputs, inputs.prod(1)), batch_size=8)


def train(module: LightningModule, averaging: SwarmAveraging, directory: str, **options) -> Trainer:
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[averaging],
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )
    trainer.fit(module, batches(0), batches(1))
    return trainer


def swarm_of(particles: range) -> LightningModule:
    """One particle as it is, several as a stack."""
    nets = [net_of(one) for one in particles]
    return nets[0] if len(nets) == 1 else ParticleStack(nets, lowering="loop")


def train_rank(directory: Path, trainings: list[tuple[int, dict]]) -> None:
    """One rank's part in one training after another: how many particles each rank has, and the settings."""
    rank = int(os.environ["LOCAL_RANK"])
    done = []
    for number, (count, settings) in enumerate(trainings):
        module, averaging = swarm_of(range(rank * count, (rank + 1) * count)), SwarmAveraging(**settings)
        # Lightning's sampler would shuffle.
        options = {"strategy": SwarmStrategy(), "devices": 2, "use_distributed_sampler": False}
        train(module, averaging, f"{directory}/{number}", **options)
        particles = module.particles if isinstance(module, ParticleStack) else [module]
        done.append({"extra": dict(averaging.extra), "states": [particle.state_dict() for particle in particles]})
    torch.save(done, directory / f"rank{rank}.pt")
