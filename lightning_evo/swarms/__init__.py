"""Training of many particles of one architecture together: in one process, in several, and across candidates of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch.strategies import StrategyRegistry

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.swarms.errors import SwarmError
    from lightning_evo.swarms.ranks.strategy import SwarmStrategy
    from lightning_evo.swarms.stack.stack import ParticleStack, stack_particles

__all__ = ["ParticleStack", "SwarmError", "SwarmStrategy", "stack_particles"]

_HOME = {
    "ParticleStack": "stack.stack",
    "SwarmError": "errors",
    "SwarmStrategy": "ranks.strategy",
    "stack_particles": "stack.stack",
}

__getattr__, __dir__ = lazily(__name__, _HOME)


def _strategy(**options: Any) -> SwarmStrategy:
    """What ``Trainer(strategy="swarm")`` calls; imports the strategy only then."""
    from lightning_evo.swarms.ranks.strategy import SwarmStrategy

    return SwarmStrategy(**options)


StrategyRegistry.register("swarm", _strategy, description="one particle per process and device", override=True)
