"""Additions to a search with a predictor: results of earlier searches, measured proxies, records of its quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from lightning_evo.algorithms import Algorithm, Measure, Prior, Quality, SearchSetup
from lightning_evo.algorithms.quality import QualityHistory
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.archive.meta import read_meta
from lightning_evo.evolution.errors import SearchError
from lightning_evo.execution.proxies import ProxyMeter
from lightning_evo.genome import Genome, Objective, SearchSpace, SpaceError
from lightning_evo.reporting.progress import ProgressDisplay
from lightning_evo.training import Trainable
from lightning_evo.utils.signatures import at_argument, constructor_parameters

__all__ = ["PriorResults", "QualityRecord", "check_binding", "load_prior", "make_meter"]


@dataclass(frozen=True)
class PriorResults:
    """The results of earlier searches that a search learns from, copied into its archive's meta values when it begins."""

    key: ClassVar[str] = "prior"

    results: Prior = ()

    def to_dict(self) -> list[list[Any]]:
        """As JSON: ``[genome's values, fitness]`` each."""
        return [[dict(genome), list(fitness)] for genome, fitness in self.results]

    @classmethod
    def from_dict(cls, record: Sequence[Sequence[Any]]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls([(Genome(values), tuple(fitness)) for values, fitness in record])


def load_prior(locations: Sequence[str], space: SearchSpace, objectives: Sequence[Objective]) -> PriorResults:
    """The finished results of earlier searches.

    Raises:
        SearchError: If there is no archive, or it belongs to another space or to other objectives.
    """
    rows: list[tuple[Genome, tuple[float, ...]]] = []
    for i, location in enumerate(locations):
        where = f"evolution.algorithm.prescreen.archives[{i}]: {location}"
        try:
            with Archive(location) as archive:
                if archive.objectives != list(objectives):
                    raise SearchError(f"{where}: it optimised {_named(archive.objectives)}, not {_named(objectives)}")
                for candidate, result in archive.finished():
                    assert result.fitness is not None
                    if all(math.isfinite(value) for value in result.fitness):
                        space.validate(candidate.genome)
                        rows.append((candidate.genome, tuple(result.fitness)))
        except ArchiveError as error:
            raise SearchError(f"{where}: {str(error).removeprefix(f'{location}: ')}") from None
        except SpaceError as error:
            raise SearchError(f"{where}: it searched another space: {error}") from None
    return PriorResults(rows)


def make_meter(
    algorithm: Algorithm, trainable: Trainable, seed: int
) -> AbstractContextManager[ProxyMeter] | AbstractContextManager[None]:
    """Return the meter of the zero-cost proxies that the algorithm's predictor reads; a null context if it reads none."""
    names = required_proxies(algorithm)
    if not names or not trainable.measures_proxies:
        return nullcontext()
    return ProxyMeter(trainable, names, seed)


def required_proxies(algorithm: Algorithm) -> list[str]:
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
        raise SearchError(
            at_argument("evolution.algorithm", str(error), constructor_parameters(type(algorithm)))
        ) from None


class QualityRecord:
    """Records the validations of the predictors, and reports when they are switched on or off.

    Args:
        algorithm: The algorithm that has the predictors.
        writer: Where it is recorded, as :class:`~lightning_evo.algorithms.quality.QualityHistory`.
        archive: The same, to read.
        progress: Where it is reported.
    """

    def __init__(
        self, algorithm: Algorithm, writer: ArchiveWriter, archive: Archive, progress: ProgressDisplay
    ) -> None:
        self._algorithm, self._writer, self._progress = algorithm, writer, progress
        stored = read_meta(archive.meta, QualityHistory) or QualityHistory()
        self._rows: dict[tuple[int, str], Quality] = {(one.results, one.monitor): one for one in stored.validations}
        self._seen = 0
        self._on: bool | None = self._last_reported()
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
            self._rows[quality.results, quality.monitor] = quality
        history = QualityHistory(list(self._rows.values()))
        self._writer.set_meta(history.key, history.to_dict())
        on = all(quality.earned for quality in self._latest(new))
        if on != self._on:
            self._on = on
            self._progress.message(
                f"prescreening {'on' if on else 'off'}: " + "; ".join(map(_described, self._latest(new)))
            )

    def _latest(self, new: Sequence[Quality]) -> list[Quality]:
        return [quality for quality in new if quality.results == new[-1].results]

    def _last_reported(self) -> bool | None:
        if not self._rows:
            return None
        last = max(results for results, _ in self._rows)
        return all(row.earned for (results, _), row in self._rows.items() if results == last)


def _described(quality: Quality) -> str:
    return (
        f"{quality.monitor}: cross-validated Kendall tau {quality.tau:.2f} after {quality.results} results, "
        f"{quality.baseline:.2f} by parameters and FLOPs alone"
    )


def _named(objectives: Sequence[Objective]) -> str:
    return ", ".join(f"{objective.monitor} ({objective.mode})" for objective in objectives) or "nothing"


def _measure_nothing(genomes: Sequence[Genome]) -> list[dict[str, float]]:
    raise AssertionError("nothing is measured while an algorithm is checked")
