"""With which optimizers and schedulers does a stack train? Every particle's own, gathered."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.optimizer import StackedOptimizer, StackedScheduler

__all__ = ["configured", "configured_alike"]


def configured(particles: Sequence[LightningModule], memory: Mapping[str, Tensor]) -> Any:
    """What the ``configure_optimizers`` of all particles come to, as Lightning wants it of one module.

    Raises:
        SwarmError: A particle has no or several optimizers, or schedulers that are stepped at other times than the others'.
    """
    optimizers, schedulers = [], []
    for index, particle in enumerate(particles):
        optimizer, configs = _of_one(particle, index)
        optimizers.append(optimizer)
        schedulers.append(configs)
    stacked = StackedOptimizer(optimizers, particles, memory)
    numbers = {len(configs) for configs in schedulers}
    if len(numbers) > 1:
        raise SwarmError(f"particles have different numbers of schedulers ({sorted(numbers)}); give all the same")
    return [stacked], [_together(configs, stacked) for configs in zip(*schedulers, strict=True)]


def configured_alike(given: Any, particles: Sequence[LightningModule], memory: Mapping[str, Tensor]) -> Any:
    """As :func:`configured`, from one configuration of the stacked parameters, the same for all particles.

    So LightningCLI gives it, which builds the optimizer of its ``optimizer:`` section over the parameters of the model.

    Args:
        given: What ``configure_optimizers`` returned for the stack.
        particles: The particles.
        memory: The stacked tensors by name.

    Raises:
        SwarmError: It has several optimizers.
    """
    optimizers, schedulers, monitor = _configure_optimizers(given)
    if len(optimizers) != 1:
        raise SwarmError(f"configure_optimizers of the stack returned {len(optimizers)} optimizers; one is needed")
    configs = _configure_schedulers_automatic_opt(schedulers, monitor)
    twins = [_twin(optimizers[0], particle, memory, bool(configs)) for particle in particles]
    stacked = StackedOptimizer(twins, particles, memory)
    copied = [
        [replace(config, scheduler=copy.deepcopy(config.scheduler, {id(optimizers[0]): twin})) for config in configs]
        for twin in twins
    ]
    return [stacked], [_together(of_one_place, stacked) for of_one_place in zip(*copied, strict=True)]


def _twin(optimizer: Optimizer, particle: LightningModule, memory: Mapping[str, Tensor], scheduled: bool) -> Optimizer:
    """The same optimizer, over the parameters of one particle."""
    names = {id(tensor): name for name, tensor in memory.items()}
    groups = [
        {**group, "params": [particle.get_parameter(names[id(tensor)]) for tensor in group["params"]]}
        for group in optimizer.param_groups
    ]
    accepted = inspect.signature(type(optimizer)).parameters
    settings = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    twin: Optimizer = type(optimizer)(groups, **settings)  # type: ignore[call-arg]
    if scheduled:
        LambdaLR(twin, lambda _: 1.0)  # schedulers watch an optimizer's steps from when the first of them is built
        for mine, group in zip(twin.param_groups, groups, strict=True):
            mine.update(group)
    return twin


def _of_one(particle: LightningModule, index: int) -> tuple[Optimizer, list[LRSchedulerConfig]]:
    conf = particle.configure_optimizers()
    name = f"configure_optimizers of particle {index} ({type(particle).__name__})"
    if conf is None:
        raise SwarmError(f"{name} returned None; a stack trains by the particles' optimizers")
    optimizers, schedulers, monitor = _configure_optimizers(conf)  # type: ignore[arg-type]
    if len(optimizers) != 1:
        raise SwarmError(f"{name} returned {len(optimizers)} optimizers; a stack trains each particle with one")
    return optimizers[0], _configure_schedulers_automatic_opt(schedulers, monitor)


def _together(configs: Sequence[LRSchedulerConfig], optimizer: StackedOptimizer) -> dict[str, Any]:
    first = configs[0]
    for setting in ("interval", "frequency", "reduce_on_plateau", "monitor", "strict"):
        values = {getattr(config, setting) for config in configs}
        if len(values) > 1:
            shown = ", ".join(sorted(str(value) for value in values))
            raise SwarmError(f"particles' schedulers differ in {setting} ({shown}); a stack steps them together")
    scheduler = StackedScheduler([config.scheduler for config in configs], optimizer, first.monitor)
    return {
        "scheduler": scheduler,
        "name": first.name,
        "interval": first.interval,
        "frequency": first.frequency,
        "reduce_on_plateau": first.reduce_on_plateau,
        "monitor": first.monitor,
        "strict": first.strict,
    }
