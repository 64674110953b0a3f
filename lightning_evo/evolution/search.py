"""The parts of a search, once its arguments are checked, as the controller and its jobs use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.evolution.settings import Budget, Workers
from lightning_evo.genome import Objective, SearchSpace
from lightning_evo.training import Trainable
from lightning_evo.training.request import FitnessEpoch

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """A search without what runs, records and shows it.

    Args:
        trainable: What is evolved.
        space: What varies.
        objectives: What is optimized.
        algorithm: What breeds candidates.
        budget: When to stop.
        workers: Where candidates train.
        directory: The run's directory.
        fitness_epoch: At which epoch the fitness is read.
        keep_checkpoints: How many of the best candidates keep their checkpoint.
        callbacks: The search's own callbacks.
        kinds: The classes of all search callbacks that take part, those of the evolved config included.
        trust: Whether to unpickle checkpoints in the directory that this user's searches didn't make.
    """

    trainable: Trainable
    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: Algorithm
    budget: Budget
    workers: Workers
    directory: Path
    fitness_epoch: FitnessEpoch
    keep_checkpoints: int
    callbacks: tuple[Callback, ...]
    kinds: Sequence[type[SearchCallback]]
    trust: bool = False

    @property
    def needs_shared_results(self) -> bool:
        """Whether some callback follows the results of other candidates."""
        return any(kind.needs_shared_results for kind in self.kinds)

    @property
    def averages(self) -> bool:
        """Whether candidates average their weights with others'."""
        return any(kind.averages_weights for kind in self.kinds)

    @property
    def inherits(self) -> bool:
        """Whether candidates start from others' checkpoints."""
        return self.algorithm.continues or any(kind.needs_parent for kind in self.kinds)
