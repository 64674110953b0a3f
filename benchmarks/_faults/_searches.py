"""Searches that cost milliseconds: a function of two numbers, evaluated in a thread of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import Algorithm, RegularizedEvolution
from lightning_evo.archive import Archive
from lightning_evo.genome import Categorical, Genome, Uniform

__all__ = ["COMPARED", "evaluate", "rows_of", "search"]

COMPARED = ("id", "status", "value", "x", "y", "parents", "generation", "seed", "origin", "inherits", "duplicate_of")
"""The columns that decide whether two searches are the same."""


def evaluate(genome: Genome, seed: int, directory: str) -> dict[str, float]:
    """A hill whose top is at x = 0.7, y = b."""
    return {"value": 1.0 - (genome["x"] - 0.7) ** 2 - 0.1 * "bac".index(genome["y"])}


def search(
    directory: Path,
    candidates: int = 12,
    algorithm: Algorithm | None = None,
    function: Callable[..., Mapping[str, float]] = evaluate,
    **settings: Any,
) -> Archive:
    """Run a search (or continue it) on one slot; returns its archive, to be closed."""
    with ThreadPoolExecutor(1) as threads:
        return Evolution(
            function=function,
            space={"x": Uniform(0.0, 1.0), "y": Categorical(["a", "b", "c"])},
            algorithm=algorithm or RegularizedEvolution(population_size=5, tournament_size=2),
            objectives=[Objective("value")],
            budget=Budget(candidates=candidates),
            workers=Workers(slots=1),
            directory=directory,
            seed=1,
            executor=threads,
            **{"progress": False, **settings},
        ).run()


def rows_of(directory: Path) -> list[tuple[Any, ...]]:
    """What a search recorded of each candidate, as far as it is the same every time."""
    with Archive(directory) as archive:
        return [tuple(repr(row.get(name)) for name in COMPARED) for row in archive.candidates()]
