"""What a search's archive says of it, and what callbacks leave of candidates: parts of archives for tests."""

from __future__ import annotations

from typing import Any

from lightning_evo.evolution.description import describe
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    GrowthSteps,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    SearchSpace,
    Uniform,
)

CREATED = 1.75e9
"""When all of these runs were created, in seconds since the epoch."""

OBJECTIVES = (Objective("val_acc", "max"), Objective("cost/params", "min"), Objective("cost/seconds", "min"))
"""A search has the first one, two or three of them."""

EPOCHS = 10

SPACE = SearchSpace(
    {
        "model.init_args.lr": LogUniform(1e-4, 0.1),
        "model.init_args.width": Ordinal([16, 32, 64, 128]),
        "model.init_args.depth": Integer(1, 6),
        "model.init_args.dropout": Uniform(0.0, 0.5),
        "model.init_args.activation": Categorical(
            [{"class_path": "torch.nn.ReLU"}, {"class_path": "torch.nn.GELU"}, {"class_path": "torch.nn.SiLU"}]
        ),
        "model.init_args.norm": Boolean(),
        "model.init_args.momentum": Uniform(0.5, 0.99, when={"model.init_args.norm": [True]}),
        "model.init_args.chromosome": Bitstring(20),
        "data.init_args.batch_size": Integer(16, 256, log=True),
        "trainer.callbacks.StructuralGrowth.init_args.initial": GrowthSteps(),
    }
)
"""What most of these searches vary: a gene of each kind but for layers."""


def described(space: SearchSpace, objectives: tuple[Objective, ...], seed: int) -> dict[str, Any]:
    """What a search's archive says of it from its beginning."""
    return {
        "search": {
            "evolution": {
                "space": describe(space),
                "algorithm": {
                    "class_path": "lightning_evo.algorithms.RegularizedEvolution",
                    "init_args": {"population_size": 64, "tournament_size": 8},
                },
                "objectives": describe(objectives),
                "fitness_epoch": "best",
            },
            "config": {
                "model": {"class_path": "net.Net", "init_args": {"lr": 0.01, "width": 32, "head": [64, 10]}},
                "data": {"class_path": "net.Data", "init_args": {"batch_size": 32}},
                "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu", "callbacks": None},
            },
        },
        "objectives": describe(objectives),
        "seed": seed,
        "version": "0.1.0",
        "created": CREATED,
    }


def early_fitness(
    control: bool, at: int | None, mean: float, bar: float | None = 0.9, front: list[list[float]] | None = None
) -> dict[str, Any]:
    """What ``EarlyFitnessPrediction`` leaves; ``at``: the epoch at which it stopped (of a control: would have)."""
    predicted = {"mean": mean, "std": 0.03, "median": mean, "low": mean - 0.05, "high": mean + 0.05}
    decided = [] if at is None else [[at - 1, 0.2, mean - 0.01, mean - 0.1, mean + 0.08]]
    return {
        "policy": "ProbabilityOfImprovement",
        "delta": 0.05,
        "control": control,
        "horizon": EPOCHS,
        "stopped_at": None if control else at,
        "would_stop_at": at if control else None,
        "probability": 0.01,
        "bar": bar,
        "front": None if at is None else front,
        "predicted": {} if at is None else {"val_acc": predicted},
        "decisions": [[0, None], *decided],
        "reason": "it would hardly reach the bar",
    }


def inheritance(source: int | None, asked: int, why: str = "") -> dict[str, Any]:
    """What ``WeightInheritance`` leaves."""
    taken = ["net.0.weight", "net.0.bias"]
    return {
        "from": source,
        "asked": asked,
        "why": why,
        "copied": [] if source is None else taken,
        "sliced": [] if source is None else ["net.2.weight"],
        "identity": [],
        "fresh": taken if source is None else ["net.4.weight"],
        "optimizer": "none" if source is None else "kept",
        "preserving": False,
        "why_not": [],
    }


def growth(operation: str, layer: str, before: int, after: int, epoch: int | None, **settings: Any) -> dict[str, Any]:
    """What ``StructuralGrowth`` leaves of one step."""
    return {
        "epoch": epoch,
        "source": "initial" if epoch is None else "trigger",
        "operation": operation,
        "layer": layer,
        "settings": settings,
        "before": before,
        "after": after,
        "preserving": True,
        "why": "asked for",
        "notes": [],
    }
