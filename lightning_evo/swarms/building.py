"""Where do a stack's particles come from? Modules that are given, or built one after another."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from lightning.pytorch.core.mixins import hparams_mixin
from torch import nn

from lightning_evo.swarms.errors import SwarmError

__all__ = ["build_particles"]


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
