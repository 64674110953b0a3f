"""A run as an Optuna study: its candidates are the trials, in a journal file that Optuna's tools open."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive, ArchiveError
from lightning_evo.archive.description import is_own_search, space_from
from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.genome import (
    COMPLETED,
    STOPPED,
    Boolean,
    Candidate,
    Categorical,
    Gene,
    Integer,
    LogUniform,
    Objective,
    Ordinal,
    Result,
    Uniform,
)
from lightning_evo.genome.names import short_names
from lightning_evo.genome.records import position_of
from lightning_evo.reporting.exports.contents import candidates_and_results
from lightning_evo.reporting.outgoing import mask_of
from lightning_evo.reporting.output_file import check_output, output_file

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState, create_trial
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"--optuna: requires Optuna, which is not installed ({missing}): pip install 'lightning-evo[optuna]'"
    ) from None

__all__ = ["export_optuna"]


def export_optuna(
    location: str | Path, to: str | Path, run: str | None = None, overwrite: bool = False, trust: bool = False
) -> Path:
    """Write a run as an Optuna study. The search may still be running.

    ``optuna-dashboard FILE`` opens the file, and ``optuna.load_study(study_name=<the run's name>,
    storage=JournalStorage(JournalFileBackend(FILE)))`` reads it. Each candidate is a trial whose number is the
    candidate's id. Its parameters are its active genes under their short names (the study's user attribute ``genes`` has
    the config paths); their distributions come from the search space:

    - ``Integer``, ``Uniform`` and ``LogUniform``: Optuna's integer and float distributions, with their step and scale.
    - ``Boolean``, ``Categorical`` and ``Ordinal``: categorical; a choice that is a mapping or list becomes JSON text.
    - Any other gene (layers, bit strings, growth steps, custom genes) has no distribution in Optuna: its value is the
      trial's user attribute ``gene/NAME``, as JSON unless it is a text.

    A completed candidate is ``COMPLETE``; one that was stopped early is ``PRUNED``, with the predicted fitness as its
    value; a failed one is ``FAIL``, and so is one with a NaN fitness, which Optuna allows in no complete trial; a pending
    one is ``RUNNING``. The intermediate values are those of the first objective per epoch.
    User attributes: ``parents``, ``generation``, ``origin``,
    ``inherits``, ``duplicate_of``, ``slot``, ``error_type``, ``cost/...``, ``metrics/...`` and ``predicted/...``.

    Args:
        location: The run's directory, an archive file or a database URL.
        to: The file to write.
        run: Which run, where a database holds several.
        overwrite: Whether an existing file may be replaced.
        trust: Whether to import whatever genes the archive names, though somebody else ran the search.

    Returns:
        The file.

    Raises:
        ArchiveError: If the archive can't be read, or has no search space or no objectives.
        ValueError: If the file can't be written or already exists.
    """
    to = Path(to)
    check_output(to, "--optuna", overwrite)
    with Archive(location, run) as archive:
        objectives = archive.objectives
        if not objectives:
            raise ArchiveError(f"{location}: the archive has no objectives")
        mask = mask_of(archive)
        meta = mask.data(archive.meta)
        described = (read_meta(meta, SearchDescription) or SearchDescription()).space
        genes = _Genes(space_from(described, archive.run, trust or is_own_search(archive.meta)))
        candidates, results = candidates_and_results(archive, mask)
        queued = {row["id"]: row["queued"] for row in archive.candidates()}
        name = archive.run
    backend = _InMemory()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # "A new study created in Journal"
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=name,
            directions=["maximize" if objective.mode == "max" else "minimize" for objective in objectives],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective.monitor for objective in objectives])
        for key, value in _about(meta, genes).items():
            study.set_user_attr(key, value)
        study.add_trials(
            _trial(candidates[id], results.get(id), queued[id], genes, objectives) for id in sorted(candidates)
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    with output_file(to, "--optuna", overwrite) as part:
        # All at once: a file that grows trial by trial is synced to disk, and read back, for every trial.
        JournalFileBackend(str(part), _NoLock(str(part))).append_logs(backend.logs)
    return to


class _NoLock(JournalFileOpenLock):
    """No lock: nobody else writes the temporary file, and the lock's own file would outlive a kill."""

    def acquire(self) -> bool:
        """Do nothing."""
        return True

    def release(self) -> None:
        """Do nothing."""


