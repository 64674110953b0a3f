"""Small searches for tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import GenerationalEvolution
from lightning_evo.genome import Uniform
from lightning_evo.reporting.progress import ProgressDisplay
from toys import sphere


class Recorded(ProgressDisplay):
    """Keeps what was said."""

    def __init__(self):
        self.messages, self.told_ids = [], []

    def due(self):
        return False

    def told(self, candidate, result, state):
        self.told_ids.append(candidate.id)

    def message(self, text):
        self.messages.append(text)


@contextmanager
def threads(count=2):
    with ThreadPoolExecutor(count) as pool:
        yield pool


def evolution(directory, executor, slots=2, **changes):
    """A search over a sphere, in threads."""
    settings = {
        "space": {"x": Uniform(-1, 1), "y": Uniform(-1, 1)},
        "algorithm": GenerationalEvolution(population_size=4),
        "objectives": [Objective("value")],
        "budget": Budget(candidates=12),
        "workers": Workers(slots=slots),
        "seed": 1,
        "function": sphere,
        "executor": executor,
        "progress": Recorded(),
    } | changes
    return Evolution(directory=directory, **settings)


def told(archive):
    """What decides whether two archives are the same: every candidate with its fitness."""
    columns = ("id", "status", "value", "x", "y", "parents", "generation", "seed", "duplicate_of")
    return [tuple(row.get(column) for column in columns) for row in archive.candidates()]
