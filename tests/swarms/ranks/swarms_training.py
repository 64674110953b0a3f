"""A user's own script that trains under ``strategy: swarm``: ``python swarms_training.py DIRECTORY OPTIONS``.

Every rank runs it, and writes what it saw to ``rank<R>.pt`` in the directory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAccuracy

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.ranks.averaging import RankSwarm
from lightning_evo.swarms.ranks.strategy import SwarmStrategy

LR = 0.1


class Net(LightningModule):
    """A classifier with a metric object, a plain value and batch normalization."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))
        self.acc = BinaryAccuracy()

    def training_step(self, batch, batch_idx):
        points, labels = batch
        loss = nn.functional.binary_cross_entropy_with_logits(self.net(points)[:, 0], labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch, batch_idx):
        points, labels = batch
        scores = self.net(points)[:, 0]
        self.acc.update(scores.sigmoid(), labels.int())
        self.log("val_acc", self.acc)
        self.log("val_loss", nn.functional.binary_cross_entropy_with_logits(scores, labels))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.net(batch[0])[:, 0]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR)


def points(seed: int, count: int = 48) -> TensorDataset:
    labels = torch.arange(count) % 2
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 2, generator=generator) + labels[:, None], labels.float())


class Notes(Callback):
    """Write down weights and batches; die or fail where told to."""

    def __init__(self, kill: list[int] | None = None, fail: list[int] | None = None) -> None:
        self.kill, self.fail = kill, fail
        self.batches: list[torch.Tensor] = []
        self.initial: dict[str, torch.Tensor] = {}

    def on_train_start(self, trainer, pl_module):
        self.initial = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch[0].clone())
        here = [trainer.global_rank, trainer.global_step]
        if here == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if here == self.fail:
            raise ZeroDivisionError("this rank can't divide")


class Numbers:
    """Some particles' tensors, as unlike as can be."""

    def __init__(self, rank: int, count: int) -> None:
        self.count, self.rank = count, rank

    def weights(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.rank)
        return {
            "fc.weight": torch.randn(self.count, 5, 3, generator=generator),
            "bn.count": torch.randint(0, 99, (self.count,), generator=generator),
            "half": torch.randn(self.count, 2, generator=generator).bfloat16(),
            "double": torch.randn(self.count, generator=generator).double(),
            "flag": torch.randint(0, 2, (self.count, 2), generator=generator).bool(),
        }


MATRICES = {
    "apso": [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]],
    "papa": [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]],
    "papa_all": [[1 / 3] * 3] * 3,
    "cycle": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
    "nobody": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
}


def average(strategy) -> dict:
    """Combine three particles of two ranks, and say what one process would have made of them."""
    particles = Numbers(strategy.global_rank, count=1 + strategy.global_rank)
    swarm = RankSwarm(particles, strategy)
    ours, theirs = Numbers(0, 1).weights(), Numbers(1, 2).weights()
    everybody = {name: torch.cat([ours[name], theirs[name]]) for name in ours}
    found = {"size": swarm.size, "local": list(swarm.local)}
    found["losses"] = swarm.synchronize(torch.arange(particles.count).float() + 10 * strategy.global_rank)
    for name, matrix in MATRICES.items():
        matrix = torch.tensor(matrix).double()
        found[name] = swarm.combine(particles.weights(), matrix), combine(everybody, matrix)
    return found


def main(directory: Path, options: dict) -> None:
    if options.get("seed") is not None:
        seed_everything(options["seed"], verbose=False)
    rank = int(os.environ.get("LOCAL_RANK", "0")) + int(os.environ.get("NODE_RANK", "0"))
    model = Net(options.get("width_of_rank_1", 4) if rank == 1 else 4)
    notes = Notes(options.get("kill"), options.get("fail"))
    trainer = Trainer(
        strategy=SwarmStrategy(**options["strategy"]) if "strategy" in options else "swarm",
        devices=options.get("devices", 2),
        num_nodes=options.get("nodes", 1),
        accelerator="cpu",
        max_epochs=options.get("epochs", 3),
        limit_train_batches=options.get("batches_of_rank_1", 1.0) if rank == 1 else 1.0,
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            notes,
            # The name differs between ranks; the monitor would, if it weren't the mean.
            ModelCheckpoint(directory, "{epoch}-{val_loss:.4f}", "val_acc", mode="max", save_top_k=2, save_last=True),
            EarlyStopping("val_acc", mode="max", patience=50),
        ],
    )
    loader = DataLoader(points(0), 16, shuffle=True)
    trainer.fit(model, loader, DataLoader(points(1), 16), ckpt_path=options.get("ckpt_path"))
    strategy = trainer.strategy
    seen = {
        "initial": notes.initial,
        "batches": notes.batches,
        "final": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "metrics": strategy.metrics,
        "logged": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }
    if options.get("after"):
        seen["average"] = average(strategy)
        seen["validated"] = trainer.validate(model, DataLoader(points(1), 16), verbose=False)
        seen["tested"] = trainer.test(model, DataLoader(points(2), 16), ckpt_path="best", verbose=False)
        seen["tested_weights"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        seen["best"] = str(trainer.checkpoint_callback.best_model_path)
        seen["predicted"] = torch.cat(trainer.predict(model, DataLoader(points(2), 16)))
        trainer.fit_loop.max_epochs += 1
        trainer.fit(model, loader, DataLoader(points(1), 16))
        seen["epochs"] = trainer.current_epoch
    torch.save(seen, directory / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
