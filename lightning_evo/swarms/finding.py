"""Which swarm does a training belong to? Found from its module, its strategy and the search, however particles are held."""

from __future__ import annotations

from typing import Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.swarm import OneParticle, Particles, Swarm, architecture_of

__all__ = ["Membership", "find_swarm"]


class Membership(Protocol):
    """What is to be known of the search a training belongs to (:class:`~lightning_evo.callbacks.search.SearchContext`)."""

    @property
    def candidate(self) -> int:
        """Its id."""

    @property
    def exchange(self) -> str | None:
        """The directory through which candidates meet; ``None`` where they don't."""

    @property
    def ancestry(self) -> str:
        """Only candidates of the same one average."""


def find_swarm(trainer: Trainer, pl_module: LightningModule, context: Membership | None = None) -> Swarm:
    """The swarm that a training's particles average in.

    A :class:`~lightning_evo.ParticleStack` brings many particles, any other module is one. Under a
    :class:`~lightning_evo.SwarmStrategy` those of all ranks are one swarm; else, in a search whose
    candidates meet, a single particle's peers are the other candidates; else the swarm is what this process holds.

    Args:
        trainer: The Trainer, whose strategy has set up its processes.
        pl_module: What it trains.
        context: The search that the training belongs to, if any.

    Raises:
        SwarmError: If there is but one particle, or the strategy trains one model in several processes.
    """
    from lightning_evo.swarms.ranks.strategy import SwarmStrategy
    from lightning_evo.swarms.stack.stack import ParticleStack, StackParticles

    particles: Particles
    if isinstance(pl_module, ParticleStack):
        particles = StackParticles(pl_module, trainer)
    else:
        particles = OneParticle(trainer, pl_module)
    strategy = trainer.strategy
    if isinstance(strategy, SwarmStrategy):
        from lightning_evo.swarms.ranks.averaging import RankSwarm

        return _checked(RankSwarm(particles, strategy))
    if not isinstance(strategy, SingleDeviceStrategy):
        raise SwarmError(
            f"{type(strategy).__name__} trains one model in several processes, whose weights it keeps or shards itself; "
            "particles average under strategy: swarm (one or more per device) or on a single device (devices: 1)"
        )
    if context is not None and context.exchange is not None and isinstance(particles, OneParticle):
        from lightning_evo.swarms.exchange import Exchange, ExchangeSwarm

        name = f"{context.candidate:06d}"
        return ExchangeSwarm(particles, Exchange(context.exchange, name, architecture_of(pl_module), context.ancestry))
    return _checked(Swarm(particles))


def _checked(swarm: Swarm) -> Swarm:
    if swarm.size < 2:
        raise SwarmError(
            "a swarm of one particle has nobody to average with; train a ParticleStack of two or more, use strategy: swarm "
            "with devices: 2 or more, or search with several workers"
        )
    return swarm
