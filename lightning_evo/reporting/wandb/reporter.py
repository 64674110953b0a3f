"""How is a search watched in Weights & Biases? Its candidates are the runs of one sweep, itself is a run beside it."""

from __future__ import annotations

import importlib
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import yaml

from lightning_evo.archive import Archive
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, Reporter, ReporterError, SearchInfo, Training
from lightning_evo.reporting.wandb.state import SWEEP, WandbState, search_token
from lightning_evo.reporting.wandb.sweep import (
    describe_candidate,
    gene_keys,
    notes_on,
    summarise,
    sweep_config,
    tags_of,
)

if TYPE_CHECKING:
    from lightning_evo.reporting.wandb.search_run import SearchRun
    from lightning_evo.reporting.wandb.service import OpenRun, WandbService

__all__ = ["WandbReporter"]

Mode = Literal["online", "offline", "disabled"]

PROJECT = "lightning-evo"
"""Where runs go when nobody says where."""

_MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}

_CATCHING_UP = 60.0
"""Seconds that the end of a search may spend on runs that could not be uploaded while it ran."""


class WandbReporter(Reporter):
    """Shows a search in Weights & Biases while it runs.

    Every candidate is a run of one sweep: its genes are its config under short names, its metrics per epoch its history,
    fitness, costs and status its summary, its generation its group; tags say how it ended, notes why it failed. The
    search itself is one more run (job type ``search``) beside the sweep: the best so far, the Pareto front, diversity,
    what predictors are worth, tables of the population and of who descends from whom.

    The controller writes all of them, from one thread; candidates start nothing of W&B's. Files lie in ``wandb/`` in the
    run's directory; those of candidates that the server has all of are deleted. A continued search continues sweep and
    runs. Where the server is away, runs are kept in files and the search goes on.

    Args:
        project: W&B project; default: ``WANDB_PROJECT``, else ``lightning-evo``.
        entity: User or team; default: ``WANDB_ENTITY``, else the login's own.
        name: Name of the sweep and of the search's run; default: the search's.
        tags: Tags of all runs.
        mode: ``online``; ``offline``: into files, to be uploaded later; ``disabled``: nothing. Default: ``WANDB_MODE``, else
            what ``wandb offline`` has set, else ``online``.
        sweep: Id of a sweep that exists, which candidates' runs belong to; default: one is made.
        candidates: Whether candidates have runs; ``False``: only the search has one.

    Raises:
        ValueError: If the mode is none of these, or W&B accepts no project of that name.
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
            raise ValueError(f"mode: {mode!r} is none of online, offline, disabled")
        if project is not None and (not project or len(project) > 128 or set(project) & set("/\\#?%:")):
            raise ValueError(f"project: {project!r} is not a name of at most 128 characters without / \\ # ? % :")
        self.project, self.entity, self.name, self.tags = project, entity, name, list(tags or ())
        self.mode, self.sweep, self.candidates = mode, sweep, candidates
        self._service: WandbService | None = None
        self._search_uploaded = False
        self._lock = threading.Lock()  # of the state, which uploads change as they end

    # -- the reporter's contract -----------------------------------------------------------------------------------------

    def check(self) -> None:
        mode = self._resolve_mode()
        if mode == "disabled":
            return
        try:
            service = importlib.import_module("lightning_evo.reporting.wandb.service")
        except ImportError as error:
            raise ReporterError(f"W&B is not installed ({error}); pip install 'lightning-evo[wandb]'") from None
        wanted: WandbService = service.WandbService(mode)
        self._service = wanted if wanted.connect() else None

    def start(self, search: SearchInfo) -> None:
        service = self._service
        if service is None:
            return
        self._search, self._archive = search, Archive(search.location, search.name)
        self._keys = gene_keys(list(search.space))
        self._open: dict[int, OpenRun] = {}
        outer = service.outer
        chosen = None if outer is not None else self.project
        project, entity = chosen or os.environ.get("WANDB_PROJECT") or PROJECT, self.entity if outer is None else None
        service.begin(search.directory.absolute() / "wandb", search.say)
        token = search_token(search.name, search.seed, self._archive.meta.get("created"))
        self._state = WandbState(service.directory, token, f"{entity or ''}/{project}")
        self._state.drop_unfinished()
        self._place: dict[str, Any] = {"project": project, "entity": entity}
        self._search_run = self._begin_search(search, service)
        if self.candidates:
            self._find_sweep()
        self._state.save()

    def asked(self, candidate: Candidate) -> None:
        if self._service is not None:
            self._search_run.asked(candidate)

    def running(self, trainings: Sequence[Training], state: SearchState) -> None:
        if self._service is None:
            return
        self._search_run.running(trainings, state)
        for training in trainings if self.candidates else ():
            id = training.candidate.id
            if training.curve and id not in self._open and not self._reported(id):
                self._open[id] = self._begin(training.candidate)
            if id in self._open:
                _follow(self._open[id], training.curve)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        if self._service is None:
            return
        self._search_run.told(candidate, result, state)
        if self.candidates and not self._reported(candidate.id):
            self._end(candidate, result)

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        service = self._service
        if service is None:
            return
        for opened in self._open.values():  # in training when the search was stopped; it will be trained again
            service.end(opened, 255, partial(_clear, opened))
        self._open = {}
        service.settle()
        self._catch_up()
        exit_code = self._search_run.close(state, outcome)
        service.end(self._search_run.opened, exit_code, self._ended_search)
        service.settle()
        self._say_what_is_left()
        self._state.save()
        self._archive.close()
        service.close()

    def leave(self) -> None:
        if self._service is not None:
            self._service.abandon()

    # -- candidates' runs ------------------------------------------------------------------------------------------------

    def _reported(self, id: int) -> bool:
        """Whether a candidate's run is whole where it can be by now."""
        assert self._service is not None
        with self._lock:
            return id in self._state.uploaded or (id in self._state.kept and not self._service.reachable())

    def _begin(self, candidate: Candidate, result: Result | None = None) -> OpenRun:
        assert self._service is not None
        self._find_sweep()
        return self._service.open(
            self._state.name(candidate.id),
            sweep=self._state.sweep,
            resume=self._search.resumed or candidate.id in self._state.kept,
            settings={"stop_fn": _ignore},
            **self._place,
            name=f"candidate-{candidate.id}",
            group=f"generation-{candidate.generation}",
            job_type="candidate",
            config=describe_candidate(candidate, self._keys),
            tags=tags_of(candidate, result, self.tags),
            notes=None if result is None else notes_on(candidate, result),
        )

    def _end(self, candidate: Candidate, result: Result) -> None:
        assert self._service is not None
        opened = self._open.pop(candidate.id, None)
        if opened is None:
            opened = self._begin(candidate, result)
        else:
            opened.run.tags = tags_of(candidate, result, self.tags)
            if (notes := notes_on(candidate, result)) is not None:
                opened.run.notes = notes
        _follow(opened, result.curve or ([{"epoch": 0, **result.metrics}] if result.metrics else []))
        opened.run.summary.update(summarise(candidate, result, self._search.objectives))
        self._service.end(opened, int(result.status == FAILED), partial(self._ended, candidate.id, opened))

    def _ended(self, id: int, opened: OpenRun, uploaded: bool) -> None:
        """A candidate's run is whole, on the server or here; called from the thread that uploaded it."""
        with self._lock:
            if uploaded:
                was_kept = id in self._state.kept
                self._state.uploaded.add(id)
                self._state.kept.discard(id)
                _clear(opened, uploaded)
                if was_kept:
                    self._state.drop(self._state.name(id))
            else:
                self._state.kept.add(id)
            self._state.save()

    def _catch_up(self) -> None:
        """Upload, from the archive, what could not be uploaded before, as far as the server is there and time allows."""
        assert self._service is not None
        if not self._state.kept or not self._service.look_again():
            return
        begun = time.monotonic()
        for id in sorted(self._state.kept):
            result = self._archive.result(id)
            if result is None or not self._service.can_open(self._state.name(id)):
                continue
            if time.monotonic() - begun > _CATCHING_UP or not self._service.reachable():
                break
            self._end(self._archive.candidate(id), result)
        self._service.settle()

    # -- the sweep and the search's run ----------------------------------------------------------------------------------

    def _find_sweep(self) -> None:
        """Have a sweep: the user's, the one made before, a new one, or where no server answers an own id."""
        state, search, service = self._state, self._search, self._service
        assert service is not None
        if state.sweep is not None and not (state.own and service.reachable()):
            return
        about = f"{search.algorithm}, seed {search.seed}; candidates are bred by lightning-evo, no agent is needed"
        config = sweep_config(self.name or search.name, about, search.space, search.objectives, self._keys)
        (service.directory / SWEEP).write_text(yaml.safe_dump(config, sort_keys=False))
        if self.sweep is not None:
            state.sweep, state.own = self.sweep, False
            return
        run = self._search_run.opened.run
        project, entity = (run.project, run.entity) if service.online else (self._place["project"], self.entity)
        made = service.create_sweep(config, project, entity or None)
        state.sweep, state.own = (state.token, True) if made is None else (made, False)
        if made is not None:
            place = run.project_url
            search.say(f"W&B: {place}/sweeps/{made}" if place else f"W&B: sweep {made} in {project}")

    def _begin_search(self, search: SearchInfo, service: WandbService) -> SearchRun:
        from lightning_evo.reporting.wandb.search_run import SearchRun

        outer, state = service.outer, self._state
        name = state.search_name if outer is None else outer.run
        if state.searched == "offline" or not service.online:
            state.drop(name)  # it is told everything once more
        config: dict[str, Any] = {
            "algorithm": search.description.get("evolution", {}).get("algorithm", search.algorithm),
            "objectives": [{"monitor": each.monitor, "mode": each.mode} for each in search.objectives],
            "budget": dict(search.limits),
            "slots": search.slots,
            "seed": search.seed,
            "directory": str(search.directory),
            "genes": {key: {"path": path, "gene": repr(search.space[path])} for path, key in self._keys.items()},
            **(outer.parameters if outer is not None else {}),
        }
        opened = service.open(
            name,
            sweep=None if outer is None else outer.sweep,
            resume=search.resumed or outer is not None,
            settings={"x_disable_meta": False, "disable_git": False},
            **self._place,
            name=self.name or service.variables.get("WANDB_NAME") or (search.name if outer is None else None),
            job_type="search",
            config=config,
            tags=self.tags,
            notes=service.variables.get("WANDB_NOTES"),
        )
        state.searched = "online" if opened.online else "offline"
        return SearchRun(opened, service, search, self._keys, self._archive)

    def _ended_search(self, uploaded: bool) -> None:
        self._search_uploaded = uploaded
        if uploaded:
            _clear(self._search_run.opened, uploaded)
            self._state.drop(self._state.search_name)

    def _say_what_is_left(self) -> None:
        """Where runs are that no server has, and how they get there."""
        service, kept = self._service, len(self._state.kept)
        assert service is not None
        if not kept and self._search_uploaded:
            return
        held = [f"{kept} candidates"] * bool(kept) + ["the search"] * (not self._search_uploaded)
        online = "--include-online " if service.online else ""  # such as were begun before the server went away
        how = f"upload with `wandb sync {online}{service.directory}`"
        if self._state.own and self.candidates:
            how = (
                f"`lightning-evo wandb {self._search.directory}` makes their sweep and uploads them (`wandb sync` alone "
                f"only where the server knows the sweep {self._state.sweep})"
            )
        self._search.say(f"W&B: runs of {' and '.join(held)} are in {service.directory}, not uploaded; {how}")

    def _resolve_mode(self) -> Mode | None:
        """The mode asked for here or by the variable; ``None``: W&B's own settings decide."""
        named = os.environ.get("WANDB_MODE")
        if self.mode is not None or not named:
            return self.mode
        if named not in _MODES:
            raise ReporterError(f"WANDB_MODE {named!r} is none of online, offline, disabled")
        return _MODES[named]


def _follow(opened: OpenRun, curve: Sequence[Mapping[str, float]]) -> None:
    """Log the epochs that were not logged yet."""
    for point in curve:
        step = int(point["epoch"])
        if step >= opened.steps:
            opened.run.log(
                {name: value for name, value in point.items() if name != "epoch"} | {"epoch": step}, step=step
            )
            opened.steps = step + 1


def _clear(opened: OpenRun, uploaded: bool) -> None:
    """Delete the files of a run that the server has all of."""
    if uploaded:
        shutil.rmtree(opened.directory, ignore_errors=True)


def _ignore() -> None:
    """Somebody asked W&B to stop one candidate, which would otherwise interrupt the whole search."""
