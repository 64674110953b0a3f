"""The request for a training, besides the config of what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch import Callback

from lightning_evo.callbacks.search import SearchContext
from lightning_evo.genome import Objective

__all__ = ["FitnessEpoch", "TrainingRequest"]

FitnessEpoch = Literal["best", "last"]
"""The epoch at which a fitness is read."""


@dataclass(frozen=True)
class TrainingRequest:
    """How a candidate is trained and measured; travels from the search to whatever trains it, by pickle.

    Args:
        directory: The candidate's own directory, also the Trainer's root directory; for a stack, the stack's.
        objectives: What the fitness consists of. All are read at one epoch: the best of the first objective that is a
            logged metric, or the last.
        fitness_epoch: ``best`` (default) or ``last``.
        save_checkpoint: Whether to keep the checkpoint of the epoch from which the fitness was read (default ``True``).
        devices: Devices that train it together (DDP where more than one; default 1).
        callbacks: The search's own callbacks; the candidate gets copies, beside those of its config.
        context: What callbacks may know of the search, if there is one.
        data_seed: Seed of everything random from the training's beginning on, such as the order of the data. The initial
            weights stay those of the config's seed. Default: the config's seed decides all.
        chdir: Whether its directory is its working directory, too (default ``False``).
        launched_in: The directory that relative paths of its config then mean; empty: the working directory before.
        trusted: Whether the checkpoint that is tested (of the winner) may be unpickled, which runs code that it holds.
        digest: The hash of that checkpoint; empty where none is known.
    """

    directory: str
    objectives: Sequence[Objective]
    fitness_epoch: FitnessEpoch = "best"
    save_checkpoint: bool = True
    devices: int = 1
    callbacks: Sequence[Callback] = ()
    context: SearchContext | None = None
    data_seed: int | None = None
    trusted: bool = False
    chdir: bool = False
    launched_in: str = ""
    digest: str = ""

    @property
    def working_directory(self) -> str | None:
        """The candidate's own working directory, if it is to have one."""
        return self.directory if self.chdir else None

    @property
    def is_segment(self) -> bool:
        """Whether part of a longer training is asked for, whose last state the next part continues."""
        return self.context is not None and self.context.segment is not None
