"""How do many particles of one architecture train together? In one process, across processes, across candidates."""

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.stack import ParticleStack
from lightning_evo.swarms.strategy import SwarmStrategy

__all__ = ["ParticleStack", "SwarmError", "SwarmStrategy"]
