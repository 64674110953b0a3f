"""The command line: ``lightning-evo fit``, and commands that read what a search has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_evo.cli.main import main

if TYPE_CHECKING:
    from lightning_evo.cli.lightning import EvolutionCLI

__all__ = ["EvolutionCLI", "main"]


def __getattr__(name: str) -> Any:
    # Importing Lightning takes seconds; commands that only read an archive don't need it.
    if name == "EvolutionCLI":
        from lightning_evo.cli.lightning import EvolutionCLI

        return EvolutionCLI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
