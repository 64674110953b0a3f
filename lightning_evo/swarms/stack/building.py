"""Building of a stack's particles, and the check that they are of one architecture."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_evo._compat.lightning import CLASS_PATH_KEY, HPARAMS, INSTANTIATOR_KEY, no_given_hyperparameters
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.swarm import describe, first_difference

__all__ = ["build_particles", "check_alike"]

_UNSUPPORTED_HOOKS = ("backward", "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping")


def build_particles(
    particles: Callable[..., LightningModule] | Sequence[LightningModule],
    size: int | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
) -> list[LightningModule]:
    """The particles of a stack.

    Args:
        particles: The modules themselves, or a class or function that builds one from the arguments in ``vary``.
        size: The number of particles to build. Default: the number of values in ``vary``.
        vary: Argument -> its value for each particle.

    Raises:
        SwarmError: The numbers are inconsistent, or a particle can't be built.

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
            raise SwarmError(f"size: {size!r} is not the number of particles given, {len(particles)}; leave size out")
        return list(particles)
    if not callable(particles):
        raise SwarmError(f"particles: {type(particles).__name__!r} is not a sequence of modules or a class or function")
    number = _number(size, vary)
    built = []
    for index in range(number):
        arguments = {name: choices[index] for name, choices in vary.items()}
        with no_given_hyperparameters():
            try:
                particle = particles(**arguments)
            except TypeError as error:
                unknown = [name for name in arguments if name in str(error)]
                if "unexpected keyword argument" not in str(error) or not unknown:
                    raise
                raise SwarmError(f"vary: {unknown[0]!r} is not an argument of {_name(particles)} ({error})") from error
        _own_hyperparameters(particle, arguments)
        built.append(particle)
    return built


def _number(size: int | None, vary: Mapping[str, Sequence[Any]]) -> int:
    for name, choices in vary.items():
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise SwarmError(f"vary.{name}: {choices!r} is not a list of one value for each particle")
    lengths = {name: len(choices) for name, choices in vary.items()}
    if size is None and not lengths:
        raise SwarmError("size is missing: set the number of particles to build")
    number = size if size is not None else next(iter(lengths.values()))
    if number < 2:
        raise SwarmError(f"size: {number!r} is not at least 2; a swarm needs at least two particles")
    for name, length in lengths.items():
        if length != number:
            raise SwarmError(f"vary.{name} has {length} values for {number} particles; give one for each")
    return number


def _name(build: Callable[..., Any]) -> str:
    return getattr(build, "__name__", None) or type(build).__name__


def _own_hyperparameters(particle: LightningModule, varied: Mapping[str, Any]) -> None:
    """Give a particle its own hyperparameters: LightningCLI gives every module of a config those of the outermost one."""
    current, initial, _ = HPARAMS
    given = vars(particle).get(current) or {}
    section = given.get("particles")
    if INSTANTIATOR_KEY not in given or not isinstance(section, Mapping) or "class_path" not in section:
        return
    own = AttributeDict(
        {
            CLASS_PATH_KEY: section["class_path"],
            **section.get("init_args", {}),
            **section.get("dict_kwargs", {}),
            **varied,
            INSTANTIATOR_KEY: given[INSTANTIATOR_KEY],
        }
    )
    vars(particle).update({current: own, initial: copy.deepcopy(own)})


def check_alike(particles: Sequence[LightningModule]) -> None:
    """Check that modules can be particles of one swarm.

    Raises:
        SwarmError: They differ in architecture, share tensors, or use a feature that a stack doesn't support.
    """
    if not particles:
        raise SwarmError("a swarm needs at least two particles, none was given")
    if len(particles) == 1:
        raise SwarmError("a swarm needs at least two particles, one was given; train it with an ordinary Trainer")
    for index, particle in enumerate(particles):
        if not isinstance(particle, LightningModule):
            raise SwarmError(f"particle {index} is a {type(particle).__name__}, not a LightningModule")
    _check_supported(particles[0])
    owners: dict[int, int] = {}
    for index, particle in enumerate(particles):
        for tensor in (particle, *particle.parameters(), *particle.buffers()):
            if owners.setdefault(id(tensor), index) != index:
                what = "are the same module" if tensor is particle else "share a tensor"
                raise SwarmError(f"particles {owners[id(tensor)]} and {index} {what}; each needs its own")
    for index, particle in enumerate(particles[1:], start=1):
        difference = _difference(particles[0], particle)
        if difference is not None:
            raise SwarmError(
                f"particles 0 and {index} have different architectures: {difference}; "
                "only particles of the same architecture can be stacked and averaged"
            )


def _check_supported(particle: LightningModule) -> None:
    name = type(particle).__name__
    if not particle.automatic_optimization:
        raise SwarmError(
            f"{name} sets automatic_optimization = False; a stack steps all particles' optimizers itself: "
            "return the loss from training_step and leave automatic optimization on"
        )
    for hook in _UNSUPPORTED_HOOKS:
        if is_overridden(hook, particle):
            raise SwarmError(
                f"{name} overrides {hook}, which a stack does for all particles together; remove it, or train such modules "
                "with SwarmStrategy, one to a process"
            )
    for parameter_name, tensor in (*particle.named_parameters(), *particle.named_buffers()):
        if is_lazy(tensor):
            raise SwarmError(f"{name}.{parameter_name} has no shape yet; run a batch through each particle first")


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    """How two modules differ in architecture; ``None`` if they don't."""
    found = first_difference(describe(one), describe(other))
    if found is not None:
        return f"{found[0]} in one, {found[1]} in the other"
    for kind in ("named_parameters", "named_buffers"):
        tensors = dict(getattr(one, kind)(remove_duplicate=False))
        others = dict(getattr(other, kind)(remove_duplicate=False))
        if tensors.keys() != others.keys():
            names = ", ".join(sorted(tensors.keys() ^ others.keys()))
            return f"only one of them has {names}"
        for name, tensor in tensors.items():
            if (tensor.shape, tensor.dtype) != (others[name].shape, others[name].dtype):
                return f"{name} has shape {tuple(tensor.shape)} in one and {tuple(others[name].shape)} in the other"
            if tensor.requires_grad != others[name].requires_grad:
                return f"{name} is trained in one and frozen in the other"
        if _sharing(tensors) != _sharing(others):
            return f"their modules don't share the same {kind.removeprefix('named_')}"
    return None


def _sharing(tensors: Mapping[str, Tensor]) -> list[int]:
    first: dict[int, int] = {}
    return [first.setdefault(id(tensor), place) for place, tensor in enumerate(tensors.values())]
