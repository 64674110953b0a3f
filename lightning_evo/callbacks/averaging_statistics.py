"""What becomes of batch normalisation's running statistics when weights are averaged?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from lightning_evo.callbacks.averaging_data import training_batches
from lightning_evo.callbacks.averaging_settings import METHODS, BatchNorm, Method
from lightning_evo.genome import derive_seed
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.validation import moved

__all__ = ["BatchStatistics", "reestimate", "statistics_of"]


class BatchStatistics:
    """How an averaging treats running statistics: averages them, estimates them anew, or leaves each particle its own.

    Args:
        choice: For all averages; ``None``: each method's default, and ``reestimated`` for soups.
        batches: How many training batches they are estimated on.
        seed: Of which.
    """

    def __init__(self, choice: BatchNorm | None, batches: int, seed: int) -> None:
        self.choice, self.batches, self.seed = choice, batches, seed
        self._possible = False

    def rule(self, method: Method | None) -> BatchNorm:
        """What is done by a method; ``None``: in a soup."""
        if self.choice is not None:
            return self.choice
        return METHODS[method].batchnorm if method is not None else "reestimated"

    def prepare(self, trainer: Trainer, module: LightningModule, averages: Iterable[Method | None]) -> None:
        """Find out whether statistics can be estimated anew in this training, where one of ``averages`` needs it.

        Raises:
            SwarmError: If they can't and the user has asked for it; where it is a default, a warning says so.
        """
        self._possible = False
        if all(self.rule(one) != "reestimated" for one in averages) or not _estimating(module):
            return
        try:
            with isolate_rng():
                training_batches(trainer, 1, 0)
        except SwarmError as error:
            if self.choice == "reestimated":
                raise
            rank_zero_warn(f"SwarmAveraging: batch statistics are averaged instead: {error}")
            return
        self._possible = True

    def refresh(self, trainer: Trainer, module: LightningModule, method: Method | None) -> None:
        """Estimate the statistics of a module that holds an average by ``method`` anew, if that is the rule."""
        if self._possible and self.rule(method) == "reestimated":
            seed = derive_seed(self.seed, "averaging", "statistics", trainer.global_step)
            with isolate_rng():
                reestimate(module, training_batches(trainer, self.batches, seed))


def statistics_of(module: nn.Module) -> set[str]:
    """The names of all running statistics in a module's state dict.

    >>> sorted(statistics_of(nn.Sequential(nn.BatchNorm1d(2))))
    ['0.num_batches_tracked', '0.running_mean', '0.running_var']
    """
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        if isinstance(child, _BatchNorm)
        for name, _ in child.named_buffers(recurse=False)
    }


def reestimate(module: LightningModule, batches: Iterable[Any]) -> None:
    """Estimate a module's running statistics anew from batches, by :func:`torch.optim.swa_utils.update_bn`.

    The module is called with each batch, or with its first element where it is a tuple or list. Normalisation that is in
    evaluation mode (frozen) while the module trains keeps its statistics, and every submodule its mode.
    """
    modes = {child: child.training for child in module.modules()}
    free = _estimating(module)
    frozen = [child for child in module.modules() if isinstance(child, _BatchNorm) and child not in free]
    kept = [{name: buffer.clone() for name, buffer in child.named_buffers(recurse=False)} for child in frozen]
    with torch.no_grad():
        update_bn((moved(module, batch) for batch in batches), module)
        for layer, buffers in zip(frozen, kept, strict=True):
            for name, buffer in layer.named_buffers(recurse=False):
                buffer.copy_(buffers[name])
    for child, training in modes.items():
        child.training = training


def _estimating(module: nn.Module) -> list[nn.Module]:
    """The layers whose statistics follow the batches while the module trains."""
    return [
        child
        for child in module.modules()
        if isinstance(child, _BatchNorm) and child.track_running_stats and (child.training or not module.training)
    ]
