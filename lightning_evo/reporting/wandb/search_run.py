"""What does Weights & Biases show of a search itself? One run: where the search stands, and tables of who is in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import wandb
from wandb.errors import Error

from lightning_evo.algorithms.quality import QUALITY
from lightning_evo.archive import Archive
from lightning_evo.genome import COMPLETED, Candidate, Genome, Result, SearchSpace
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, SearchInfo
from lightning_evo.reporting.wandb.service import OpenRun, WandbService
from lightning_evo.reporting.wandb.sweep import plain

__all__ = ["Diversity", "SearchRun"]

SMALLEST = 8
"""Results between two tables at least: an algorithm may have a population of one."""

EXIT_CODES: dict[Outcome, int] = {"finished": 0, "failed": 1, "interrupted": 255}

_log = logging.getLogger(__name__)


class SearchRun:
    """The run of a search, whose step is the number of candidates told.

    Args:
        opened: The run.
        service: Who opened it.
        search: What it is about.
        keys: What genes are called.
        archive: To read what only the archive knows.
    """

    def __init__(
        self, opened: OpenRun, service: WandbService, search: SearchInfo, keys: Mapping[str, str], archive: Archive
    ) -> None:
        self.opened, self._service, self._search, self._keys, self._archive = opened, service, search, keys, archive
        self._monitors = [objective.monitor for objective in search.objectives]
        self._rows: dict[int, dict[str, Any]] = {}
        self._diversity = Diversity(search.space)
        self._worst: list[float] | None = None
        self._volume: tuple[list[tuple[float, ...]], float] = ([], 0.0)
        self._tabled = 0

    # -- events ----------------------------------------------------------------------------------------------------------

    def asked(self, candidate: Candidate) -> None:
        """A candidate was bred."""
        self._diversity.add(candidate)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """A result was recorded; ``state`` counts it."""
        self._rows[candidate.id] = self._row(candidate, result)
        self._see_worst(result, state)
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
            values |= {f"predictor/{name}/error": abs(said - true) for name, said, true in pairs}
        self._log(values, state.told)
        if state.best is not None and state.best.id == candidate.id:
            self._summarise_best(state)
        if state.told - self._tabled >= max(len(state.population), SMALLEST):
            self._tabled = state.told
            self._tables(state)

    def running(self, trainings: Sequence[Any], state: SearchState) -> None:
        """What trains right now."""
        self._log({"slots/busy": len(state.running), "seconds": state.elapsed}, state.told)

    def close(self, state: SearchState, outcome: Outcome) -> int:
        """Write what is left; the exit code that the run ends with."""
        meta = self._archive.meta
        summary: dict[str, Any] = {"outcome": outcome, "candidates": state.asked}
        final = meta.get("final")
        if final is not None and outcome == "finished":
            summary |= {"winner": final["request"]["candidate"], **final.get("metrics", {})}
        summary |= {f"best/{n}": v for n, v in zip(self._monitors, state.best_fitness or (), strict=False)}
        self._summarise_best(state)
        self.opened.run.summary.update(summary)
        if self._rows:
            self._tables(state)
            self._table("lineage", self._lineage(), state.told)
        return EXIT_CODES[outcome]

    # -- what it says ----------------------------------------------------------------------------------------------------

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if step >= self.opened.steps:  # the server has those before by now
            self.opened.run.log(dict(values), step=step)

    def _summarise_best(self, state: SearchState) -> None:
        if state.best is None or state.best_fitness is None:
            return
        # Under the objectives' own names too, where an outer sweep over searches looks for its metric.
        values: dict[str, Any] = dict(zip(self._monitors, state.best_fitness, strict=True))
        genes = {self._keys[path]: plain(value) for path, value in state.best.genome.items()}
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
            **{self._keys[path]: plain(candidate.genome.get(path)) for path in space},
            "origin": candidate.origin,
            "parents": ", ".join(map(str, parents)),
            "changed": ", ".join(self._keys[path] for path in changed),
            "inherits": candidate.inherits,
            "duplicate_of": candidate.duplicate_of,
        }

    def _tables(self, state: SearchState) -> None:
        born = ("parents", "changed", "inherits", "duplicate_of")
        alive = [self._rows[id] for id in sorted(state.population) if id in self._rows]
        self._table("population", [{k: v for k, v in row.items() if k not in born} for row in alive], state.told)
        if len(self._monitors) > 1:
            front = [self._rows[id] for id in self._archive.pareto() if id in self._rows]
            self._table("pareto_front", front, state.told)
        for quality in self._archive.meta.get(QUALITY, [])[-len(self._monitors) :]:
            said = {name: quality[name] for name in ("tau", "r2", "baseline", "results")}
            self._log({f"predictor/{quality['monitor']}/{name}": value for name, value in said.items()}, state.told)

    def _lineage(self) -> list[dict[str, Any]]:
        names = ("candidate", "generation", "parents", "origin", "changed", "inherits", "duplicate_of", "status")
        return [{name: row[name] for name in (*names, *self._monitors)} for _, row in sorted(self._rows.items())]

    def _table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        if not rows or step < self.opened.steps or (self.opened.online and not self._service.reachable()):
            return
        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows], allow_mixed_types=True)
        try:
            self.opened.run.log({name: table}, step=step)
        except (Error, OSError):  # the server went away just now; the next table says it all again
            _log.warning("table %s was not written", name, exc_info=True)

    # -- the Pareto front ------------------------------------------------------------------------------------------------

    def _see_worst(self, result: Result, state: SearchState) -> None:
        """The reference of the hypervolume: the worst values among the first results, which never moves afterwards."""
        if len(self._monitors) < 2 or result.fitness is None or state.told > max(len(state.population), SMALLEST):
            return
        weighted = [o.weight * value for o, value in zip(self._search.objectives, result.fitness, strict=True)]
        if result.status == COMPLETED and all(map(math.isfinite, weighted)):
            self._worst = weighted if self._worst is None else list(map(min, self._worst, weighted))

    def _hypervolume(self, state: SearchState) -> float | None:
        if self._worst is None or not state.front:
            return None
        if self._volume[0] != state.front:
            import moocore

            volume = moocore.hypervolume(-np.array(state.front), ref=-np.array(self._worst))
            self._volume = (list(state.front), float(volume))
        return self._volume[1]


class Diversity:
    """How different genomes are: 0 where all are equal, 1 where all differ as much as they can.

    The distance of two genomes is the mean over their genes: for numbers their distance within the range, for values
    without an order whether they differ.

    Args:
        space: What the genomes are of.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.genomes: dict[int, Genome] = {}
        self._space = space
        # Two different values differ in two columns of ones and zeros; a gene with several numbers is one gene.
        weights = [
            [0.5 if gene.one_hot_width != gene.width else 1 / gene.width] * gene.one_hot_width
            for gene in space.values()
        ]
        self._weights = np.array([each for gene in weights for each in gene]) / len(space)
        self._encoded: dict[int, np.ndarray] = {}

    def add(self, candidate: Candidate) -> None:
        """Know a candidate's genome."""
        self.genomes[candidate.id] = candidate.genome

    def of(self, ids: Sequence[int]) -> float | None:
        """Mean distance of all pairs of these candidates; ``None`` where there is no pair."""
        known = [self._encode(id) for id in ids if id in self.genomes]
        if len(known) < 2:
            return None
        count = len(known)
        columns = np.sort(np.array(known), axis=0)  # (genomes, columns)
        # In order, each value is the larger one of as many pairs as stand before it, and the smaller one of the rest.
        signs = 2 * np.arange(count) - count + 1
        return float((signs @ columns) @ self._weights / (count * (count - 1) / 2))

    def _encode(self, id: int) -> np.ndarray:
        if id not in self._encoded:
            self._encoded[id] = np.array(self._space.encode(self.genomes[id], one_hot=True))
        return self._encoded[id]
