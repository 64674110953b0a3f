"""The Weights & Biases reporter: each candidate is a run of one sweep, and the search has one more run."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import yaml

from lightning_evo.archive import Archive
from lightning_evo.archive.meta import RetriedRecord, read_meta
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.genome.records import POSITION, position_of
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import ActiveTraining, Outcome, Reporter, ReporterError, SearchInfo
from lightning_evo.reporting.wandb.state import SWEEP_FILE, WandbState, search_token
from lightning_evo.reporting.wandb.sweep import (
    candidate_config,
    gene_keys,
    run_notes,
    run_summary,
    run_tags,
    sweep_config,
)
from lightning_evo.utils.files import write_atomically
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.text import storable, storable_data

if TYPE_CHECKING:  # both import wandb, an optional dependency
    from lightning_evo.reporting.wandb.search_run import SearchRun
    from lightning_evo.reporting.wandb.service import OpenRun, WandbService

__all__ = ["WandbReporter"]

Mode = Literal["online", "offline", "disabled"]

DEFAULT_PROJECT = "lightning-evo"

_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}

_CATCH_UP_TIME = 60.0
"""Seconds that the end of a search may spend on runs that could not be uploaded earlier."""


class WandbReporter(Reporter):
    """Show a search in Weights & Biases while it runs.

    Each candidate is a run of one sweep: its genes are its config, under short names; its metrics per epoch are its
    history; its fitness, costs and status are its summary; its generation is its group. Tags give its status, notes
    explain a failure. The search has one more run (job type ``search``) outside the sweep: the best fitness so far, the
    Pareto front, diversity, the quality of predictors, and tables of the population and the lineage.

    The controller writes all runs from one thread; candidates' processes don't use W&B. Files are in ``wandb/`` in the
    run's directory; those of candidates that have been uploaded are deleted. A resumed search resumes its sweep and runs.
    While the server is down, runs are kept in files and the search goes on.

    Args:
        project: W&B project; default: ``WANDB_PROJECT``, or else ``lightning-evo``.
        entity: User or team; default: ``WANDB_ENTITY``, or else the login's default.
        name: Name of the sweep and of the search's run; default: the search's name.
        tags: Tags of all runs.
        mode: ``online``; ``offline``: write files to upload later; ``disabled``: do nothing. Default: ``WANDB_MODE``, or
            else the mode set by ``wandb offline``, or else ``online``.
        sweep: Id of an existing sweep for the candidates' runs; default: create one.
        candidates: Whether candidates have runs; ``False``: only the search has one.

    Raises:
        ValueError: If the mode is unknown, or W&B doesn't accept the project's name.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        tags: list[str] | None = None,
        mode: Mode | None = None,
        sweep: str | None = None,
        candidates: bool = True,
    ) -> None:
        if mode is not None and mode not in ("online", "offline", "disabled"):
            raise ValueError(f"mode: {mode!r} is not one of online, offline, disabled")
        if project is not None and (not project or len(project) > 128 or set(project) & set("/\\#?%:")):
            raise ValueError(f"project: {project!r} is not a valid name: at most 128 characters, none of / \\ # ? % :")
        self.project, self.entity, self.name, self.tags = project, entity, name, list(tags or ())
        self.mode, self.sweep, self.candidates = mode, sweep, candidates
        self._service: WandbService | None = None
        self._search_uploaded = False
        self._lock = threading.Lock()  # guards the state, which uploads change as they end

    def check(self) -> None:
        mode = self._resolve_mode()
        if mode == "disabled":
            return
        try:
            service = importlib.import_module("lightning_evo.reporting.wandb.service")
        except ImportError as error:
            raise ReporterError(f"W&B is not installed ({error}): pip install 'lightning-evo[wandb]'") from None
        connected: WandbService = service.WandbService(mode)
        self._service = connected if connected.connect() else None

    def start(self, search: SearchInfo) -> None:
        service = self._service
        if service is None:
            return
        self._search, self._archive = search, Archive(search.location, search.name)
        self._mask = search.mask or Mask(search.description, search.config)
        self._keys = gene_keys(list(search.space))
        self._open: dict[int, OpenRun] = {}
        # An agent's run is in the agent's project, which is in the environment.
        project, entity = (self.project, self.entity) if service.outer_sweep is None else (None, None)
        project = project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        service.begin(search.directory.absolute() / "wandb", search.notify)
        token = search_token(search.name, search.seed, self._archive.meta.get("created"))
        self._state = WandbState(service.directory, token, f"{entity or ''}/{project}")
        if (retried := read_meta(self._archive.meta, RetriedRecord)) is not None:
            self._state.report_again(retried.replaced)
        self._state.delete_unfinished_runs()
        self._destination: dict[str, Any] = {"project": project, "entity": entity}
        self._search_run = self._open_search_run(search, service)
        if self.candidates:
            self._ensure_sweep()
        self._state.save()

    def asked(self, candidate: Candidate) -> None:
        if self._service is not None:
            self._search_run.asked(candidate)

    def running(self, trainings: Sequence[ActiveTraining], state: SearchState) -> None:
        if self._service is None:
            return
        self._search_run.running(trainings, state)
        for training in trainings if self.candidates else ():
            id = training.candidate.id
            if training.curve and id not in self._open and not self._is_reported(id):
                self._open[id] = self._open_run(training.candidate)
            if id in self._open:
                _log_curve(self._open[id], training.curve)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        if self._service is None:
            return
        self._search_run.told(candidate, result, state)
        if self.candidates and not self._is_reported(candidate.id):
            self._end_run(candidate, result)

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        service = self._service
        if service is None:
            return
        for opened in self._open.values():  # in training when the search stopped; will be trained again
            service.end(opened, 255, partial(_delete_files, opened))
        self._open = {}
        service.wait_for_uploads()
        self._catch_up()
        exit_code = self._search_run.close(state, outcome)
        service.end(self._search_run.opened, exit_code, self._search_run_ended)
        service.wait_for_uploads()
        self._notify_pending_uploads()
        self._state.save()
        self._archive.close()
        service.close()

    def release(self) -> None:
        if self._service is not None:
            self._service.abandon()

    # Runs of candidates

    def _is_reported(self, id: int) -> bool:
        """Whether a candidate's run is complete, on the server or, while that is down, in a file."""
        assert self._service is not None
        with self._lock:
            return id in self._state.uploaded or (id in self._state.local and not self._service.reachable())

    def _open_run(self, candidate: Candidate, result: Result | None = None) -> OpenRun:
        assert self._service is not None
        self._ensure_sweep()
        return self._service.open(
            self._mask,
            self._state.run_id(candidate.id),
            sweep=self._state.sweep,
            resume=self._search.resumed or candidate.id in self._state.local,
            settings={"stop_fn": _ignore_stop},
            **self._destination,
            name=f"candidate-{candidate.id}",
            group=f"generation-{candidate.generation}",
            job_type="candidate",
            config=candidate_config(candidate, self._keys),
            tags=run_tags(candidate, result, self.tags),
            notes=None if result is None else run_notes(candidate, result),
        )

    def _end_run(self, candidate: Candidate, result: Result) -> None:
        assert self._service is not None
        opened = self._open.pop(candidate.id, None)
        if opened is None:
            opened = self._open_run(candidate, result)
        else:
            opened.run.tags = run_tags(candidate, result, self.tags)
            if (notes := run_notes(candidate, result)) is not None:
                opened.run.notes = self._mask.text(storable(notes))
        _log_curve(opened, result.curve or ([{"epoch": 0, **result.metrics}] if result.metrics else []))
        opened.run.summary.update(self._mask.data(run_summary(candidate, result, self._search.objectives)))
        self._service.end(opened, int(result.status == FAILED), partial(self._run_ended, candidate.id, opened))

    def _run_ended(self, id: int, opened: OpenRun, uploaded: bool) -> None:
        """Note that a candidate's run is complete, on the server or here; called from the thread that uploaded it."""
        with self._lock:
            if uploaded:
                was_local = id in self._state.local
                self._state.uploaded.add(id)
                self._state.local.discard(id)
                _delete_files(opened, uploaded)
                if was_local:
                    self._state.delete_run(self._state.run_id(id))
            else:
                self._state.local.add(id)
            self._state.save()

    def _catch_up(self) -> None:
        """Upload from the archive what could not be uploaded before, while the server is up and time allows."""
        assert self._service is not None
        if not self._state.local or not self._service.reachable_again():
            return
        started = time.monotonic()
        for id in sorted(self._state.local):
            result = self._archive.result(id)
            if result is None or not self._service.can_open(self._state.run_id(id)):
                continue
            if time.monotonic() - started > _CATCH_UP_TIME or not self._service.reachable():
                break
            self._end_run(self._archive.candidate(id), result)
        self._service.wait_for_uploads()

    # The sweep and the run of the search

    def _ensure_sweep(self) -> None:
        """Set the sweep's id: the user's, that of the existing sweep or of a new one, or while offline a made-up one."""
        state, search, service = self._state, self._search, self._service
        assert service is not None
        if state.sweep is not None and not (state.local_sweep and service.reachable()):
            return
        about = f"{search.algorithm}, seed {search.seed}; lightning-evo creates the candidates, no agent is needed"
        config = sweep_config(self.name or search.name, about, search.space, search.objectives, self._keys)
        config = storable_data(self._mask.data(config))
        write_atomically(service.directory / SWEEP_FILE, yaml.safe_dump(config, sort_keys=False))
        if self.sweep is not None:
            state.sweep, state.local_sweep = self.sweep, False
            return
        run = self._search_run.opened.run
        project, entity = (run.project, run.entity) if service.online else (self._destination["project"], self.entity)
        sweep = service.create_sweep(config, project, entity or None)
        state.sweep, state.local_sweep = (state.token, True) if sweep is None else (sweep, False)
        if sweep is not None:
            url = run.project_url
            search.notify(f"W&B: {url}/sweeps/{sweep}" if url else f"W&B: sweep {sweep} in project {project}")

    def _open_search_run(self, search: SearchInfo, service: WandbService) -> SearchRun:
        from lightning_evo.reporting.wandb.search_run import SearchRun

        outer, state = service.outer_sweep, self._state
        run_id = state.search_run_id if outer is None else outer.run
        if state.search_run == "offline" or not service.online:
            state.delete_run(run_id)  # everything is reported again
        config: dict[str, Any] = {
            "algorithm": search.description.get("evolution", {}).get("algorithm", search.algorithm),
            "objectives": [{"monitor": each.monitor, "mode": each.mode} for each in search.objectives],
            "budget": dict(search.limits),
            "slots": search.slots,
            "seed": search.seed,
            "directory": str(search.directory),
            "genes": {
                key: {"path": path, "gene": self._mask.data(repr(search.space[path]), path)}
                for path, key in self._keys.items()
            },
            **(outer.parameters if outer is not None else {}),
        }
        opened = service.open(
            self._mask,
            run_id,
            sweep=None if outer is None else outer.sweep,
            resume=search.resumed or outer is not None,
            # What W&B notes of the process has its command line.
            settings={"x_disable_meta": self._mask.data(sys.argv) != sys.argv, "disable_git": False},
            **self._destination,
            name=self.name or service.variables.get("WANDB_NAME") or (search.name if outer is None else None),
            job_type="search",
            config=config,
            tags=self.tags,
            notes=service.variables.get("WANDB_NOTES"),
        )
        state.search_run = "online" if opened.online else "offline"
        return SearchRun(opened, service, search, self._keys, self._archive, self._mask)

    def _search_run_ended(self, uploaded: bool) -> None:
        self._search_uploaded = uploaded
        if uploaded:
            _delete_files(self._search_run.opened, uploaded)
            self._state.delete_run(self._state.search_run_id)

    def _notify_pending_uploads(self) -> None:
        """Tell the user which runs have not been uploaded, where they are, and how to upload them."""
        service, count = self._service, len(self._state.local)
        assert service is not None
        if not count and self._search_uploaded:
            return
        pending = [f"{count} candidates"] * bool(count) + ["the search"] * (not self._search_uploaded)
        online = "--include-online " if service.online else ""  # those started before the server went down
        how = f"upload them with `wandb sync {online}{service.directory}`"
        if self._state.local_sweep and self.candidates:
            how = (
                f"`lightning-evo wandb {self._search.directory}` creates their sweep and uploads them (`wandb sync` works "
                f"only if the server has the sweep {self._state.sweep})"
            )
        self._search.notify(
            f"W&B: the runs of {' and '.join(pending)} are in {service.directory} and not uploaded; {how}"
        )

    def _resolve_mode(self) -> Mode | None:
        """The mode given here or in ``WANDB_MODE``; ``None``: W&B's own settings decide."""
        variable = os.environ.get("WANDB_MODE")
        if self.mode is not None or not variable:
            return self.mode
        if variable not in _MODES:
            raise ReporterError(f"WANDB_MODE: {variable!r} is not one of online, offline, disabled")
        return _MODES[variable]


def _log_curve(opened: OpenRun, curve: Sequence[Mapping[str, float]]) -> None:
    """Log the epochs that have not been logged yet."""
    for point in curve:
        step = position_of(point)
        if step >= opened.next_step:
            opened.run.log(
                {name: value for name, value in point.items() if name not in POSITION} | {"epoch": int(point["epoch"])},
                step=step,
            )
            opened.next_step = step + 1


def _delete_files(opened: OpenRun, uploaded: bool) -> None:
    """Delete the files of a run that has been uploaded."""
    if uploaded:
        shutil.rmtree(opened.directory, ignore_errors=True)


def _ignore_stop() -> None:
    """Ignore W&B's request to stop a candidate's run, which would otherwise interrupt the whole search."""
