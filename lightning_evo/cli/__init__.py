"""What does the user type? ``lightning-evo fit``, and commands that read what a search has left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_evo.cli.main import main

if TYPE_CHECKING:
    from lightning_evo.cli.lightning import EvolutionCLI

__all__ = ["EvolutionCLI", "main"]


def __getattr__(name: str) -> Any:
    # Importing Lightning takes seconds, which commands that only read an archive need not spend.
    if name == "EvolutionCLI":
        from lightning_evo.cli.lightning import EvolutionCLI

        return EvolutionCLI
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
