"""Batch statistics of averaged networks, and the batches for estimating them and for validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset, Subset

from lightning_evo._compat.torch import BatchNormBase
from lightning_evo.callbacks.averaging.settings import METHODS, BatchNorm, Method
from lightning_evo.genome import derive_seed
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.validation import moved
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "BatchStatistics",
    "prepare_validation",
    "reestimate",
    "statistics_of",
    "training_batches",
    "validation_batches",
]


class BatchStatistics:
    """How averaging treats running statistics: it averages them, estimates them again, or leaves each particle its own.

    Args:
        choice: The rule for all averages; ``None``: each method's default, and ``reestimated`` for soups.
        batches: The number of training batches for estimating them.
        seed: The seed for choosing those.
    """

    def __init__(self, choice: BatchNorm | None, batches: int, seed: int) -> None:
        self.choice, self.batches, self.seed = choice, batches, seed
        self._possible = False

    def rule(self, method: Method | None) -> BatchNorm:
        """The rule of a method, or of soups for ``None``."""
        if self.choice is not None:
            return self.choice
        return METHODS[method].batchnorm if method is not None else "reestimated"

    def prepare(self, trainer: Trainer, module: LightningModule, averages: Iterable[Method | None]) -> None:
        """Determine whether statistics can be estimated again in this training, if one of ``averages`` needs it.

        Raises:
            SwarmError: If they can't although the user chose it; if it is only a default, a warning is given.
        """
        self._possible = False
        if all(self.rule(one) != "reestimated" for one in averages) or not _estimating(module):
            return
        try:
            with isolated_random_state():
                training_batches(trainer, 1, 0)
        except SwarmError as error:
            if self.choice == "reestimated":
                raise
            rank_zero_warn(f"SwarmAveraging: batch statistics are averaged instead: {error}")
            return
        self._possible = True

    def refresh(self, trainer: Trainer, module: LightningModule, method: Method | None) -> None:
        """Estimate the statistics of a module that holds an average by ``method`` again, if that is the rule."""
        if self._possible and self.rule(method) == "reestimated":
            seed = derive_seed(self.seed, "averaging", "statistics", trainer.global_step)
            with isolated_random_state():
                reestimate(module, training_batches(trainer, self.batches, seed))


def statistics_of(module: nn.Module) -> set[str]:
    """The names of all running statistics in a module's state dict.

    >>> sorted(statistics_of(nn.Sequential(nn.BatchNorm1d(2))))
    ['0.num_batches_tracked', '0.running_mean', '0.running_var']
    """
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        if isinstance(child, BatchNormBase)
        for name, _ in child.named_buffers(recurse=False)
    }


def reestimate(module: LightningModule, batches: Iterable[Any]) -> None:
    """Estimate a module's running statistics again from batches, by :func:`torch.optim.swa_utils.update_bn`.

    The module is called with each batch, or with its first element if it is a tuple or list. Normalization that is in
    evaluation mode (frozen) while the module trains keeps its statistics, and every submodule keeps its mode.
    """
    modes = {child: child.training for child in module.modules()}
    free = _estimating(module)
    frozen = [child for child in module.modules() if isinstance(child, BatchNormBase) and child not in free]
    kept = [{name: buffer.clone() for name, buffer in child.named_buffers(recurse=False)} for child in frozen]
    with torch.no_grad():
        update_bn((moved(module, batch) for batch in batches), module)
        for layer, buffers in zip(frozen, kept, strict=True):
            for name, buffer in layer.named_buffers(recurse=False):
                buffer.copy_(buffers[name])
    for child, training in modes.items():
        child.training = training


def _estimating(module: nn.Module) -> list[nn.Module]:
    """The layers that update their statistics while the module trains."""
    return [
        child
        for child in module.modules()
        if isinstance(child, BatchNormBase) and child.track_running_stats and (child.training or not module.training)
    ]


def prepare_validation(trainer: Trainer) -> None:
    """Set up the validation loaders during ``fit``, if they aren't yet; all processes of a strategy call it.

    Raises:
        SwarmError: If there is no validation.
    """
    if trainer.enable_validation:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    if not trainer.enable_validation or not trainer.num_val_batches or not trainer.num_val_batches[0]:
        raise SwarmError(
            "averages are compared by validation, and this training has none; add a validation_step and data, or choose "
            "keep: always and no soup"
        )


def validation_batches(trainer: Trainer) -> Iterable[Any]:
    """The batches of one validation during ``fit``: of the first validation loader, within ``limit_val_batches``."""
    loader = CombinedLoader(trainer.val_dataloaders, "sequential").flattened[0]
    count = trainer.num_val_batches[0]
    return islice(loader, None if count == float("inf") else int(count))


def training_batches(trainer: Trainer, count: int, seed: int) -> Iterator[Any]:
    """Some training batches, chosen by ``seed`` where possible, without disturbing the current epoch.

    From a ``DataLoader`` over an indexed data set: ``count`` random batches of its size, read in this process. From another
    iterable that can be iterated again: its first ``count``.

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
    per_batch = size or 1  # None for a data set that returns whole batches
    order = torch.randperm(len(cast(Sized, data)), generator=torch.Generator().manual_seed(seed))
    chosen = Subset(data, order[: count * per_batch].tolist())
    # Batch normalization can't be computed over a single example; it is left out.
    rest = size is not None and size > 1 and len(chosen) % size == 1 and len(chosen) > 1
    return iter(DataLoader(chosen, size, collate_fn=loader.collate_fn, drop_last=rest))


_UNFIT = (
    "batchnorm: reestimated needs separate training batches, from one loader that can be read again; the training data is "
    "{}; choose batchnorm: averaged or own"
)
