"""The TensorBoard reporter: scalars of every candidate and of the search, and sessions of the HParams plugin."""

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
from lightning_evo.genome.records import POSITION, position_of
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import ActiveTraining, Outcome, Reporter, ReporterError, SearchInfo
from lightning_evo.training.candidate import COSTS
from lightning_evo.utils.masking import Mask

if TYPE_CHECKING:  # imports tensorboard, an optional dependency
    from lightning_evo.reporting.tensorboard.files import EventFile, Hyperparameter

__all__ = ["TensorBoardReporter"]

WINDOW = 50
"""Number of latest results over which the quartiles of the fitness are taken."""

GENERATION = "candidate/generation"
"""Name of the generation's column in the HParams plugin, which no gene can have."""


class TensorBoardReporter(Reporter):
    """Write a search for TensorBoard while it runs; open it with ``tensorboard --logdir DIRECTORY/tensorboard``.

    In ``tensorboard/`` in the run's directory:

    - ``candidates/000012/``, an event file per candidate: every metric per epoch (step: the epoch; wall time: when it was
      first seen, or evenly spaced between the start and end of the training); at the end ``fitness/MONITOR`` for each
      objective and ``cost/NAME``.
    - ``search/``, with the number of results as the step: ``best/MONITOR``; ``recent/MONITOR/quantile_0.25`` (0.5, 0.75) of
      the latest 50 results; ``candidates/completed`` (``stopped``, ``failed``, ``answered``: duplicates, ``training``: how
      many were in training when this one ended, including itself); ``epochs`` in total; ``pareto_front/size`` where there
      are several objectives.

    In the HParams plugin's table and parallel coordinates each candidate is a session: its genes, under short names, and
    its generation are the hyperparameters; fitness and costs are the metrics. A candidate that was stopped early counts
    as a success, with the predicted fitness.

    A resumed search writes all files again. Install the extra ``tensorboard``; TensorFlow isn't needed.

    Example:
        >>> reporter = TensorBoardReporter()  # Evolution(..., reporters=[reporter])
        >>> reporter.check()
    """

    def check(self) -> None:
        try:
            importlib.import_module("lightning_evo.reporting.tensorboard.files")
        except ImportError as error:
            raise ReporterError(
                f"TensorBoard is not installed ({error}): pip install 'lightning-evo[tensorboard]'"
            ) from None

    def start(self, search: SearchInfo) -> None:
        from lightning_evo.reporting.tensorboard import files

        self._root = search.directory / "tensorboard"
        files.retire_event_files(self._root / "search", *(self._root / "candidates").glob("*"))
        self._monitors = [objective.monitor for objective in search.objectives]
        names = short_names(list(search.space), taken=["generation", *self._monitors])
        mask = search.mask or Mask(search.description, search.config)
        self._genes = [files.Hyperparameter(path, gene, names[path], mask) for path, gene in search.space.items()]
        self._sessions: dict[int, _Session] = {}
        self._recent: deque[tuple[float, ...]] = deque(maxlen=WINDOW)
        now = time.time()
        self._search = files.EventFile(self._root / "search", now)
        generation = files.describe_generation(GENERATION)
        costs = COSTS if search.config is not None else ("seconds",)
        metrics = {f"fitness/{monitor}": monitor for monitor in self._monitors}
        metrics |= {tag: tag for name in costs if (tag := f"cost/{name}") not in self._monitors}
        description = f"{search.name}: {search.algorithm}, seed {search.seed}"
        columns = [*(gene.describe() for gene in self._genes), generation]
        self._search.add(files.describe_experiment(description, columns, metrics, now), 0, now)
        self._search.flush()

    def running(self, trainings: Sequence[ActiveTraining], state: SearchState) -> None:
        now = time.time()
        for training in trainings:
            session = self._session(training.candidate, now)
            session.add_curve(training.curve, now)
            session.file.flush()

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        ended = result.ended or time.time()
        session = self._session(candidate, result.started or ended)
        del self._sessions[candidate.id]
        session.add_curve(result.curve, ended)
        session.end(result, self._monitors, ended)
        self._log_state(candidate, result, state, ended)

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        for session in self._sessions.values():
            session.file.flush()  # interrupted in training: the session ends when the search resumes
        self._search.flush()

    def _session(self, candidate: Candidate, started: float) -> _Session:
        if candidate.id not in self._sessions:
            directory = self._root / "candidates" / f"{candidate.id:06d}"
            self._sessions[candidate.id] = _Session(directory, candidate, self._genes, started)
        return self._sessions[candidate.id]

    def _log_state(self, candidate: Candidate, result: Result, state: SearchState, now: float) -> None:
        """Log the state of the search after this result."""
        counts = ("completed", "stopped", "failed", "answered")
        scalars: dict[str, float] = {f"candidates/{name}": getattr(state, name) for name in counts}
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
    """One candidate's event file, and the part of its curve that has been written."""

    def __init__(self, directory: Path, candidate: Candidate, genes: Sequence[Hyperparameter], started: float) -> None:
        self._directory, self._started = directory, started
        genome = candidate.genome
        self._values = {gene.path: gene.value(genome[gene.path]) for gene in genes if gene.path in genome}
        self._values[GENERATION] = candidate.generation
        self._start()

    def _start(self) -> None:
        from lightning_evo.reporting.tensorboard import files

        self.file: EventFile = files.EventFile(self._directory, self._started)
        self.file.add(files.session_start(self._values, self._started), 0, self._started)
        self._written: list[Mapping[str, float]] = []
        self._seen = self._started

    def _restart(self) -> None:
        from lightning_evo.reporting.tensorboard import files

        files.retire_event_files(self._directory)
        self._start()

    def add_curve(self, curve: Sequence[Mapping[str, float]], now: float) -> None:
        """Write the new points of a curve, spread evenly over the time since the last call."""
        written = len(self._written)
        if repr(list(curve[:written])) != repr(self._written):  # as texts, NaN equals itself
            # The worker died and the candidate was started again.
            self._restart()
            written = 0
        fresh = curve[written:]
        for i, point in enumerate(fresh, 1):
            when = self._seen + (now - self._seen) * i / len(fresh)
            self.file.add_scalars({k: v for k, v in point.items() if k not in POSITION}, position_of(point), when)
        if fresh:
            self._written, self._seen = list(curve), now

    def end(self, result: Result, monitors: Sequence[str], now: float) -> None:
        """Write fitness and costs, and end the session."""
        from lightning_evo.reporting.tensorboard import files

        values: dict[str, Any] = {f"cost/{name}": value for name, value in result.cost.items()}
        if result.status != FAILED and result.fitness is not None:
            values |= {f"fitness/{m}": value for m, value in zip(monitors, result.fitness, strict=True)}
        step = position_of(self._written[-1]) if self._written else 0
        # The plugin's table has no NaN: a missing number is an empty cell.
        self.file.add_scalars({tag: v for tag, v in values.items() if math.isfinite(v)}, step, now)
        self.file.add(files.session_end(result.status, now), step, now)
        self.file.flush()
