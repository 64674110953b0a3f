"""The results that predictors are trained on: those of one or more searches over the same space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lightning_evo.archive import Archive, ArchiveError, read_space
from lightning_evo.genome import Genome, Objective, SearchSpace, SpaceError

__all__ = ["Results", "load_results"]


@dataclass(frozen=True)
class Results:
    """Genomes with their fitness for one objective, each phenotype once.

    Args:
        space: The search space.
        objective: The objective.
        counts: Number of results by archive.
        genomes: The genomes.
        fitness: In the objective's own units; the mean if a phenotype was trained more than once.
        costs: The costs of each (``params``, ``flops``, ...), as far as they were measured.
        proxies: The zero-cost proxies measured before training, by name.
    """

    space: SearchSpace
    objective: Objective
    counts: Mapping[str, int]
    genomes: list[Genome] = field(default_factory=list)
    fitness: list[float] = field(default_factory=list)
    costs: list[Mapping[str, float]] = field(default_factory=list)
    proxies: list[Mapping[str, float]] = field(default_factory=list)

    @property
    def higher_is_better(self) -> list[float]:
        """The fitness with its sign changed where lower is better."""
        return [value * self.objective.weight for value in self.fitness]


def load_results(locations: Sequence[str | Path], monitor: str | None = None, trust: bool = False) -> Results:
    """Load all completed results with a finite fitness, without duplicates.

    Args:
        locations: Directories, archive files or database URLs of searches, which may still be running.
        monitor: The objective; default: the first.
        trust: Whether to import whatever genes the archives name, though somebody else ran the searches.

    Raises:
        ArchiveError: If an archive can't be read, or its search space can't be restored.
        ValueError: If the searches differ in their space or objectives, or there is no such objective.
    """
    if not locations:
        raise ValueError("locations: give at least one search")
    first, *others = [_open(location, trust) for location in locations]
    objectives, space = first.objectives, first.space
    objective = next((o for o in objectives if monitor in (None, o.monitor)), None)
    if objective is None:
        raise ValueError(
            f"monitor: {first.location} has no objective {monitor!r}; its objectives: {_listed(objectives)}"
        )
    for other in others:
        if other.objectives != objectives:
            raise ValueError(
                f"{other.location} has the objectives {_listed(other.objectives)}, {first.location} has "
                f"{_listed(objectives)}: give searches for the same objectives"
            )
        _check_space(other, first)
    index = objectives.index(objective)
    groups: dict[str, list[_CompletedCandidate]] = {}
    counts = {}
    for each in (first, *others):
        rows = [row for row in each.completed if math.isfinite(row.fitness[index])]
        counts[each.location] = len(rows)
        for row in rows:
            groups.setdefault(space.phenotype(row.genome), []).append(row)
    results = Results(space, objective, counts)
    for group in groups.values():
        results.genomes.append(group[0].genome)
        results.fitness.append(math.fsum(row.fitness[index] for row in group) / len(group))
        results.costs.append(group[0].cost)
        results.proxies.append(group[0].proxies)
    return results


class _CompletedCandidate(NamedTuple):
    """A completed candidate, as far as predictors need it."""

    genome: Genome
    fitness: tuple[float, ...]
    cost: Mapping[str, float]
    proxies: Mapping[str, float]


class _Search(NamedTuple):
    """The contents of one archive."""

    location: str
    space: SearchSpace
    objectives: list[Objective]
    completed: list[_CompletedCandidate]


def _open(location: str | Path, trust: bool) -> _Search:
    with Archive(location) as archive:
        objectives = archive.objectives
        if not objectives:
            raise ArchiveError(f"{location}: the archive has no objectives")
        try:
            space = read_space(archive, trust)
        except ArchiveError as error:
            raise ArchiveError(f"{location}: {error}") from None
        completed = [
            _CompletedCandidate(
                candidate.genome,
                result.fitness,
                result.cost,
                {} if candidate.prediction is None else candidate.prediction.proxies,
            )
            for candidate, result in archive.finished()
            if result.fitness is not None
        ]
    return _Search(str(location), space, objectives, completed)


def _check_space(other: _Search, first: _Search) -> None:
    """Raise ``ValueError`` unless every genome of the other search is in the first one's space."""
    try:
        if set(other.space) != set(first.space):
            missing = sorted(set(first.space) ^ set(other.space))
            raise SpaceError(f"only one of them has {', '.join(missing)}")
        for candidate in other.completed:
            first.space.validate(candidate.genome)
    except SpaceError as error:
        raise ValueError(f"{other.location} and {first.location} have different search spaces: {error}") from None


def _listed(objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{objective.monitor} ({objective.mode})" for objective in objectives)
