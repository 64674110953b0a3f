"""``prepare_data`` by one candidate at a time: the second would find half of what the first one downloads."""

from __future__ import annotations

import platform
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo.training.loggers import place_of
from lightning_evo.utils.waiting import held

__all__ = ["prepare_in_turn"]


def prepare_in_turn(directory: str | Path, *owners: LightningModule | LightningDataModule | None) -> None:
    """Have the ``prepare_data`` of modules and data modules wait for those of the run's other candidates.

    Once on each node where they ask for that (``prepare_data_per_node``), otherwise once for all nodes that see the run's
    directory.

    Args:
        directory: The candidate's.
        owners: Those of the candidate.
    """
    for owner in owners:
        if owner is None or not is_overridden("prepare_data", owner):
            continue
        node = f"-{platform.node()}" if owner.prepare_data_per_node else ""
        lock = place_of(Path(directory).absolute()).run / f".prepare_data{node}.lock"
        # Not a closure: a data module may be sent to the workers of a loader.
        vars(owner)["prepare_data"] = partial(_prepare, owner, lock)


def _prepare(owner: Any, lock: Path) -> None:
    vars(owner).pop("prepare_data", None)
    with held(lock, "the prepare_data of another candidate"):
        owner.prepare_data()
