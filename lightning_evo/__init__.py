"""lightning-evo: evolve any LightningModule from the config file it already has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils import __version__
from lightning_evo.utils.earlier_names import install_earlier_modules
from lightning_evo.utils.lazy import lazily
from lightning_evo.utils.one_lightning import install_one_lightning

# Importing torch and Lightning takes seconds; genetics and reading an archive need neither.
_HOMES = {
    "Archive": "archive",
    "Budget": "evolution",
    "Evolution": "evolution",
    "EvolutionCLI": "cli.lightning",
    "Final": "evolution",
    "Objective": "genome",
    "ParticleStack": "swarms",
    "SearchSpace": "genome",
    "SwarmStrategy": "swarms",
    "Workers": "evolution",
    "export_grown": "callbacks.growth.loading",
    "load_grown": "callbacks.growth.loading",
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

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOMES)

install_earlier_modules()
install_one_lightning()
