"""What does averaging see of a swarm? How many particles there are, which are here, and linear combinations of all."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.particles import Particles

__all__ = ["Swarm"]


class Swarm:
    """All particles that average together; here all of them are in this process.

    Subclasses reach particles elsewhere: in other ranks (:class:`~lightning_evo.swarms.ranks.RankSwarm`), in other
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
                ``coefficients[i, j]`` times particle ``j``'s tensor. See :func:`~lightning_evo.functional.mixing.combine`
                for integers.

        Returns:
            Name -> (count, ...), new tensors.
        """
        return combine(values, coefficients)
