"""Small search spaces with a fitness that can be computed, and results drawn from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lightning_evo.genome import Bitstring, Categorical, Genome, Integer, Layers, LogUniform, SearchSpace
from lightning_evo.predictors import (
    EnsemblePredictor,
    ForestPredictor,
    GaussianProcessPredictor,
    LSTMPredictor,
    ZeroCostPredictor,
)

OPERATIONS = ["none", "skip", "conv", "pool"]

CELL = SearchSpace({f"cell.edge{i}": Categorical(OPERATIONS) for i in range(6)})
"""Six edges with the same operations."""

CONDITIONAL = SearchSpace(
    {
        "kind": Categorical(["sgd", "adam"]),
        "lr": LogUniform(1e-4, 1e-1),
        "momentum": Integer(0, 9, when={"kind": ["sgd"]}),
        "bits": Bitstring(5),
    }
)
"""Hyperparameters, one of them active only sometimes."""

LAYERS = SearchSpace({"layers": Layers([1, 8, 8], 10, max_conv=3, max_layers=14), "lr": LogUniform(1e-4, 1e-1)})
"""An architecture, and a number beside it."""


def cell_fitness(genome: Mapping) -> float:
    return sum((i + 2) * {"none": -2, "skip": 0, "conv": 2, "pool": 1}[v] for i, v in enumerate(genome.values()))


def conditional_fitness(genome: Mapping) -> float:
    momentum = genome.get("momentum", 5)
    return -abs(np.log10(genome["lr"]) + 2.5) - abs(momentum - 7) / 5 + genome["bits"].count("1") / 3


def layers_fitness(genome: Mapping) -> float:
    return np.log(LAYERS["layers"].template(genome["layers"]).params) - abs(np.log10(genome["lr"]) + 2.5)


SPACES: dict[str, tuple[SearchSpace, Callable[[Mapping], float]]] = {
    "cell": (CELL, cell_fitness),
    "conditional": (CONDITIONAL, conditional_fitness),
    "layers": (LAYERS, layers_fitness),
}


def results(name: str, count: int, seed: int = 0) -> tuple[list[Genome], list[float]]:
    """Distinct random genomes of a space, and their fitness."""
    space, fitness = SPACES[name]
    rng = random.Random(seed)
    genomes: dict[Genome, None] = {}
    while len(genomes) < count:
        genomes[space.sample(rng)] = None
    return list(genomes), [float(fitness(genome)) for genome in genomes]


def measure(genomes: Sequence[Genome]) -> list[dict[str, float]]:
    """Stands in for proxies: one that knows, one that doesn't, and one that fails for some."""
    rows = []
    for genome in genomes:
        rng = random.Random(repr(genome))
        known = conditional_fitness(genome) if "bits" in genome else float(len(repr(genome)))
        rows.append({"naswot": known, "params": rng.random(), "synflow": float("nan") if rng.random() < 0.3 else 1e30})
    return rows


QUICK_LSTM = {"nets": 2, "max_steps": 30, "hidden": 8, "lr": 0.02, "dropout": 0.1}

CASES = [
    ("cell", lambda: ForestPredictor(trees=30)),
    ("conditional", lambda: ForestPredictor(trees=30, proxies=["naswot", "synflow"])),
    ("layers", lambda: ForestPredictor(trees=30)),
    ("cell", GaussianProcessPredictor),
    ("conditional", lambda: GaussianProcessPredictor(proxies=["params"])),
    ("layers", GaussianProcessPredictor),
    ("layers", lambda: LSTMPredictor(**QUICK_LSTM)),
    ("layers", lambda: LSTMPredictor(**QUICK_LSTM, flat=False, proxies=["params", "synflow"])),
    ("conditional", lambda: ZeroCostPredictor("naswot")),
    ("cell", EnsemblePredictor),
    ("layers", lambda: EnsemblePredictor([ForestPredictor(trees=30), LSTMPredictor(**QUICK_LSTM)])),
]
"""Every predictor on spaces it suits."""
