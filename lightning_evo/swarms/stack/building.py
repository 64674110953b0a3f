"""Where do a stack's particles come from? Modules that are given, or built one after another."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.core.optimizer import _configure_optimizers, _configure_schedulers_automatic_opt
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.stack.optimizer import StackedOptimizer, StackedScheduler
from lightning_evo.swarms.stack.steps import particle_of

__all__ = [
    "ALWAYS",
    "EACH",
    "FIRST",
    "LOOKED_AFTER",
    "NEEDS_GRADIENTS",
    "STEPS",
    "arguments_of",
    "build_particles",
    "configured",
    "configured_alike",
]


def build_particles(
    particles: Callable[..., LightningModule] | Sequence[LightningModule],
    size: int | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
) -> list[LightningModule]:
    """The particles of a stack.

    Args:
        particles: The modules themselves; or what builds one: a class, or any function that takes the arguments in ``vary``.
        size: How many to build; by default as many as ``vary`` has values.
        vary: Argument -> its value for each particle.

    Raises:
        SwarmError: The numbers don't fit together, or a particle can't be built.

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> len(build_particles(BoringModel, size=3))
    3
    """
    vary = dict(vary or {})
    if isinstance(particles, nn.ModuleList):
        particles = [particle for particle in particles if isinstance(particle, LightningModule)]
    if isinstance(particles, nn.Module):
        name = type(particles).__name__
        raise SwarmError(
            f"particles is one {name}; give its class, to build several ({name}, size=12), or a list of them"
        )
    if isinstance(particles, Sequence):
        if vary:
            raise SwarmError(
                f"vary ({', '.join(vary)}) needs particles that are built: give a class or a function instead"
            )
        if size is not None and size != len(particles):
            raise SwarmError(f"size {size} is not the number of particles given, {len(particles)}; leave size out")
        return list(particles)
    if not callable(particles):
        raise SwarmError(
            f"particles: {type(particles).__name__} is neither a sequence of modules nor a class or function"
        )
    number = _number(size, vary)
    built = []
    for index in range(number):
        arguments = {name: choices[index] for name, choices in vary.items()}
        with _no_given_hyperparameters():
            try:
                particle = particles(**arguments)
            except TypeError as error:
                unknown = [name for name in arguments if name in str(error)]
                if "unexpected keyword argument" not in str(error) or not unknown:
                    raise
                raise SwarmError(f"vary: {unknown[0]} is no argument of {_name(particles)} ({error})") from error
        _own_hyperparameters(particle, arguments)
        built.append(particle)
    return built


def _number(size: int | None, vary: Mapping[str, Sequence[Any]]) -> int:
    for name, choices in vary.items():
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise SwarmError(f"vary.{name}: {choices!r} is not a list of one value for each particle")
    lengths = {name: len(choices) for name, choices in vary.items()}
    if size is None and not lengths:
        raise SwarmError("size: how many particles are to be built is missing")
    number = size if size is not None else next(iter(lengths.values()))
    if number < 2:
        raise SwarmError(f"size {number} is below 2: a swarm needs at least two particles")
    for name, length in lengths.items():
        if length != number:
            raise SwarmError(f"vary.{name} has {length} values for {number} particles; give one for each")
    return number


def _name(build: Callable[..., Any]) -> str:
    return getattr(build, "__name__", None) or type(build).__name__


@contextmanager
def _no_given_hyperparameters() -> Iterator[None]:
    """Inside LightningCLI, have a particle save its own arguments as hyperparameters, not those of the stack around it."""
    token = hparams_mixin._given_hyperparameters.set(None)
    try:
        yield
    finally:
        hparams_mixin._given_hyperparameters.reset(token)


def _own_hyperparameters(particle: LightningModule, varied: Mapping[str, Any]) -> None:
    """LightningCLI gives every module that a config names the hyperparameters of the outermost one: give it its own."""
    given = particle.__dict__.get("_hparams") or {}
    section = given.get("particles")
    if "_instantiator" not in given or not isinstance(section, Mapping) or "class_path" not in section:
        return
    own = AttributeDict(
        {
            "_class_path": section["class_path"],
            **section.get("init_args", {}),
            **section.get("dict_kwargs", {}),
            **varied,
            "_instantiator": given["_instantiator"],
        }
    )
    particle.__dict__.update(_hparams=own, _hparams_initial=copy.deepcopy(own))


# -- With which optimizers and schedulers does a stack train? Every particle's own, gathered. --


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


# -- Which of a particle's own methods does Lightning call? A stack has those that its particles have, an --

STEPS = ("validation_step", "test_step", "predict_step")
"""Steps that a stack has if its particles have them."""

EACH = (
    "configure_model",
    "teardown",
    "on_fit_start",
    "on_fit_end",
    "on_train_start",
    "on_train_end",
    "on_validation_start",
    "on_validation_end",
    "on_test_start",
    "on_test_end",
    "on_predict_start",
    "on_train_epoch_start",
    "on_validation_epoch_start",
    "on_test_epoch_start",
    "on_predict_epoch_start",
    "on_predict_epoch_end",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_predict_batch_start",
    "on_predict_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
)
"""Hooks that are called on every particle."""

ALWAYS = (
    "setup",
    "on_train_epoch_end",
    "on_validation_epoch_end",
    "on_test_epoch_end",
    "on_predict_end",
    "on_before_optimizer_step",
)
"""Hooks of every particle in which a stack has something to do itself, too."""

FIRST = (
    "prepare_data",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "configure_callbacks",
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)
"""Methods that concern all particles alike: the first one's is called."""

NEEDS_GRADIENTS = frozenset({"on_before_zero_grad", "on_after_backward", "on_before_optimizer_step"})
"""Hooks in which a module may look at its parameters' gradients."""

LOOKED_AFTER = frozenset(
    name
    for name in (*EACH, *ALWAYS)
    if not name.endswith(("_batch_start", "_batch_end", "_backward", "_step", "_grad"))
)
"""Hooks in which a module may well change its settings, or which of its parameters are trained."""


def arguments_of(
    index: int, hook: str, args: Sequence[Any], losses: Tensor, outputs: Any, own_batches: bool
) -> list[Any]:
    """A hook's arguments as one particle would get them alone.

    Args:
        index: Which particle.
        hook: The hook.
        args: What Lightning called the stack's hook with.
        losses: Of the last training step, (N,).
        outputs: What the particles' last training step returned: a list, or a tree of stacked tensors.
        own_batches: Whether each particle has its own part of the batch.
    """
    mine = [arg.optimizers[index] if isinstance(arg, StackedOptimizer) else arg for arg in args]
    if hook == "on_before_backward":
        return [losses[index]]
    if own_batches and hook.endswith(("_batch_start", "_batch_end")):
        place = 1 if hook.endswith("_batch_end") else 0
        mine[place] = particle_of(mine[place], index)
    if hook == "on_train_batch_end":
        output = outputs[index] if isinstance(outputs, list) else particle_of(outputs, index)
        mine[0] = {**(output if isinstance(output, Mapping) else {}), "loss": losses[index]}
    elif hook.endswith("_batch_end") and isinstance(mine[0], list):
        mine[0] = mine[0][index]
    return mine
