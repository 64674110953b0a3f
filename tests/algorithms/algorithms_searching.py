"""Toy searches on simulated slots, shared by this folder's tests."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy

from lightning_evo.algorithms import (
    NSGA2,
    Algorithm,
    GenerationalEvolution,
    LocalSearch,
    Operator,
    PopulationBasedTraining,
    Predictor,
    PredictorSearch,
    Prescreen,
    RandomSearch,
    RegularizedEvolution,
    SearchSetup,
    SwarmOptimization,
)
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Candidate,
    Categorical,
    Genome,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    Result,
    SearchSpace,
    Uniform,
)

SPACE = SearchSpace(
    {
        "model.kind": Categorical(["conv", "linear", None]),
        "model.kernel": Integer(1, 7, step=2, when={"model.kind": ["conv"]}),
        "model.lr": LogUniform(1e-4, 1e-1),
        "model.width": Ordinal([16, 32, 64, 128]),
        "model.norm": Boolean(),
        "model.momentum": Uniform(0.0, 0.99, when={"model.norm": [True], "model.kind": ["conv", "linear"]}),
        "model.bits": Bitstring(8),
    }
)
ONE = [Objective("val_acc")]
TWO = [Objective("val_acc"), Objective("cost/params", "min")]
THREE = [*TWO, Objective("cost/seconds", "min")]


class Neighbours(Predictor):
    """The mean of the nearest results, and how far they are: a predictor in a few lines."""

    min_results = 6

    def __init__(self, neighbours: int = 3) -> None:
        self.neighbours = neighbours

    def fit(self, genomes, fitness):
        if len(genomes) < self.min_results:
            raise ValueError(f"{len(genomes)} results are fewer than {self.min_results}")
        self._x = numpy.array([self.space.features(genome, inactive=-1.0) for genome in genomes])
        self._y = numpy.array(fitness)
        return self

    def predict(self, genomes):
        x = numpy.array([self.space.features(genome, inactive=-1.0) for genome in genomes])
        distances = numpy.abs(x[:, None] - self._x).sum(axis=2)
        nearest = numpy.argsort(distances, axis=1, kind="stable")[:, : self.neighbours]
        return self._y[nearest].mean(axis=1), numpy.sort(distances, axis=1)[:, 0]


def screen(**settings) -> Prescreen:
    return Prescreen(**{"predictor": Neighbours(), "pool": 4, "explore": 0.25, **settings})


MAKERS: dict[str, Callable[[], Algorithm]] = {
    "random": lambda: RandomSearch(population_size=6),
    "regularized": lambda: RegularizedEvolution(population_size=6, tournament_size=3),
    "regularized self-adaptive": lambda: RegularizedEvolution(population_size=6, mutate=Operator("self_adaptive")),
    "local": lambda: LocalSearch(population_size=2, patience=4),
    "generational": lambda: GenerationalEvolution(population_size=6),
    "mu+lambda": lambda: GenerationalEvolution(population_size=6, strategy="mu+lambda", offspring=4),
    "mu,lambda": lambda: GenerationalEvolution(population_size=4, strategy="mu,lambda", offspring=7, elitism=0),
    "nsga2": lambda: NSGA2(population_size=6),
    "random, prescreened": lambda: RandomSearch(population_size=6, prescreen=screen()),
    "regularized, prescreened": lambda: RegularizedEvolution(6, tournament_size=3, prescreen=screen()),
    "local, prescreened": lambda: LocalSearch(population_size=2, patience=4, prescreen=screen(rounds=1)),
    "generational, prescreened": lambda: GenerationalEvolution(population_size=6, prescreen=screen()),
    "nsga2, prescreened": lambda: NSGA2(population_size=6, prescreen=screen()),
    "predictor search": lambda: PredictorSearch(Neighbours(), population_size=6, parents=3, pool=4, rounds=2),
    "swarm": lambda: SwarmOptimization(particles=4, population_size=4),
    "pbt": lambda: PopulationBasedTraining(population_size=4, quantile=0.5),
    "pbt, asynchronous": lambda: PopulationBasedTraining(population_size=4, quantile=0.5, synchronous=False),
    "nsga3": lambda: NSGA2(population_size=6, survive=Operator("selNSGA3", {"ref_points": 4})),
}
"""One row or more for each public algorithm; every contract below runs through all rows that it holds for."""

BREEDING = [name for name, make in MAKERS.items() if not make().continues and make().swarm_size is None]
"""Those whose candidates each stand for themselves: no members that continue their own training, no particles of swarms."""
SYNCHRONOUS = [name for name, make in MAKERS.items() if make().synchronous and name != "nsga3"]
STEADY = [name for name in BREEDING if not MAKERS[name]().synchronous]


def score(genome: Genome) -> tuple[float, float, float]:
    """An accuracy, a size and a time, decided by the genome."""
    accuracy = -((math.log10(genome["model.lr"]) + 2.5) ** 2) + genome["model.bits"].count("1") / 4
    accuracy += {"conv": 1.0, "linear": 0.5, None: 0.0}[genome["model.kind"]] - genome.get("model.momentum", 0.5)
    return accuracy, genome["model.width"] * genome.get("model.kernel", 1), genome["model.bits"].count("0") + 1.0


def evaluate(candidate: Candidate, objectives: list[Objective], failing: float = 0.0) -> Result:
    """The candidate's score; ``failing`` is the share of candidates that fail, decided by their id."""
    if random.Random(f"fails {candidate.id}").random() < failing:
        return Result("failed", error="it broke", error_type="RuntimeError: it broke")
    return Result("completed", fitness=score(candidate.genome)[: len(objectives)])


class Search:
    """An algorithm, simulated slots that end in random order, and the journal of what was asked and told."""

    def __init__(
        self,
        make: Callable[[], Algorithm],
        objectives: list[Objective] = ONE,
        seed: int = 0,
        slots: int = 1,
        order: int = 0,
        failing: float = 0.0,
        space: SearchSpace = SPACE,
        **setup,
    ) -> None:
        self.algorithm = make()
        self.algorithm.bind(SearchSetup(space, objectives, seed, **setup))
        self.objectives, self.slots, self.failing = objectives, slots, failing
        self.order = random.Random(order)
        self.asked: list[Candidate] = []
        self.told: list[tuple[Candidate, Result]] = []
        self.running: list[Candidate] = []

    def run(self, candidates: int) -> list[Candidate]:
        """Go on until so many candidates have been asked, and end those that run."""
        while len(self.asked) < candidates:
            candidate = self.algorithm.ask() if len(self.running) < self.slots else None
            if candidate is not None:
                self.asked.append(candidate)
                self.running.append(candidate)
            else:
                self.end_one()
        return self.asked

    def end_one(self) -> None:
        candidate = self.running.pop(self.order.randrange(len(self.running)))
        result = evaluate(candidate, self.objectives, self.failing)
        self.algorithm.tell(candidate, result)
        self.told.append((candidate, result))
