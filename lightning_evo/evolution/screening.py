"""What a search with a predictor needs besides: results of earlier searches, measured proxies, records of its quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning_evo.algorithms import Algorithm, Measure, Prior, Quality, SearchSetup
from lightning_evo.algorithms.quality import QUALITY
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.evolution.errors import SearchError
from lightning_evo.execution.proxies import ProxyMeter
from lightning_evo.genome import Genome, Objective, SearchSpace, SpaceError
from lightning_evo.reporting.progress import ProgressDisplay
from lightning_evo.training import Trainable

__all__ = ["PRIOR", "QualityRecord", "check_binding", "load_prior", "make_meter", "stored_prior"]

PRIOR = "prior"
"""The key of the archive's meta values under which the results of earlier searches stand, copied when a search begins."""


def load_prior(locations: Sequence[str], space: SearchSpace, objectives: Sequence[Objective]) -> list[list[Any]]:
    """The finished results of earlier searches as JSON: ``[genome's values, fitness]`` each.

    Raises:
        SearchError: If there is no archive, or it belongs to another space or to other objectives.
    """
    rows: list[list[Any]] = []
    for i, location in enumerate(locations):
        where = f"evolution.algorithm: archives[{i}] {location}"
        try:
            with Archive(location) as archive:
                if archive.objectives != list(objectives):
                    raise SearchError(f"{where}: it optimised {_named(archive.objectives)}, not {_named(objectives)}")
                for candidate, result in archive.finished():
                    assert result.fitness is not None
                    if all(math.isfinite(value) for value in result.fitness):
                        space.validate(candidate.genome)
                        rows.append([dict(candidate.genome), list(result.fitness)])
        except ArchiveError as error:
            raise SearchError(f"{where}: {str(error).removeprefix(f'{location}: ')}") from None
        except SpaceError as error:
            raise SearchError(f"{where}: it searched another space: {error}") from None
    return rows


def stored_prior(meta: dict[str, Any]) -> Prior:
    """What :func:`load_prior` found when the search began."""
    return [(Genome(values), tuple(fitness)) for values, fitness in meta.get(PRIOR, [])]


def make_meter(
    algorithm: Algorithm, trainable: Trainable, seed: int
) -> AbstractContextManager[ProxyMeter] | AbstractContextManager[None]:
    """What measures the zero-cost proxies that the algorithm's predictor wants; nothing where it wants none."""
    names = wanted_proxies(algorithm)
    if not names or not trainable.measures_proxies:
        return nullcontext()
    return ProxyMeter(trainable, names, seed)


def wanted_proxies(algorithm: Algorithm) -> list[str]:
    """Names of the zero-cost proxies that the algorithm's predictor reads."""
    return [] if algorithm.prescreen is None else list(algorithm.prescreen.predictor.proxies)


def check_binding(
    algorithm: Algorithm, space: SearchSpace, objectives: Sequence[Objective], trainable: Trainable
) -> None:
    """Raise :class:`SearchError` if the algorithm, or its predictor, can do nothing with the space."""
    measure: Measure | None = _measure_nothing if trainable.measures_proxies else None
    try:
        algorithm.bind(SearchSetup(space, objectives, measure=measure))
    except ValueError as error:
        raise SearchError(f"evolution.algorithm: {error}") from None


class QualityRecord:
    """Records what validations said of the predictors, and says when they are switched on or off.

    Args:
        algorithm: Whose predictors they are.
        writer: Where it is recorded, under :data:`QUALITY`.
        archive: The same, to read.
        progress: Where it is said.
    """

    def __init__(
        self, algorithm: Algorithm, writer: ArchiveWriter, archive: Archive, progress: ProgressDisplay
    ) -> None:
        self._algorithm, self._writer, self._progress = algorithm, writer, progress
        self._rows: dict[tuple[int, str], dict[str, Any]] = {
            (row["results"], row["monitor"]): row for row in archive.meta.get(QUALITY, [])
        }
        self._seen = 0
        self._on: bool | None = self._last_said()
        screen = algorithm.screen
        if screen is not None and not self._rows and not algorithm.setup.prior:
            progress.message(
                f"prescreening: candidates are unfiltered until {screen.needs} have ended, which the predictor needs"
            )

    def look(self) -> None:
        """Take in what was validated since the last look."""
        new = self._algorithm.predictor_quality[self._seen :]
        if not new:
            return
        self._seen += len(new)
        for quality in new:
            self._rows[quality.results, quality.monitor] = quality.to_dict()
        self._writer.set_meta(QUALITY, list(self._rows.values()))
        on = all(quality.earned for quality in self._latest(new))
        if on != self._on:
            self._on = on
            self._progress.message(f"prescreening {'on' if on else 'off'}: " + "; ".join(map(_said, self._latest(new))))

    def _latest(self, new: Sequence[Quality]) -> list[Quality]:
        return [quality for quality in new if quality.results == new[-1].results]

    def _last_said(self) -> bool | None:
        if not self._rows:
            return None
        last = max(results for results, _ in self._rows)
        return all(row["earned"] for (results, _), row in self._rows.items() if results == last)


def _said(quality: Quality) -> str:
    return (
        f"{quality.monitor}: cross-validated Kendall tau {quality.tau:.2f} after {quality.results} results, "
        f"{quality.baseline:.2f} by parameters and FLOPs alone"
    )


def _named(objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{objective.monitor} ({objective.mode})" for objective in objectives) or "nothing"


def _measure_nothing(genomes: Sequence[Genome]) -> list[dict[str, float]]:
    raise AssertionError("nothing is measured while an algorithm is checked")
