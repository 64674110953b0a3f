"""How is a search watched in TensorBoard? As scalars of every candidate and of the search, and in the HParams plugin."""

from __future__ import annotations

import importlib
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.genome.names import short_names
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, Reporter, ReporterError, SearchInfo, Training
from lightning_evo.training.candidate import COSTS

if TYPE_CHECKING:
    from lightning_evo.reporting.tensorboard.files import EventFile, Hyperparameter

__all__ = ["TensorBoardReporter"]

RECENT = 50
"""Over how many results that came last the quartiles of the fitness are taken."""

GENERATION = "candidate/generation"
"""The column of the HParams plugin that no gene can have."""


class TensorBoardReporter(Reporter):
    """Writes a search for TensorBoard, while it runs: ``tensorboard --logdir DIRECTORY/tensorboard``.

    Below the run's directory, in ``tensorboard/``:

    - ``candidates/000012/``, an event file for each candidate: every metric per epoch (step: the epoch, wall time: when
      it was seen or, where nobody looked, evenly between the training's beginning and end); at the end
      ``fitness/MONITOR`` for each objective and ``cost/NAME``.
    - ``search/``, with the number of candidates told as step: ``best/MONITOR``; ``recent/MONITOR/quantile_0.25`` (0.5, 0.75)
      of the 50 results that came last; ``candidates/completed`` (``stopped``, ``failed``, ``answered``,
      ``training``: how many were in training when this one ended, itself included); ``epochs`` over all;
      ``pareto_front/size`` where there are several objectives.

    In the HParams plugin's table and parallel coordinates each candidate is a session: its genes under short names and
    its generation are the hyperparameters, fitness and costs the metrics, and it succeeded or failed (a candidate that
    was stopped early has succeeded; its fitness is the predicted one).

    A continued search writes all files anew. The extra ``tensorboard`` has what it needs; TensorFlow isn't needed.

    Example:
        >>> reporter = TensorBoardReporter()  # Evolution(..., reporters=[reporter])
        >>> reporter.check()
    """

    def check(self) -> None:
        try:
            importlib.import_module("lightning_evo.reporting.tensorboard.files")
        except ImportError as error:
            raise ReporterError(
                f"TensorBoard is not installed ({error}); pip install 'lightning-evo[tensorboard]'"
            ) from None

    def start(self, search: SearchInfo) -> None:
        from lightning_evo.reporting.tensorboard import files

        self._root = search.directory / "tensorboard"
        files.retire_event_files(self._root / "search", *(self._root / "candidates").glob("*"))
        self._monitors = [objective.monitor for objective in search.objectives]
        names = short_names(list(search.space), taken=["generation", *self._monitors])
        self._genes = [files.Hyperparameter(path, gene, names[path]) for path, gene in search.space.items()]
        self._sessions: dict[int, _Session] = {}
        self._recent: deque[tuple[float, ...]] = deque(maxlen=RECENT)
        now = time.time()
        self._search = files.EventFile(self._root / "search", now)
        generation = files.describe_generation(GENERATION)
        measured = COSTS if search.config is not None else ("seconds",)
        metrics = {f"fitness/{monitor}": monitor for monitor in self._monitors}
        metrics |= {tag: tag for name in measured if (tag := f"cost/{name}") not in self._monitors}
        description = f"{search.name}: {search.algorithm}, seed {search.seed}"
        columns = [*(gene.describe() for gene in self._genes), generation]
        self._search.add(files.describe_experiment(description, columns, metrics, now), 0, now)
        self._search.flush()

    def running(self, trainings: Sequence[Training], state: SearchState) -> None:
        now = time.time()
        for training in trainings:
            session = self._session(training.candidate, now)
            session.follow(training.curve, now)
            session.file.flush()

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        ended = result.ended or time.time()
        session = self._session(candidate, result.started or ended)
        del self._sessions[candidate.id]
        session.follow(result.curve, ended)
        session.end(result, self._monitors, ended)
        self._account(candidate, result, state, ended)

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        for session in self._sessions.values():
            session.file.flush()  # interrupted in training: the row has no end, until the search continues
        self._search.flush()

    def _session(self, candidate: Candidate, started: float) -> _Session:
        if candidate.id not in self._sessions:
            directory = self._root / "candidates" / f"{candidate.id:06d}"
            self._sessions[candidate.id] = _Session(directory, candidate, self._genes, started)
        return self._sessions[candidate.id]

    def _account(self, candidate: Candidate, result: Result, state: SearchState, now: float) -> None:
        """Say where the search stands with this result."""
        counted = ("completed", "stopped", "failed", "answered")
        scalars: dict[str, float] = {f"candidates/{name}": getattr(state, name) for name in counted}
        scalars["epochs"] = state.epochs
        if candidate.duplicate_of is None:
            scalars["candidates/training"] = state.asked - state.told + 1
            if result.fitness is not None and all(map(math.isfinite, result.fitness)):
                self._recent.append(result.fitness)
        if state.best_fitness is not None:
            scalars |= {f"best/{m}": value for m, value in zip(self._monitors, state.best_fitness, strict=True)}
        if len(self._monitors) > 1:
            scalars["pareto_front/size"] = len(state.front)
        if self._recent:
            quartiles = np.quantile(np.array(self._recent), (0.25, 0.5, 0.75), axis=0)  # (3, objectives)
            for share, values in zip((0.25, 0.5, 0.75), quartiles.tolist(), strict=True):
                scalars |= {f"recent/{m}/quantile_{share}": v for m, v in zip(self._monitors, values, strict=True)}
        self._search.add_scalars(scalars, state.told, now)
        self._search.flush()


