"""lightning-evo: evolve any LightningModule from the config file it already has."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Importing torch and Lightning takes seconds; genetics and reading an archive need neither.
_HOMES = {
    "Archive": "lightning_evo.archive",
    "Budget": "lightning_evo.evolution",
    "Evolution": "lightning_evo.evolution",
    "EvolutionCLI": "lightning_evo.cli.lightning",
    "Final": "lightning_evo.evolution",
    "Objective": "lightning_evo.genome",
    "ParticleStack": "lightning_evo.swarms",
    "SearchSpace": "lightning_evo.genome",
    "SwarmStrategy": "lightning_evo.swarms",
    "Workers": "lightning_evo.evolution",
    "export_grown": "lightning_evo.callbacks.growth.loading",
    "load_grown": "lightning_evo.callbacks.growth.loading",
}

if TYPE_CHECKING:
    from lightning_evo.archive import Archive
    from lightning_evo.callbacks.growth.loading import export_grown, load_grown
    from lightning_evo.cli.lightning import EvolutionCLI
    from lightning_evo.evolution import Budget, Evolution, Final, Workers
    from lightning_evo.genome import Objective, SearchSpace
    from lightning_evo.swarms import ParticleStack, SwarmStrategy

__all__ = [
    "Archive",
    "Budget",
    "Evolution",
    "EvolutionCLI",
    "Final",
    "Objective",
    "ParticleStack",
    "SearchSpace",
    "SwarmStrategy",
    "Workers",
    "__version__",
    "export_grown",
    "load_grown",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
