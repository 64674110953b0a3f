"""A user's project: a module, a gene, an algorithm and a callback of their own, and the search that uses them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo import Archive, Budget, Evolution, Final, Objective, Workers
from lightning_evo.algorithms import Algorithm, Individual, SearchSetup
from lightning_evo.callbacks import (
    CostMeter,
    EarlyFitnessPrediction,
    FastTraining,
    StructuralGrowth,
    SwarmAveraging,
    WeightInheritance,
)
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.data import Digits
from lightning_evo.functional import GrowthStep, grow, inherit
from lightning_evo.functional.entropy import prediction_entropy
from lightning_evo.genome import Categorical, Gene, Genome, Integer, LogUniform, Result, SearchSpace
from lightning_evo.models import ConvNet, ImageClassifier
from lightning_evo.predictors import BayesianCurve, Hyperband


class Net(LightningModule):
    """A LightningModule of the user's own."""

    def __init__(self, width: int = 8, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.rand(8, 4), torch.zeros(8, dtype=torch.long)), batch_size=4)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self.train_dataloader()


class PowerOfTwo(Gene):
    """A gene of the user's own: powers of two."""

    def __init__(self, low: int, high: int, when: Mapping[str, Sequence[Any]] | None = None) -> None:
        super().__init__(when)
        self.low, self.high = low, high

    def sample(self, rng: random.Random) -> int:
        return 1 << rng.randint(self.low, self.high)

    def mutate(self, value: int, rng: random.Random) -> int:
        return self.sample(rng)

    def validate(self, value: int) -> None:
        if value not in self.extremes():
            raise ValueError(f"{value} is no power of two within range")

    def extremes(self) -> list[int]:
        return [1 << self.low, 1 << self.high]

    def encode(self, value: int) -> list[float]:
        return [(value.bit_length() - 1 - self.low) / max(1, self.high - self.low)]

    def decode(self, numbers: Sequence[float]) -> int:
        return 1 << round(self.low + numbers[0] * (self.high - self.low))


class CrossTheBest(Algorithm):
    """An algorithm of the user's own."""

    def __init__(self, population_size: int = 6) -> None:
        super().__init__(population_size=population_size)
        self.generations = 0

    def bind(self, setup: SearchSetup) -> None:
        super().bind(setup)
        self.generations = 0

    def select_parents(self) -> list[Individual]:
        return self.toolbox.select(self.population, 2)

    def vary(self, parents: list[Individual]) -> Genome:
        child, _ = self.toolbox.mate(parents[0].genome, parents[1].genome)
        return self.toolbox.mutate(child)

    def survive(self, population: list[Individual]) -> list[Individual]:
        self.generations += 1
        return self.toolbox.survive(population, self.population_size)


class Reporting(SearchCallback):
    """A callback of the user's own that takes part in the search."""

    needs_shared_results = True

    def __init__(self) -> None:
        self.batches = 0
        self.context: SearchContext | None = None

    def join_search(self, context: SearchContext) -> None:
        self.context = context

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1

    @property
    def extra(self) -> Mapping[str, Any]:
        return {"batches": self.batches}


def accuracy(genome: Genome) -> dict[str, float]:
    """A function instead of a config."""
    return {"score": float(genome["x"]) / 10}


def search(directory: Path) -> Evolution:
    """The search over a config."""
    return Evolution(
        space={
            "model.init_args.width": PowerOfTwo(2, 5),
            "model.init_args.lr": LogUniform(1e-3, 1.0),
            "trainer.max_epochs": Integer(3, 4),
            "trainer.gradient_clip_val": Categorical([None, 1.0]),
        },
        objectives=[Objective("val_acc", "max"), Objective("cost/params", "min")],
        budget=Budget(candidates=4),
        algorithm=CrossTheBest(population_size=2),
        workers=Workers(slots=1),
        directory=directory,
        seed=1,
        final=Final(),
        callbacks=[Reporting(), EarlyFitnessPrediction(predictor=BayesianCurve(), policy=Hyperband()), FastTraining()],
        config={"model": {"class_path": f"{__name__}.Net"}, "trainer": {"accelerator": "cpu", "logger": False}},
        progress=False,
    )


def read(directory: Path) -> list[float]:
    """The archive of a search that has run."""
    with Archive(directory) as archive:
        best: list[dict[str, Any]] = archive.best(2)
        assert len(best) <= 2
        return [result.fitness[0] for _, result in archive.finished() if result.fitness]


def alone() -> Trainer:
    """Callbacks of the package in an ordinary Trainer."""
    trainer = Trainer(
        callbacks=[CostMeter(), WeightInheritance(checkpoint="parent.ckpt"), StructuralGrowth(), SwarmAveraging()],
        accelerator="cpu",
    )
    trainer.fit(
        ImageClassifier(ConvNet(num_classes=10, in_channels=1, image_size=8), num_classes=10), datamodule=Digits()
    )
    return trainer


def functions() -> tuple[int, Tensor]:
    """Functions of the package on modules of the user's own."""
    parent, child = nn.Linear(4, 2), nn.Linear(4, 3)
    copied: tuple[str, ...] = inherit(child, parent).copied
    growth = grow(Net(), GrowthStep("widen", "layers.0", {"width": 16}))
    entropy: Tensor = prediction_entropy(torch.rand(3, 2))
    return len(copied) + growth.after - growth.before, entropy


def sampled() -> Genome:
    """Genetics without any training."""
    space = SearchSpace({"x": Integer(0, 10)})
    algorithm = CrossTheBest()
    algorithm.bind(SearchSetup(space, [Objective("score", "max")], seed=1))
    candidate = algorithm.ask()
    assert candidate is not None  # nothing is waited for
    algorithm.tell(candidate, Result("completed", fitness=(1.0,)))
    best: Individual = algorithm.hall_of_fame[0]
    return best.genome


def main() -> None:
    """Run both searches."""
    search(Path("runs/own")).run()
    winner = Evolution(
        space={"x": Integer(0, 10)},
        objectives=[Objective("score", "max")],
        budget=Budget(candidates=3),
        function=accuracy,
        directory="runs/function",
        progress=False,
    ).run()
    print(winner)


if __name__ == "__main__":
    main()
