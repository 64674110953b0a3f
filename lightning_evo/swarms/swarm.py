"""What does averaging see of a swarm? How many particles there are, which are here, and linear combinations of all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.errors import SwarmError

__all__ = ["OneParticle", "Particles", "Swarm", "architecture_of", "describe", "first_difference", "moment_name"]

# -- Are two networks of one architecture? Their classes, names, shapes and dtypes, in words that can be  --


def describe(module: nn.Module) -> tuple[str, ...]:
    """What makes up an architecture: each submodule's class, each parameter's and buffer's shape and dtype.

    Settings that no tensor shows (a stride, a dropout's probability) are not part of it.

    >>> describe(nn.Linear(3, 2))
    ('the module is torch.nn.modules.linear.Linear', 'weight is float32 (2, 3)', 'bias is float32 (2,)')
    """
    classes = (
        f"{name or 'the module'} is {type(child).__module__}.{type(child).__qualname__}"
        for name, child in module.named_modules(remove_duplicate=False)
    )
    tensors = (
        f"{name} is {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for name, tensor in module.state_dict().items()
        if isinstance(tensor, Tensor)
    )
    return (*classes, *tensors)


def architecture_of(module: nn.Module) -> str:
    """A short name of a module's architecture, equal for modules whose weights can be averaged; stable across machines.

    >>> architecture_of(nn.Linear(3, 2)) == architecture_of(nn.Linear(3, 2)) != architecture_of(nn.Linear(3, 4))
    True
    """
    return hashlib.blake2b("\n".join(describe(module)).encode(), digest_size=16).hexdigest()


def first_difference(one: Sequence[str], other: Sequence[str]) -> tuple[str, str] | None:
    """Where two descriptions (:func:`describe`) first differ: what each says there; ``None`` if they are equal.

    >>> first_difference(describe(nn.Linear(3, 2)), describe(nn.Linear(4, 2)))
    ('weight is float32 (2, 3)', 'weight is float32 (2, 4)')
    """
    for ours, theirs in zip_longest(one, other, fillvalue="there is nothing more"):
        if ours != theirs:
            return ours, theirs
    return None


# -- Which particles does this process hold? Their tensors, stacked along a first axis, whatever holds th --


class Particles(Protocol):
    """The particles of one process. All tensors have the particles along their first axis."""

    @property
    def count(self) -> int:
        """How many."""

    @property
    def modules(self) -> Sequence[LightningModule]:
        """Each particle as an ordinary module over the same memory: what is written to it changes the particle."""

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, by their name in a particle's state dict, (count, ...): the memory itself, detached."""

    def moments(self) -> dict[str, Tensor]:
        """What optimizers keep of each parameter, by :func:`moment_name`, (count, ...): the memory itself.

        Numbers only (step counts included, as (count,) or (count, 1, ...)); empty before the first step.
        """

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Have the optimizers of these particles (by their place here) begin afresh; settings and schedules stay."""

    def losses(self, outputs: Any) -> Tensor:
        """The training losses of the step whose ``outputs`` a callback's ``on_train_batch_end`` got, (count,), detached."""


def moment_name(state: str, parameter: str) -> str:
    """What :meth:`Particles.moments` calls an optimizer's ``state`` (``exp_avg``) of a parameter.

    >>> moment_name("exp_avg", "fc.weight")
    'exp_avg:fc.weight'
    """
    return f"{state}:{parameter}"


class OneParticle:
    """The module that an ordinary Trainer trains, as a process's only particle.

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
        """Empty its optimizers' state, where ``rows`` names it."""
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


class Swarm:
    """All particles that average together; here all of them are in this process.

    Subclasses reach particles elsewhere: in other ranks (:class:`~lightning_evo.swarms.ranks.averaging.RankSwarm`), in other
    candidates of a search (:class:`~lightning_evo.swarms.exchange.ExchangeSwarm`).

    Args:
        particles: Those of this process.
    """

    averages_anything: bool = True
    """Whether :meth:`combine` takes any tensors of the particles (moments, personal bests), or their weights alone."""

    def __init__(self, particles: Particles) -> None:
        self.particles = particles

    @property
    def size(self) -> int:
        """How many particles there are in all."""
        return self.particles.count

    @property
    def local(self) -> range:
        """Which of them, numbered from 0 to below ``size``, this process holds."""
        return range(self.particles.count)

    def meet(self, losses: Tensor) -> Tensor:
        """Come together before averaging: from now on ``size`` and ``local`` hold for this averaging.

        Args:
            losses: Of the particles here, (count,).

        Returns:
            The losses of all particles, (size,), on the CPU in double precision; NaN where one isn't known.
        """
        return losses.detach().double().cpu()

    def gather(self, values: Tensor) -> Tensor:
        """Small tensors of all particles, (size, ...), from those of the particles here, (count, ...)."""
        return values

    def combine(self, values: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Linear combinations of all particles' tensors, for the particles here.

        Args:
            values: Of the particles here: name -> (count, ...).
            coefficients: (size, size), the same in every process: particle ``i`` gets the sum over ``j`` of
                ``coefficients[i, j]`` times particle ``j``'s tensor. See :func:`~lightning_evo.functional.combine`
                for integers.

        Returns:
            Name -> (count, ...), new tensors.
        """
        return combine(values, coefficients)
