"""How do many particles of one architecture train together? In one process, across processes, across candidates."""

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.ranks.strategy import SwarmStrategy
from lightning_evo.swarms.stack.stack import ParticleStack, stack_particles

__all__ = ["ParticleStack", "SwarmError", "SwarmStrategy", "stack_particles"]