class _Session:
    """One candidate's event file, and what of its curve is in it."""

    def __init__(self, directory: Path, candidate: Candidate, genes: Sequence[Hyperparameter], started: float) -> None:
        self._directory, self._started = directory, started
        genome = candidate.genome
        self._values = {gene.path: gene.value(genome[gene.path]) for gene in genes if gene.path in genome}
        self._values[GENERATION] = candidate.generation
        self._begin()

    def _begin(self) -> None:
        from lightning_evo.reporting.tensorboard import files

        self.file: EventFile = files.EventFile(self._directory, self._started)
        self.file.add(files.session_start(self._values, self._started), 0, self._started)
        self._written: list[Mapping[str, float]] = []
        self._seen = self._started

    def _begin_again(self) -> None:
        from lightning_evo.reporting.tensorboard import files

        files.retire_event_files(self._directory)
        self._begin()

    def follow(self, curve: Sequence[Mapping[str, float]], now: float) -> None:
        """Write what is new of a curve, spread evenly over the time since the last look."""
        written = len(self._written)
        if repr(list(curve[:written])) != repr(self._written):  # NaN equals itself here
            # A worker died, and the candidate began again.
            self._begin_again()
            written = 0
        fresh = curve[written:]
        for i, point in enumerate(fresh, 1):
            when = self._seen + (now - self._seen) * i / len(fresh)
            self.file.add_scalars({k: v for k, v in point.items() if k != "epoch"}, int(point["epoch"]), when)
        if fresh:
            self._written, self._seen = list(curve), now

    def end(self, result: Result, monitors: Sequence[str], now: float) -> None:
        """Write what came of it."""
        from lightning_evo.reporting.tensorboard import files

        values: dict[str, Any] = {f"cost/{name}": value for name, value in result.cost.items()}
        if result.status != FAILED and result.fitness is not None:
            values |= {f"fitness/{m}": value for m, value in zip(monitors, result.fitness, strict=True)}
        step = int(self._written[-1]["epoch"]) if self._written else 0
        # The plugin's table knows no NaN: a number that isn't there is an empty cell.
        self.file.add_scalars({tag: v for tag, v in values.items() if math.isfinite(v)}, step, now)
        self.file.add(files.session_end(result.status, now), step, now)
        self.file.flush()