class _InMemory(BaseJournalBackend):
    """A journal backend that keeps the log in memory: reading is free, however many trials there are."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Return the log from this entry on."""
        return iter(self.logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append to the log."""
        self.logs += logs


class _Genes:
    """The genes of a space as Optuna's parameters and user attributes."""

    def __init__(self, space: Mapping[str, Gene]) -> None:
        self.names = short_names(list(space))
        self._parameters = {path: _parameter(gene) for path, gene in space.items()}

    def parameters(self, genome: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """The parameters of a genome by name, and their distributions."""
        values, distributions = {}, {}
        for path, value in genome.items():
            parameter = self._parameters[path]
            if parameter is not None:
                name, (distributions[self.names[path]], shown) = self.names[path], parameter
                values[name] = shown(value)
        return values, distributions

    def others(self, genome: Mapping[str, Any]) -> dict[str, str]:
        """The genes without a distribution in Optuna, as user attributes."""
        return {
            f"gene/{self.names[path]}": value if isinstance(value, str) else json.dumps(value)
            for path, value in genome.items()
            if self._parameters[path] is None
        }


def _parameter(gene: Gene) -> tuple[BaseDistribution, Callable[[Any], Any]] | None:
    """A gene's distribution and the conversion of its values; by its exact class, as a subclass may have other values."""
    if type(gene) is Integer:
        return IntDistribution(gene.low, gene.high, log=gene.log, step=1 if gene.log else gene.step), int
    if type(gene) in (Uniform, LogUniform):
        assert isinstance(gene, Uniform)
        log = type(gene) is LogUniform  # which Optuna has without steps
        return FloatDistribution(gene.low, gene.high, log=log, step=None if log else gene.step), float
    if type(gene) is Boolean:
        return CategoricalDistribution([False, True]), bool
    if type(gene) in (Categorical, Ordinal):
        assert isinstance(gene, (Categorical, Ordinal))
        choices = [_choice(choice) for choice in gene.choices]
        if len(set(choices)) == len(choices):
            return CategoricalDistribution(choices), _choice
        return CategoricalDistribution([json.dumps(choice) for choice in gene.choices]), json.dumps  # 1 and true
    return None


def _choice(value: Any) -> Any:
    """A choice as a value that Optuna can store."""
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _about(meta: Mapping[str, Any], genes: _Genes) -> dict[str, Any]:
    """User attributes of the study."""
    algorithm = (read_meta(meta, SearchDescription) or SearchDescription()).algorithm
    return {
        "genes": {name: path for path, name in genes.names.items()},
        **({"algorithm": algorithm} if algorithm else {}),
        **{key: meta[key] for key in ("seed", "version") if key in meta},
    }


def _trial(
    candidate: Candidate, result: Result | None, queued: float, genes: _Genes, objectives: Sequence[Objective]
) -> FrozenTrial:
    params, distributions = genes.parameters(candidate.genome)
    fitness = None if result is None else result.fitness
    if fitness is not None and any(math.isnan(value) for value in fitness):
        fitness = None
    state = TrialState.RUNNING
    if result is not None:
        ended_well = {COMPLETED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}
        state = TrialState.FAIL if fitness is None else ended_well.get(result.status, TrialState.FAIL)
    trial = create_trial(
        state=state,
        values=None if state == TrialState.FAIL or fitness is None else list(fitness),
        params=params,
        distributions=distributions,
        user_attrs=_attributes(candidate, result, objectives) | genes.others(candidate.genome),
        intermediate_values=_intermediate(result, objectives[0]),
    )
    # create_trial sets the current time.
    trial.datetime_start = _moment(queued if result is None or result.started is None else result.started)
    if result is not None:
        trial.datetime_complete = trial.datetime_start if result.ended is None else _moment(result.ended)
    return trial


def _moment(seconds: float) -> datetime:
    """Optuna's times are naive and local."""
    return datetime.fromtimestamp(seconds)


def _attributes(candidate: Candidate, result: Result | None, objectives: Sequence[Objective]) -> dict[str, Any]:
    """User attributes of a trial."""
    about: dict[str, Any] = {
        "parents": list(candidate.parents),
        "generation": candidate.generation,
        "origin": candidate.origin,
        "inherits": candidate.inherits,
        "duplicate_of": candidate.duplicate_of,
    }
    if candidate.prediction is not None:
        means = zip(objectives, candidate.prediction.mean, strict=False)  # empty where it has only proxies
        about |= {f"predicted/{objective.monitor}": mean for objective, mean in means}
    if result is not None:
        about |= {"slot": result.slot, "error_type": result.error_type}
        about |= {f"cost/{name}": value for name, value in result.cost.items()}
        about |= {f"metrics/{name}": value for name, value in result.metrics.items()}
    return {name: value for name, value in about.items() if value is not None}


def _intermediate(result: Result | None, objective: Objective) -> dict[int, float]:
    curve = () if result is None else result.curve
    return {position_of(point): point[objective.monitor] for point in curve if objective.monitor in point}
