"""A search: its parts put together, checked against each other and against what was there before."""

from __future__ import annotations

import concurrent.futures
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm, RegularizedEvolution, SearchSetup
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, compare_search
from lightning_evo.archive.database import JOURNAL
from lightning_evo.archive.description import claimed, is_own_search
from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.evolution.checks import (
    check_arguments,
    check_callbacks,
    check_continuing,
    check_sendable,
    compare_in_worker,
    list_of,
    refuse_structural,
    search_callback_kinds,
    setting_of,
)
from lightning_evo.evolution.controller import Controller
from lightning_evo.evolution.description import complete, describe
from lightning_evo.evolution.errors import Interrupts, SearchError, SearchInterrupted
from lightning_evo.evolution.executors import check_main_module, make_executor, plan
from lightning_evo.evolution.jobs import CANDIDATES
from lightning_evo.evolution.retrying import Retrial, plan_retrial
from lightning_evo.evolution.screening import PriorResults, check_binding, load_prior, make_meter
from lightning_evo.evolution.search import Search
from lightning_evo.evolution.settings import Budget, Final, Workers
from lightning_evo.evolution.stacking import (
    Grouping,
    StackableGenes,
    UncomparedGenes,
    check_stacking,
    default_averaging,
    fixed_genes,
    stacks,
)
from lightning_evo.evolution.winner import Finisher, ScheduleCallback
from lightning_evo.execution import Executor
from lightning_evo.genome import COMPLETED, STOPPED, Gene, Objective, SearchSpace, SpaceError, read_gene
from lightning_evo.genome.links import read_links, with_single_paths
from lightning_evo.genome.shorthand import flattened
from lightning_evo.reporting.progress import HarmlessProgress, ProgressDisplay, make_progress
from lightning_evo.reporting.reporter import Reporter, ReporterDispatcher, ReporterError, SearchInfo, release_quietly
from lightning_evo.training import BuilderTrainable, ConfigError, ConfigTrainable, FunctionTrainable, Trainable
from lightning_evo.training.candidate import read_curve
from lightning_evo.training.launch import LaunchRecord, launch_of
from lightning_evo.training.request import FitnessEpoch
from lightning_evo.training.structure import StructureComparison
from lightning_evo.utils import __version__
from lightning_evo.utils.config_files import ConfigFileError, load_yaml_strictly, read_config_file
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.output import open_standard_files
from lightning_evo.utils.signatures import at_argument

__all__ = ["Evolution"]


