"""The W&B run of a search itself: its progress, and tables of the population, the Pareto front and the lineage."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import wandb
from wandb.errors import Error

from lightning_evo.algorithms.quality import QualityHistory
from lightning_evo.archive import Archive
from lightning_evo.archive.meta import FinalOutcome, read_meta
from lightning_evo.genome import COMPLETED, Candidate, Genome, Result, SearchSpace
from lightning_evo.reporting.outgoing import masked_row
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, SearchInfo
from lightning_evo.reporting.wandb.service import OpenRun, WandbService
from lightning_evo.reporting.wandb.sweep import plain_value
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.text import printable_lines, storable_data, traceback_of

__all__ = ["Diversity", "SearchRun"]

MIN_TABLE_INTERVAL = 8
"""Results between two tables at least, whatever the population size: it may be one."""

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "interrupted": 255}

_log = logging.getLogger(__name__)


class SearchRun:
    """The run of a search; its step is the number of results.

    Args:
        opened: The run.
        service: The service that opened it.
        search: The search.
        keys: The genes' keys, by config path.
        archive: The search's archive.
        mask: Masks its secrets.
    """

    def __init__(
        self,
        opened: OpenRun,
        service: WandbService,
        search: SearchInfo,
        keys: Mapping[str, str],
        archive: Archive,
        mask: Mask,
    ) -> None:
        self._mask = mask
        self.opened, self._service, self._search, self._keys, self._archive = opened, service, search, keys, archive
        self._monitors = [objective.monitor for objective in search.objectives]
        self._rows: dict[int, dict[str, Any]] = {}
        self._diversity = Diversity(search.space)
        self._reference_point: list[float] | None = None
        self._volume: tuple[list[tuple[float, ...]], float] = ([], 0.0)
        self._last_table = 0

    def asked(self, candidate: Candidate) -> None:
        """Record a candidate that was bred."""
        self._diversity.add(candidate)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """Log a result, which ``state`` already includes."""
        self._rows[candidate.id] = self._row(candidate, result)
        self._update_reference_point(result, state)
        values: dict[str, Any] = {
            f"candidates/{n}": getattr(state, n) for n in ("completed", "stopped", "failed", "answered")
        }
        values |= {"epochs": state.epochs, "generation": candidate.generation}
        if result.fitness is not None:
            values |= {f"candidate/{name}": value for name, value in zip(self._monitors, result.fitness, strict=True)}
        if state.best_fitness is not None:
            values |= {f"best/{name}": value for name, value in zip(self._monitors, state.best_fitness, strict=True)}
        if (distance := self._diversity.of(state.population)) is not None:
            values["diversity"] = distance
        if len(self._monitors) > 1:
            values["pareto/size"] = len(state.front)
            if (volume := self._hypervolume(state)) is not None:
                values["pareto/hypervolume"] = volume
        if candidate.prediction is not None and result.status == COMPLETED and result.fitness is not None:
            pairs = zip(self._monitors, candidate.prediction.mean, result.fitness, strict=False)
            values |= {f"predictor/{name}/error": abs(predicted - true) for name, predicted, true in pairs}
        self._log(values, state.told)
        if state.best is not None and state.best.id == candidate.id:
            self._update_best(state)
        if state.told - self._last_table >= max(len(state.population), MIN_TABLE_INTERVAL):
            self._last_table = state.told
            self._log_tables(state)

    def running(self, trainings: Sequence[Any], state: SearchState) -> None:
        """Log how many slots are busy, and the time spent."""
        self._log({"slots/busy": len(state.running), "seconds": state.elapsed}, state.told)

    def close(self, state: SearchState, outcome: Outcome) -> int:
        """Write the summary and the last tables; return the exit code of the run."""
        summary: dict[str, Any] = {"outcome": outcome, "candidates": state.asked}
        final = read_meta(self._archive.meta, FinalOutcome)
        if final is not None and outcome == "finished":
            summary |= {"winner": final.request.candidate, **final.metrics}
        summary |= {f"best/{n}": v for n, v in zip(self._monitors, state.best_fitness or (), strict=False)}
        self._update_best(state)
        self.opened.run.summary.update(summary)
        if self._rows:
            self._log_tables(state)
            self._log_table("lineage", self._lineage(), state.told)
        return EXIT_CODES[outcome]

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if step >= self.opened.next_step:  # the server already has the earlier ones
            self.opened.run.log(dict(values), step=step)

    def _update_best(self, state: SearchState) -> None:
        if state.best is None or state.best_fitness is None:
            return
        # Also under the objectives' own names, where an outer sweep over searches looks for its metric.
        values: dict[str, Any] = dict(zip(self._monitors, state.best_fitness, strict=True))
        genes = {self._keys[path]: plain_value(value) for path, value in state.best.genome.items()}
        genes = storable_data(self._mask.data(genes))
        self.opened.run.summary.update({**values, "best/candidate": state.best.id, "best/genes": genes})

    def _row(self, candidate: Candidate, result: Result) -> dict[str, Any]:
        space, parents = self._search.space, candidate.parents
        changed: Sequence[str] = ()
        if parents and parents[0] in self._diversity.genomes:
            changed = space.differences(self._diversity.genomes[parents[0]], candidate.genome)
        return {
            "candidate": candidate.id,
            "generation": candidate.generation,
            "status": result.status,
            **dict(zip(self._monitors, result.fitness or [math.nan] * len(self._monitors), strict=True)),
            **{self._keys[path]: plain_value(candidate.genome.get(path)) for path in space},
            "origin": candidate.origin,
            "parents": ", ".join(map(str, parents)),
            "changed": ", ".join(self._keys[path] for path in changed),
            "inherits": candidate.inherits,
            "duplicate_of": candidate.duplicate_of,
        }

    def _log_tables(self, state: SearchState) -> None:
        descent = ("parents", "changed", "inherits", "duplicate_of")
        population = [self._rows[id] for id in sorted(state.population) if id in self._rows]
        rows = [{key: value for key, value in row.items() if key not in descent} for row in population]
        self._log_table("population", rows, state.told)
        if len(self._monitors) > 1:
            front = [self._rows[id] for id in self._archive.pareto() if id in self._rows]
            self._log_table("pareto_front", front, state.told)
        history = read_meta(self._archive.meta, QualityHistory) or QualityHistory()
        for quality in history.validations[-len(self._monitors) :]:
            scores = {name: getattr(quality, name) for name in ("tau", "r2", "baseline", "results")}
            self._log({f"predictor/{quality.monitor}/{name}": value for name, value in scores.items()}, state.told)

    def _lineage(self) -> list[dict[str, Any]]:
        names = ("candidate", "generation", "parents", "origin", "changed", "inherits", "duplicate_of", "status")
        return [{name: row[name] for name in (*names, *self._monitors)} for _, row in sorted(self._rows.items())]

    def _log_table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        if not rows or step < self.opened.next_step or (self.opened.online and not self._service.reachable()):
            return
        rows = [storable_data(masked_row(row, self._mask)) for row in rows]
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True)
        try:
            self.opened.run.log({name: table}, step=step)
        except (Error, OSError) as error:  # the server has just gone down; the next table includes these rows
            _log.warning("table %s was not written\n%s", name, printable_lines(traceback_of(error)))

    def _update_reference_point(self, result: Result, state: SearchState) -> None:
        """Set the reference point of the hypervolume to the worst values among the first results; then keep it fixed."""
        if (
            len(self._monitors) < 2
            or result.fitness is None
            or state.told > max(len(state.population), MIN_TABLE_INTERVAL)
        ):
            return
        weighted = [o.weight * value for o, value in zip(self._search.objectives, result.fitness, strict=True)]
        if result.status == COMPLETED and all(map(math.isfinite, weighted)):
            point = self._reference_point
            self._reference_point = weighted if point is None else list(map(min, point, weighted))

    def _hypervolume(self, state: SearchState) -> float | None:
        if self._reference_point is None or not state.front:
            return None
        if self._volume[0] != state.front:
            import moocore

            volume = moocore.hypervolume(-np.array(state.front), ref=-np.array(self._reference_point))
            self._volume = (list(state.front), float(volume))
        return self._volume[1]


class Diversity:
    """Mean distance between genomes: 0 where all are equal, 1 where all differ as much as possible.

    The distance between two genomes is the mean over their genes: for numbers their distance relative to the range, for
    unordered values whether they differ.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.genomes: dict[int, Genome] = {}
        self._space = space
        # Two different values differ in two one-hot columns; a gene with several numbers counts as one gene.
        weights = [
            [0.5 if gene.one_hot_width != gene.width else 1 / gene.width] * gene.one_hot_width
            for gene in space.values()
        ]
        self._weights = np.array([each for gene in weights for each in gene]) / len(space)
        self._encoded: dict[int, np.ndarray] = {}

    def add(self, candidate: Candidate) -> None:
        """Add a candidate's genome."""
        self.genomes[candidate.id] = candidate.genome

    def of(self, ids: Sequence[int]) -> float | None:
        """Mean distance over all pairs of these candidates; ``None`` if there are fewer than two."""
        encoded = [self._encode(id) for id in ids if id in self.genomes]
        if len(encoded) < 2:
            return None
        count = len(encoded)
        columns = np.sort(np.array(encoded), axis=0)  # (genomes, columns)
        # In a sorted column, value i is the larger one of i pairs and the smaller one of the others.
        signs = 2 * np.arange(count) - count + 1
        return float((signs @ columns) @ self._weights / (count * (count - 1) / 2))

    def _encode(self, id: int) -> np.ndarray:
        if id not in self._encoded:
            self._encoded[id] = np.array(self._space.encode(self.genomes[id], one_hot=True))
        return self._encoded[id]
