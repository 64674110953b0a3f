"""The swarm that a training belongs to: found from its module, its strategy and its search."""

from __future__ import annotations

from typing import Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.exchange import Exchange, ExchangeSwarm
from lightning_evo.swarms.ranks.averaging import RankSwarm
from lightning_evo.swarms.ranks.strategy import SwarmStrategy
from lightning_evo.swarms.stack.stack import ParticleStack, StackParticles
from lightning_evo.swarms.swarm import OneParticle, Particles, Swarm, architecture_of

__all__ = ["Membership", "find_swarm"]


class Membership(Protocol):
    """The part of a training's search (:class:`~lightning_evo.callbacks.search.SearchContext`) that matters here."""

    @property
    def candidate(self) -> int:
        """The candidate's id."""

    @property
    def exchange(self) -> str | None:
        """The directory through which candidates exchange weights; ``None`` where they don't."""

    @property
    def ancestry(self) -> str:
        """Identifies the candidate's ancestors: only candidates of equal ancestry average."""


def find_swarm(trainer: Trainer, pl_module: LightningModule, context: Membership | None = None) -> Swarm:
    """The swarm in which the particles of a training average.

    A :class:`~lightning_evo.ParticleStack` has many particles, any other module is one. Under a
    :class:`~lightning_evo.SwarmStrategy` the swarm is that of all ranks; otherwise, in a search whose candidates exchange
    weights, the peers of a single particle are the other candidates; otherwise it is what this process holds.

    Args:
        trainer: The Trainer; its strategy has set up its processes.
        pl_module: The module that it trains.
        context: The search that the training belongs to, if any.

    Raises:
        SwarmError: If there is only one particle, or the strategy trains one model in several processes.
    """
    particles: Particles
    if isinstance(pl_module, ParticleStack):
        particles = StackParticles(pl_module, trainer)
    else:
        particles = OneParticle(trainer, pl_module)
    strategy = trainer.strategy
    if isinstance(strategy, SwarmStrategy):
        return _checked(RankSwarm(particles, strategy))
    if not isinstance(strategy, SingleDeviceStrategy):
        raise SwarmError(
            f"{type(strategy).__name__} trains one model in several processes, and keeps or shards its weights itself; "
            "particles average under strategy: swarm (one or more per device) or on a single device (devices: 1)"
        )
    if context is not None and context.exchange is not None and isinstance(particles, OneParticle):
        name = f"{context.candidate:06d}"
        return ExchangeSwarm(particles, Exchange(context.exchange, name, architecture_of(pl_module), context.ancestry))
    return _checked(Swarm(particles))


def _checked(swarm: Swarm) -> Swarm:
    if swarm.size < 2:
        raise SwarmError(
            "a swarm of one particle has no other to average with; train a ParticleStack of two or more, use strategy: "
            "swarm with devices: 2 or more, or search with several workers"
        )
    return swarm
