"""What do Lightning's callbacks and loggers see of the particles' metrics? Each one's by its number, and their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_evo.swarms.logs import Log, Logged

__all__ = ["publish", "show_step"]


def publish(module: LightningModule, log: Log, count: int) -> list[dict[str, float]]:
    """End an epoch: hand its values to Lightning as ``name/particle_0``, ... and, as ``name``, their mean.

    The mean leaves out NaN: one diverged particle shall not hide how the others fare, and shows as itself.

    Args:
        module: Whose ``log`` is Lightning's; it must be in a hook in which one may log.
        log: What the particles logged; empty afterwards.
        count: The number of particles.

    Returns:
        Each particle's values by name.
    """
    drained = log.drain()
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    if not drained:
        return rows
    device = drained[0].value.device
    table = torch.stack([logged.value.detach().float().to(device) for logged in drained]).tolist()
    for logged, values in zip(drained, table, strict=True):
        # Lightning's names: of a value that is logged per step, too, loggers get the epoch's as name_epoch.
        forked = logged.on_step and logged.on_epoch
        names = [logged.name, f"{logged.name}_epoch"] if forked else [logged.name]
        options: dict[str, Any] = {"sync_dist": logged.sync_dist, "batch_size": 1, "add_dataloader_idx": False}
        finite = [value for value in values if not math.isnan(value)]
        mean = sum(finite) / len(finite) if finite else math.nan
        for name in names:
            shown = name == names[-1]
            module.log(name, mean, prog_bar=logged.prog_bar and shown, logger=logged.logger and shown, **options)
        # Where there is no logger, Lightning warns once for every name; the mean's warning is enough.
        logger = logged.logger and bool(module.trainer.loggers)
        for index, value in enumerate(values):
            rows[index].update(dict.fromkeys(names, value))
            module.log(f"{logged.name}/particle_{index}", value, logger=logger, **options)
    return rows


def show_step(module: LightningModule, calls: Sequence[Logged]) -> None:
    """Hand what was logged per step to Lightning: the mean only, in the steps that loggers look at.

    A call of Lightning's ``log`` costs 0.7 ms, which N series in every step would spend N times.
    """
    trainer = module._trainer
    if trainer is None or not any(logged.on_step for logged in calls):
        return
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if every == 0 or (trainer.global_step + 1) % every != 0:
        return
    for logged in calls:
        if logged.on_step and isinstance(logged.value, Tensor):
            name = f"{logged.name}_step" if logged.on_epoch else logged.name
            module.log(
                name,
                logged.value.nanmean(),
                on_step=True,
                on_epoch=False,
                prog_bar=logged.prog_bar,
                logger=logged.logger,
                sync_dist=logged.sync_dist,
                batch_size=1,
            )