class Evolution:
    """A search: a space, an algorithm, objectives and a budget, over a LightningCLI config or a function.

    Running the same search again in the same directory continues it. Objectives, budget, workers and ``final`` may be given
    as the mappings that a config holds in their places.

    Args:
        space: Config path -> gene, or what :func:`~lightning_evo.genome.read_gene` reads as one: a list of choices, or a
            mapping such as ``{"low": 1, "high": 8}``.
        algorithm: Decides which candidates to train next (default
            :class:`~lightning_evo.algorithms.RegularizedEvolution`).
        objectives: What to optimize, one or more; several objectives give a Pareto search.
        budget: When to stop.
        workers: Where candidates train.
        directory: Directory of the run: archive, candidates, winner. A relative path is meant as of when the search is
            made, ``~`` is your home directory.
        database: URL of a shared database for the archive. Default: a SQLite file in ``directory``.
        seed: Seed of the run. Default: the config's ``seed_everything`` if that is a number, otherwise drawn and
            recorded.
        fitness_epoch: Read the fitness at the ``best`` epoch of the first logged objective (default) or at the ``last``.
        keep_checkpoints: Number of best candidates whose checkpoints are kept. 0: no checkpoints are written.
        final: What happens with the winner; ``None``: nothing.
        callbacks: Lightning callbacks added to those of every candidate's config, such as
            :class:`~lightning_evo.callbacks.EarlyFitnessPrediction`; the winner's config doesn't name them.
        reporters: Where else to report the search while it runs, such as
            :class:`~lightning_evo.reporting.wandb.WandbReporter`.
        trust: Whether to unpickle checkpoints in ``directory`` that were not made by you on this machine, which runs code
            that they hold (default ``False``). Those of tensors and plain data need no trust.
        retry_failed: Train candidates again that failed earlier in ``directory``, as what made them fail has been mended:
            with the genomes and seeds they had, before the search goes on (default ``False``).
        links: Which values of the config follow others: mappings with ``from`` and ``to``, config paths. The gene at
            ``"a, b"`` is one at ``a`` which ``b`` follows.
        config: A LightningCLI config, as a path or plain data, or a :class:`~lightning_evo.training.Trainable`.
        function: Instead of ``config``: a function from genome to metrics, see
            :class:`~lightning_evo.training.FunctionTrainable`.
        build: Instead of ``config``: a function from genome to model, data and the Trainer's arguments, see
            :class:`~lightning_evo.training.BuilderTrainable`.
        executor: Runs candidates instead of local worker processes: any ``concurrent.futures.Executor``
            (``workers.slots`` is then required) or :class:`~lightning_evo.execution.Executor`. The caller must shut it
            down.
        progress: Display of the search. Default: a live display on a terminal, plain lines otherwise. ``False``: none.

    Raises:
        SearchError: If the arguments are invalid.
    """

    def __init__(
        self,
        space: Mapping[str, Gene | Sequence[Any] | Mapping[str, Any]] | None = None,
        objectives: list[Objective] | None = None,
        budget: Budget | None = None,
        algorithm: Algorithm | None = None,
        workers: Workers | None = None,
        directory: str | Path = "runs/evolution",
        database: str | None = None,
        seed: int | None = None,
        fitness_epoch: FitnessEpoch = "best",
        keep_checkpoints: int = 3,
        final: Final | None = Final(),  # noqa: B008 - frozen
        callbacks: list[Callback] | None = None,
        reporters: list[Reporter] | None = None,
        trust: bool = False,
        retry_failed: bool = False,
        links: list[dict[str, str]] | None = None,
        *,
        config: Trainable | Mapping[str, Any] | str | Path | None = None,
        function: Callable[..., Mapping[str, float]] | None = None,
        build: Callable[[dict[str, Any]], Any] | None = None,
        executor: concurrent.futures.Executor | Executor | None = None,
        progress: ProgressDisplay | bool = True,
    ) -> None:
        if sum(each is not None for each in (config, function, build)) != 1:
            raise SearchError(
                "give one of config (a LightningCLI config), build (a function from genome to model and data) and function "
                "(from genome to metrics)"
            )
        if not space:
            raise SearchError("evolution.space: nothing is set; give at least one config path with a gene")
        if budget is None:
            raise SearchError("evolution.budget: nothing is set; give candidates, epochs or wall_time")
        if not objectives:
            raise SearchError(
                "evolution.objectives: nothing is set; name at least one metric, such as {monitor: val_acc}"
            )
        if not isinstance(objectives, (list, tuple)):
            raise SearchError(f"evolution.objectives: {objectives!r} is not a list of objectives")
        objectives = [setting_of(Objective, one, f"objectives[{i}]") for i, one in enumerate(objectives)]
        monitors = [objective.monitor for objective in objectives]
        if len(set(monitors)) < len(monitors):
            raise SearchError(f"evolution.objectives: {monitors} names a metric twice")
        check_arguments(directory, database, seed, fitness_epoch, keep_checkpoints)
        if algorithm is not None and not isinstance(algorithm, Algorithm):
            raise SearchError(f"evolution.algorithm: {algorithm!r} is not an Algorithm, such as RandomSearch()")
        for name, flag in (("trust", trust), ("retry_failed", retry_failed)):
            if not isinstance(flag, bool):
                raise SearchError(f"evolution.{name}: {flag!r} is not true or false")
        try:
            genes, beside = with_single_paths(_genes(space))
            self.space = SearchSpace(genes)
        except SpaceError as error:
            raise SearchError(f"evolution.space: {error}") from None
        self.objectives = tuple(objectives)
        self.budget = setting_of(Budget, budget, "budget")
        self.algorithm = algorithm or RegularizedEvolution()
        self.workers = Workers() if workers is None else setting_of(Workers, workers, "workers")
        # Wherever the program, a callback or a candidate goes meanwhile.
        self.directory = Path(os.path.expanduser(directory)).absolute()  # `~nobody` is no user: a name like others
        self.database = database
        self.fitness_epoch: FitnessEpoch = fitness_epoch
        self.keep_checkpoints = keep_checkpoints
        self.final = None if final is None else setting_of(Final, final, "final")
        self.callbacks = list_of(Callback, callbacks, "callbacks", "a lightning.pytorch Callback")
        self.reporters = list_of(Reporter, reporters, "reporters", "a Reporter")
        self.trust = trust
        self.retry_failed = retry_failed
        self.trainable: Trainable = (
            FunctionTrainable(function)
            if function is not None
            else BuilderTrainable(build)
            if build is not None
            else _trainable(config)
        )
        try:
            if found := read_links(links or (), self.space, beside):
                self.trainable = self.trainable.linked(found)
        except SpaceError as error:
            raise SearchError(str(error)) from None
        self.seed = seed if seed is not None else self.trainable.seed
        self._executor = executor
        self._progress = progress
        self._kinds = search_callback_kinds(self.callbacks, self.trainable)
        self._added = default_averaging(self.algorithm, self._kinds)
        if self._added is not None:
            self.callbacks += (self._added,)
            self._kinds.append(type(self._added))
        self._max_epochs: int | None = None
        if self.algorithm.continues:
            self._max_epochs = check_continuing(self.algorithm, self._kinds, self.trainable, self.space)
        self._notes: list[str] = []  # found out while checking, shown when the search begins

    @property
    def search(self) -> Search:
        """What the controller is given, as the attributes are now: they may be changed until :meth:`run`."""
        return Search(
            self.trainable,
            self.space,
            self.objectives,
            self.algorithm,
            self.budget,
            self.workers,
            self.directory,
            self.fitness_epoch,
            self.keep_checkpoints,
            self.callbacks,
            self._kinds,
            self.trust,
        )

    def describe(self) -> dict[str, Any]:
        """Everything that decides which candidates come and how they fare, as JSON; budget and workers don't."""
        algorithm = describe(self.algorithm)
        if algorithm["init_args"].get("epochs", 0) is None:  # archives have always named what the Trainer decides here
            algorithm["init_args"]["epochs"] = self._max_epochs
        return {
            "evolution": {
                "space": describe(self.space),
                "algorithm": algorithm,
                "objectives": describe(self.objectives),
                "fitness_epoch": self.fitness_epoch,
                **({"callbacks": describe(self.callbacks)} if self.callbacks else {}),
                **({"links": [link.to_dict() for link in self.trainable.links]} if self.trainable.links else {}),
            },
            **self.trainable.describe(),
        }

    def run(self) -> Archive:
        """Search until the budget is spent, and finish the winner.

        Returns:
            The archive, to read.

        Raises:
            SearchError: If the search can't start or go on. Nothing that was finished is lost.
            SearchInterrupted: After Ctrl-C (or SIGTERM), with a clean archive.
            ArchiveError: If the directory or archive can't be used.
            SystemExit: If the main module, which worker processes import, isn't guarded by ``if __name__ == "__main__":``.
        """
        open_standard_files()
        check_main_module(self._executor, self.workers, self.trainable)
        try:
            return self._run()
        except BaseException as error:
            if isinstance(error, SearchError):  # it may name what a candidate raised, and is shown to the user
                error.args = (Mask(self.describe()).text(str(error)),)
            for reporter in self.reporters:  # one may hold on to something since its check
                release_quietly(reporter)
            raise

    def _run(self) -> Archive:
        self._check()
        slots = [] if self._executor is not None else plan(self.trainable, self.workers, self.algorithm.swarm_size)
        stacking = stacks(self.algorithm, self.workers)
        # Before anything is made, so that nothing is left behind where an earlier archive can't be used.
        prior = None if self.directory.exists() else self._load_prior()
        with self._open() as writer, writer.archive() as archive:
            seed = self._claim(writer, archive, prior)
            progress = HarmlessProgress(make_progress(self._progress), Mask(archive.meta))
            grouping = self._group(writer, archive) if stacking else Grouping()
            with (
                make_meter(self.algorithm, self.trainable, seed) as measure,
                make_executor(self._executor, self.workers, slots, self.trainable) as executor,
                progress,
                Interrupts(progress.message) as interrupts,
            ):
                self.algorithm.bind(
                    SearchSetup(
                        self.space,
                        self.objectives,
                        seed,
                        prior=(read_meta(archive.meta, PriorResults) or PriorResults()).results,
                        measure=measure,
                        inherits=self.search.inherits,
                        max_epochs=self._max_epochs,
                        free_genes=grouping.free,
                    )
                )
                for remark in (writer.recovered, writer.warning, *self._remarks(grouping), *self._notes):
                    if remark:
                        progress.message(remark)
                if self.retry_failed and not plan_retrial(self.search, writer, archive):
                    progress.message("no candidate has failed, so none is tried again")
                with self._reporting(archive, executor, progress, interrupts) as reporting:
                    parts = (self.search, writer, archive, executor, progress, interrupts, grouping, reporting)
                    try:
                        if archive.waiting():
                            Retrial(*parts).retry()
                        controller = Controller(*parts)
                        controller.resume()
                        controller.run()
                        self._finish(controller, writer, archive, interrupts)
                    except SearchInterrupted:
                        reporting.mark_interrupted()
                        raise
            return writer.archive()

    def _finish(self, controller: Controller, writer: ArchiveWriter, archive: Archive, interrupts: Interrupts) -> None:
        """Export the winner, where that is asked for."""
        if self.final is None or not self.trainable.has_winner:
            return
        if controller.state.best is None:
            raise SearchError(f"no candidate finished, so there is no winner; {controller.state.summary()}")
        Finisher(self.search).finish(
            controller.state.best, self.final, writer, archive, controller.executor, controller.progress, interrupts
        )

    def _reporting(
        self, archive: Archive, executor: Executor, progress: ProgressDisplay, interrupts: Interrupts
    ) -> ReporterDispatcher:
        """The reporters of this search, and the description that they get first."""
        meta = archive.meta
        search = SearchInfo(
            name=archive.run,
            location=self.database or self.directory,
            directory=self.directory,
            space=self.space,
            objectives=self.objectives,
            algorithm=type(self.algorithm).__name__,
            description=meta[SearchDescription.key],
            seed=meta["seed"],
            limits=self.budget.limits,
            slots=executor.slots,
            config=self.trainable.config,
            resumed=sum(archive.counts().values()) > 0,
        )
        return ReporterDispatcher(
            self.reporters,
            search,
            lambda candidate: read_curve(self.directory / CANDIDATES / f"{candidate.id:06d}"),
            progress.message,
            presses=lambda: interrupts.stopping + interrupts.now,
        )

    def _group(self, writer: ArchiveWriter, archive: Archive) -> Grouping:
        """Which genes may differ in a stack: found out once, as a continued search must breed by the same."""
        stackable = read_meta(archive.meta, StackableGenes)
        if stackable is None:
            comparison = StructureComparison()
            links, sections = self.trainable.links, self.trainable.stacked_sections
            if "" in fixed_genes(self.space, comparison, links, sections).values():
                comparison = compare_in_worker(self.trainable, self.space)
            stackable = StackableGenes(fixed_genes(self.space, comparison, links, sections))
            self._notes += comparison.notes(path for path, reason in stackable.reasons.items() if not reason)
            uncompared = UncomparedGenes(comparison.uncompared)
            found = (stackable, uncompared) if uncompared.reasons else (stackable,)
            writer.update_meta({each.key: each.to_dict() for each in found})
        return Grouping(stackable.reasons, self.workers.stack, self.algorithm.swarm)

    def _remarks(self, grouping: Grouping) -> list[str]:
        """What the user should know of stacks before they train."""
        remarks = []
        if self._added is not None:
            settings = ", ".join(
                f"{name} {value}" for name, value in (self.algorithm.swarm_callback or {})["init_args"].items()
            )
            name = type(self._added).__name__
            remarks.append(f"no callback in evolution.callbacks averages weights: {name} is added, with {settings}")
        if grouping.stacks and not grouping.free:
            why = "; ".join(f"{path} {reason}" for path, reason in (grouping.reasons or {}).items())
            same = "all particles of a swarm have equal genomes" if self.algorithm.swarm_size else "nothing is stacked"
            remarks.append(f"no gene may differ within a stack, so {same}: {why}")
        return remarks

    def _check(self) -> None:
        """Refuse before any training what the parser would refuse later."""
        if self._executor is None:
            check_sendable(self.trainable)
        try:
            self.trainable.check(self.space, self.objectives)
        except SpaceError as error:
            raise SearchError(str(error)) from None
        check_binding(self.algorithm, self.space, self.objectives, self.trainable)
        check_callbacks(self.callbacks, self.trainable, self.space, self.objectives)
        for i, reporter in enumerate(self.reporters):
            try:
                reporter.check()
            except ReporterError as error:
                raise SearchError(f"evolution.reporters[{i}] {type(reporter).__name__}: {error}") from None
        if stacks(self.algorithm, self.workers):
            check_stacking(self.algorithm, self.workers, self.budget, self._kinds, self.callbacks, self.trainable)
        if self.algorithm.continues and not (self.directory / JOURNAL).exists():
            comparison = compare_in_worker(self.trainable, self.space)
            refuse_structural(self.algorithm, self._kinds, comparison)
            self._notes += comparison.notes(self.space)
        if self.final is None or not self.trainable.has_winner:
            return
        try:
            self.trainable.check_overrides(self.final.overrides)
        except SpaceError as error:
            raise SearchError(f"evolution.final.overrides.{error}") from None

    def _open(self) -> ArchiveWriter:
        """The directory's archive, new where nothing of a different search was finished in it.

        Raises:
            SearchError: If it holds a different search.
        """
        try:
            writer = ArchiveWriter(self.directory, self.database)
        except ArchiveError as error:
            if type(error) is not ArchiveError:
                raise
            raise ArchiveError(f"evolution.{'database' if self.database else 'directory'}: {error}") from error
        try:
            with writer.archive() as archive:
                differences = self._differences(archive.meta)
                counts = archive.counts()
            if not differences:
                return writer
            finished = counts[COMPLETED] + counts[STOPPED]
            if finished:
                raise SearchError(
                    f"{self.directory} holds a different search ({finished} candidates finished); what differs:\n  "
                    + "\n  ".join(differences)
                    + "\nGive another evolution.directory, or undo the change to continue that search."
                )
            # Nothing was finished there (a metric's name mistyped, a model that crashed): begin anew beside it.
            return writer.start_over()
        except BaseException:
            writer.close()
            raise

    def _differences(self, meta: Mapping[str, Any]) -> list[str]:
        """In what the search that ``meta`` belongs to differs from this one; nothing where there is none yet."""
        if SearchDescription.key not in meta:
            return []
        stored, described = meta[SearchDescription.key], self.describe()
        differences = compare_search(stored, described)
        if differences:
            # Classes, the Trainer's too, may have had fewer arguments then: what a search never said is no difference.
            differences = compare_search(self._completed(stored), described)
        if self.seed is not None and meta["seed"] != self.seed:
            differences.append(f"seed: {meta['seed']} in the archive, {self.seed} given")
        return differences

    def _completed(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """An earlier description of a search, with the arguments that were added since, as far as this one leaves them."""
        earlier = SearchDescription.from_dict(stored)
        parts = {
            "space": self.space,
            "algorithm": self.algorithm,
            "objectives": self.objectives,
            "callbacks": self.callbacks,
        }
        evolution = {
            name: complete(part, parts[name]) if name in parts else part for name, part in earlier.evolution.items()
        }
        return SearchDescription(evolution, self.trainable.complete(earlier.trainable)).to_dict()

    def _claim(self, writer: ArchiveWriter, archive: Archive, prior: PriorResults | None = None) -> int:
        """Record which search the archive belongs to, and what it starts from; return the run's seed."""
        meta, limits = archive.meta, self.budget.limits
        schedule = ScheduleCallback(self.algorithm.schedule_callback)
        launched = launch_of(self.trainable)
        if SearchDescription.key in meta:
            if launched is not None and read_meta(meta, LaunchRecord) != launched:
                writer.set_meta(launched.key, launched.to_dict())
            if self.algorithm.continues and read_meta(meta, ScheduleCallback) != schedule:
                writer.set_meta(schedule.key, schedule.to_dict())
            if not is_own_search(meta):  # it is the search that this user asked for, whoever ran it before
                writer.update_meta(claimed(meta))
            if meta.get("budget") != limits:  # extended; nothing depends on it, but people look how far a search is
                writer.set_meta("budget", limits)
            return meta["seed"]
        seed = self.seed if self.seed is not None else secrets.randbelow(2**31)
        prior = self._load_prior() if prior is None else prior
        description = {SearchDescription.key: json.loads(json.dumps(self.describe()))}
        writer.update_meta(
            {
                **({prior.key: prior.to_dict()} if prior.results else {}),
                **({schedule.key: schedule.to_dict()} if self.algorithm.continues else {}),
                **({launched.key: launched.to_dict()} if launched is not None else {}),
                **description,
                **claimed(description),
                "objectives": describe(self.objectives),
                "seed": seed,
                "budget": limits,
                "version": __version__,
                "created": time.time(),
            }
        )
        return seed

    def _load_prior(self) -> PriorResults:
        """What earlier searches found that the algorithm's predictor is to learn from."""
        prescreen = self.algorithm.prescreen
        return PriorResults() if prescreen is None else load_prior(prescreen.archives, self.space, self.objectives)


def _genes(space: Mapping[str, Any]) -> dict[str, Gene]:
    """The genes of a space as it is written."""
    if not isinstance(space, Mapping):
        raise SearchError(f"evolution.space: {space!r} is not a mapping from config paths to genes")
    try:
        flat = flattened(space)
    except ValueError as error:
        raise SearchError(f"evolution.space.{error}") from None
    genes = {}
    for path, written in flat.items():
        try:
            genes[path] = read_gene(written)
        except ValueError as error:
            keys = written if isinstance(written, Mapping) else ()
            raise SearchError(at_argument(f"evolution.space.{path}", str(error), keys)) from None
    return genes


def _trainable(config: Trainable | Mapping[str, Any] | str | Path | None) -> Trainable:
    if isinstance(config, (str, Path)):
        try:
            config = load_yaml_strictly(read_config_file(config))
        except ConfigFileError as error:
            raise SearchError(f"config: {error}") from None
    if not isinstance(config, Mapping):
        return cast(Trainable, config)
    try:
        return ConfigTrainable(config)
    except ConfigError as error:
        raise SearchError(f"config: {error}") from None
