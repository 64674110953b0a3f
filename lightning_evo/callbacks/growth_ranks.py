"""How do all ranks take the same step of growth? Rank 0 takes it, and the others repeat it, or none does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, NothingChanged

__all__ = ["count_parameters", "in_all_ranks"]


def in_all_ranks(
    trainer: Trainer,
    module: LightningModule,
    operation: str,
    layer: str,
    grow: Callable[[], Growth],
    repeat: Callable[[GrowthStep], Growth],
) -> tuple[Growth | None, str]:
    """Change a layer in every rank.

    Args:
        trainer: Whose strategy joins the ranks.
        module: In training; each rank has its own.
        operation: What is to be done.
        layer: To which layer.
        grow: Does it, on rank 0.
        repeat: Does what rank 0 did, on the others.

    Returns:
        What was done, or ``None`` and why it couldn't be; in every rank the same.

    Raises:
        NothingChanged: A step was taken, and the network is what it was.
    """
    before, count = _structure(module), count_parameters(module)
    growth: Growth | None = None
    told: dict[str, Any] = {}
    if trainer.is_global_zero:
        try:
            growth = grow()
            said = {"why_not": growth.why_not, "notes": growth.notes}
            told = {"step": growth.step.to_dict(), "empty": _structure(module) == before, "said": said}
        except NothingChanged:
            told = {"step": None, "empty": True}
        except GrowthError as error:
            told = {"step": None, "empty": False, "reason": str(error)}
    told = trainer.strategy.broadcast(told)
    if told["empty"]:
        raise NothingChanged(
            f"epoch {trainer.current_epoch}: {operation} {layer}: nothing has changed: {count:,} parameters before and after"
        )
    if told["step"] is None:
        return None, told["reason"]
    return growth or replace(repeat(GrowthStep.from_dict(told["step"])), **told["said"]), ""


def count_parameters(module: nn.Module) -> int:
    """How many parameters a network has, counted one by one."""
    return sum(parameter.numel() for parameter in module.parameters())


def _structure(module: nn.Module) -> list[tuple[Any, ...]]:
    """What a step must change something of."""
    parts: list[tuple[Any, ...]] = [(name, type(part)) for name, part in module.named_modules()]
    sizes: list[tuple[Any, ...]] = [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
    return [*parts, *sizes]
