"""How far has each particle's learning rate fallen? Now, over the one that its schedule starts from or rises to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_evo.swarms.optimizer import StackedOptimizer

__all__ = ["Rates"]


class Rates:
    """Each particle's learning rate in relation to its base.

    The base is the schedule's ``max_lr`` (:class:`~torch.optim.lr_scheduler.OneCycleLR`), else ``initial_lr``, which every
    scheduler of torch notes; without a scheduler it is the largest rate seen.
    """

    def __init__(self) -> None:
        self._largest: list[float] = []

    def ratios(self, trainer: Trainer, count: int) -> Tensor:
        """Of this process's particles, (count,), double precision."""
        groups = [optimizer.param_groups[0] for optimizer in _optimizers(trainer, count)]
        rates = [float(group["lr"]) for group in groups]
        if len(self._largest) != count:
            self._largest = [0.0] * count
        self._largest = [max(pair) for pair in zip(self._largest, rates, strict=True)]
        bases = [
            float(group.get("max_lr", group.get("initial_lr", largest)))
            for group, largest in zip(groups, self._largest, strict=True)
        ]
        return torch.tensor(
            [rate / base if base > 0 else 1.0 for rate, base in zip(rates, bases, strict=True)], dtype=torch.float64
        )

    def state_dict(self) -> dict[str, Any]:
        """The largest rates seen."""
        return {"largest": list(self._largest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self._largest = list(state["largest"])


def _optimizers(trainer: Trainer, count: int) -> list[Optimizer]:
    """Each particle's (first) optimizer."""
    first = trainer.optimizers[0]
    return first.optimizers if isinstance(first, StackedOptimizer) else [first] * count
