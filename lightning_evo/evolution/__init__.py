"""A search from the first ask to the last result."""

from lightning_evo.evolution.errors import SearchError, SearchInterrupted
from lightning_evo.evolution.evolution import Evolution
from lightning_evo.evolution.settings import Budget, Final, Workers

__all__ = ["Budget", "Evolution", "Final", "SearchError", "SearchInterrupted", "Workers"]
