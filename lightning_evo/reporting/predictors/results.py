"""What do predictors learn from? The finished results of one search or several over the same space."""

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
    """Genomes with their fitness by one objective, each phenotype once.

    Args:
        space: What was searched.
        objective: What the fitness is.
        counts: How many results each archive gave, by the place given.
        genomes: What was trained.
        fitness: In the objective's own units; the mean where a phenotype was trained several times.
        costs: What each cost (``params``, ``flops``, ...), as far as measured.
        proxies: The zero-cost proxies that were measured of each before training, by name.
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
        """The fitness as predictors learn it."""
        return [value * self.objective.weight for value in self.fitness]


def load_results(locations: Sequence[str | Path], monitor: str | None = None) -> Results:
    """The completed results with a finite fitness, those answered by others left out.

    Args:
        locations: Directories, archive files or database URLs of searches, running ones included.
        monitor: Which objective; default: the first.

    Raises:
        ArchiveError: If an archive can't be read, or its space can't be built anew.
        ValueError: If they aren't searches of the same space for the same objectives, or there is no such objective.
    """
    if not locations:
        raise ValueError("locations is empty: give at least one search")
    first, *others = [_open(location) for location in locations]
    objectives, space = first.objectives, first.space
    objective = next((o for o in objectives if monitor in (None, o.monitor)), None)
    if objective is None:
        raise ValueError(f"monitor: {monitor!r} is no objective of {first.place}, which optimised {_named(objectives)}")
    for other in others:
        if other.objectives != objectives:
            raise ValueError(
                f"{other.place} optimised {_named(other.objectives)}, {first.place} {_named(objectives)}: "
                "give searches for the same objectives"
            )
        _check_space(other, first)
    index = objectives.index(objective)
    groups: dict[str, list[_Told]] = {}
    counts = {}
    for each in (first, *others):
        rows = [told for told in each.told if math.isfinite(told.fitness[index])]
        counts[each.place] = len(rows)
        for row in rows:
            groups.setdefault(space.phenotype(row.genome), []).append(row)
    results = Results(space, objective, counts)
    for group in groups.values():
        results.genomes.append(group[0].genome)
        results.fitness.append(math.fsum(told.fitness[index] for told in group) / len(group))
        results.costs.append(group[0].cost)
        results.proxies.append(group[0].proxies)
    return results


class _Told(NamedTuple):
    """A completed candidate."""

    genome: Genome
    fitness: tuple[float, ...]
    cost: Mapping[str, float]
    proxies: Mapping[str, float]


class _Search(NamedTuple):
    """What one archive holds."""

    place: str
    space: SearchSpace
    objectives: list[Objective]
    told: list[_Told]


def _open(location: str | Path) -> _Search:
    with Archive(location) as archive:
        objectives = archive.objectives
        if not objectives:
            raise ArchiveError(f"{location}: the archive doesn't say what was optimised")
        try:
            space = read_space(archive)
        except ArchiveError as error:
            raise ArchiveError(f"{location}: {error}") from None
        told = [
            _Told(
                candidate.genome,
                result.fitness,
                result.cost,
                {} if candidate.prediction is None else candidate.prediction.proxies,
            )
            for candidate, result in archive.finished()
            if result.fitness is not None
        ]
    return _Search(str(location), space, objectives, told)


def _check_space(other: _Search, first: _Search) -> None:
    """Raise ``ValueError`` unless every genome of the other search lies in the first one's space."""
    try:
        if set(other.space) != set(first.space):
            missing = sorted(set(first.space) ^ set(other.space))
            raise SpaceError(f"only one of them has {', '.join(missing)}")
        for told in other.told:
            first.space.validate(told.genome)
    except SpaceError as error:
        raise ValueError(f"{other.place} searched another space than {first.place}: {error}") from None


def _named(objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{objective.monitor} ({objective.mode})" for objective in objectives)
