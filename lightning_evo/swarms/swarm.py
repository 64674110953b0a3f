"""A swarm as averaging sees it: its particles, which of them are here, and linear combinations of all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.errors import SwarmError

__all__ = ["OneParticle", "Particles", "Swarm", "architecture_of", "describe", "first_difference", "moment_name"]


class Swarm:
    """All particles that average together; in this class, all of them are in this process.

    Subclasses reach particles elsewhere: in other ranks (:class:`~lightning_evo.swarms.ranks.averaging.RankSwarm`), in other
    candidates of a search (:class:`~lightning_evo.swarms.exchange.ExchangeSwarm`).

    Args:
        particles: Those of this process.
    """

    combines_all_tensors: bool = True
    """Whether :meth:`combine` takes any tensors of the particles (moments, personal bests), or only their weights."""

    def __init__(self, particles: Particles) -> None:
        self.particles = particles

    @property
    def size(self) -> int:
        """The number of particles in all."""
        return self.particles.count

    @property
    def local(self) -> range:
        """The particles of this process, of all that are numbered from 0 to ``size - 1``."""
        return range(self.particles.count)

    def synchronize(self, losses: Tensor) -> Tensor:
        """Synchronize before averaging: afterwards ``size`` and ``local`` hold for this averaging.

        Args:
            losses: Losses of the particles of this process, (count,).

        Returns:
            The losses of all particles, (size,), on the CPU in double precision; NaN where one isn't known.
        """
        return losses.detach().double().cpu()

    def gather(self, values: Tensor) -> Tensor:
        """Small tensors of all particles, (size, ...), from those of this process's particles, (count, ...)."""
        return values

    def combine(self, values: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Linear combinations of all particles' tensors, for the particles of this process.

        Args:
            values: Tensors of this process's particles: name -> (count, ...).
            coefficients: (size, size), the same in every process: particle ``i`` gets the sum over ``j`` of
                ``coefficients[i, j]`` times particle ``j``'s tensor. See :func:`~lightning_evo.functional.combine`
                for integers.

        Returns:
            Name -> (count, ...), new tensors.
        """
        return combine(values, coefficients)


class Particles(Protocol):
    """The particles of one process. All tensors have the particles along their first axis."""

    @property
    def count(self) -> int:
        """The number of particles."""

    @property
    def modules(self) -> Sequence[LightningModule]:
        """Each particle as an ordinary module over the same memory: writing to it changes the particle."""

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, by their name in a particle's state dict, (count, ...): the memory itself, detached."""

    def moments(self) -> dict[str, Tensor]:
        """The optimizers' state of each parameter, by :func:`moment_name`, (count, ...): the memory itself.

        Numbers only (step counts included, as (count,) or (count, 1, ...)); empty before the first step.
        """

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Clear the optimizers' state of these particles (by index in this process); settings and schedules don't change."""

    def losses(self, outputs: Any) -> Tensor:
        """Training losses of the step, (count,), detached, from the ``outputs`` given to ``on_train_batch_end``."""


def moment_name(state: str, parameter: str) -> str:
    """The name in :meth:`Particles.moments` of an optimizer's ``state`` (``exp_avg``) of a parameter.

    >>> moment_name("exp_avg", "fc.weight")
    'exp_avg:fc.weight'
    """
    return f"{state}:{parameter}"


class OneParticle:
    """The module that an ordinary Trainer trains, as the only particle of a process.

    Args:
        trainer: Its Trainer.
        module: The module.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.trainer, self.module = trainer, module

    @property
    def count(self) -> int:
        """One."""
        return 1

    @property
    def modules(self) -> Sequence[LightningModule]:
        """The module itself."""
        return [self.module]

    def weights(self) -> dict[str, Tensor]:
        """Its state dict, each tensor with a first axis of 1."""
        return {name: tensor.detach().unsqueeze(0) for name, tensor in self.module.state_dict().items()}

    def moments(self) -> dict[str, Tensor]:
        """Its optimizers' state."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.module.named_parameters()}
        return {
            moment_name(state, names[parameter]): value.unsqueeze(0)
            for optimizer in self._optimizers
            for parameter, states in optimizer.state.items()
            for state, value in states.items()
            if isinstance(value, Tensor) and parameter in names
        }

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Clear its optimizers' state, if ``rows`` contains it."""
        if 0 in rows:
            for optimizer in self._optimizers:
                optimizer.state.clear()

    def losses(self, outputs: Any) -> Tensor:
        """The loss that ``training_step`` returned."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            raise SwarmError(f"training_step of {type(self.module).__name__} returned no loss to compare particles by")
        return loss.detach().reshape(1)

    @property
    def _optimizers(self) -> list[Optimizer]:
        return self.trainer.optimizers


def describe(module: nn.Module) -> tuple[str, ...]:
    """An architecture in words: the class of each submodule, shape and dtype of each parameter and buffer.

    Settings that no tensor depends on (a stride, a dropout's probability) are not part of it.

    >>> describe(nn.Linear(3, 2))
    ('the module is torch.nn.modules.linear.Linear', 'weight is float32 (2, 3)', 'bias is float32 (2,)')
    """
    return _described(module, lambda kind: f"{kind.__module__}.{kind.__qualname__}")


def _described(module: nn.Module, name_of: Callable[[type], str]) -> tuple[str, ...]:
    classes = (
        f"{name or 'the module'} is {name_of(type(child))}"
        for name, child in module.named_modules(remove_duplicate=False)
    )
    tensors = (
        f"{name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    )
    return (*classes, *tensors)


def architecture_of(module: nn.Module) -> str:
    """A hash of a module's architecture, equal for modules whose weights can be averaged; the same on all machines.

    It names classes without their modules: a class may move to another file while an exchange goes on.

    >>> architecture_of(nn.Linear(3, 2)) == architecture_of(nn.Linear(3, 2)) != architecture_of(nn.Linear(3, 4))
    True
    """
    return hashlib.blake2b(
        "\n".join(_described(module, lambda kind: kind.__name__)).encode(), digest_size=16
    ).hexdigest()


def first_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str] | None:
    """The first entries in which two descriptions (:func:`describe`) differ; ``None`` if they are equal.

    >>> first_difference(describe(nn.Linear(3, 2)), describe(nn.Linear(4, 2)))
    ('weight is float32 (2, 3)', 'weight is float32 (2, 4)')
    """
    for ours, theirs in zip_longest(one, other, fillvalue="there is nothing more"):
        if ours != theirs:
            return ours, theirs
    return None
