"""On which batches is an average judged, and its normalisation estimated? Some of those that the Trainer uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_evo.swarms.errors import SwarmError

__all__ = ["prepare_validation", "training_batches", "validation_batches"]


def prepare_validation(trainer: Trainer) -> None:
    """Set up the validation loaders during ``fit``, if they aren't; all processes of a strategy call it alike.

    Raises:
        SwarmError: If there is no validation.
    """
    if trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    if not trainer.enable_validation or not trainer.num_val_batches or not trainer.num_val_batches[0]:
        raise SwarmError(
            "an average is judged by validation, and this training has none; give it a validation_step and data, or "
            "choose keep: always and no soup"
        )


def validation_batches(trainer: Trainer) -> Iterable[Any]:
    """The batches of one validation during ``fit``: of the first validation loader, within ``limit_val_batches``."""
    loader = CombinedLoader(trainer.val_dataloaders, "sequential").flattened[0]
    count = trainer.num_val_batches[0]
    return islice(loader, None if count == float("inf") else int(count))


def training_batches(trainer: Trainer, count: int, seed: int) -> Iterator[Any]:
    """Some training batches, drawn by ``seed`` where they can be, without disturbing the epoch that is under way.

    From a ``DataLoader`` over a data set with indices: ``count`` random batches of its size, read in this process. From
    another iterable that can be begun anew: its first ``count``.

    Raises:
        SwarmError: If the training data is a stream, or a combination of loaders.
    """
    loader = trainer.train_dataloader
    loaders = CombinedLoader(loader, "sequential").flattened
    if len(loaders) != 1 or loaders[0] is not loader:
        raise SwarmError(_UNFIT.format("a combination of loaders"))
    if not isinstance(loader, DataLoader):
        again = iter(loader)
        if again is loader:
            raise SwarmError(_UNFIT.format(f"a {type(loader).__name__}, which can be read only once"))
        return islice(again, count)
    data = loader.dataset
    if isinstance(data, IterableDataset):
        raise SwarmError(_UNFIT.format(f"a stream ({type(data).__name__})"))
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    per_batch = size or 1  # a data set that makes whole batches itself has no batch size
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    chosen = Subset(data, order[: count * per_batch].tolist())
    # A single example can't be normalised over; it is left out.
    rest = size is not None and size > 1 and len(chosen) % size == 1 and len(chosen) > 1
    return iter(DataLoader(chosen, size, collate_fn=loader.collate_fn, drop_last=rest))


_UNFIT = (
    "batchnorm: reestimated needs training batches of its own, from one loader that can be begun anew; the training data is "
    "{}; choose batchnorm: averaged or own"
)
