"""The winner of a search: retrained if asked, tested once, and written where stock Lightning opens it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm
from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.archive.meta import FINAL_CHECKPOINT, FinalOutcome, FinalRequest, read_meta
from lightning_evo.archive.seals import SealRecord, StoredCheckpoint
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.evolution.checkpoints import look_at, lost_its_start
from lightning_evo.evolution.errors import Interrupts, SearchError, SearchInterrupted
from lightning_evo.evolution.schedule import schedule_of
from lightning_evo.evolution.search import Search
from lightning_evo.evolution.settings import Final
from lightning_evo.execution import Executor, Job
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.reporting.progress import ProgressDisplay
from lightning_evo.training import TrainingRequest
from lightning_evo.training.blueprint import dump_yaml
from lightning_evo.training.candidate import CONFIG_FILE
from lightning_evo.training.final import WinnerRecord
from lightning_evo.training.packing import MODEL_FILE
from lightning_evo.training.tested import recorded_test, remember_test
from lightning_evo.utils.files import remove_tree, write_atomically
from lightning_evo.utils.imports import import_by_name

__all__ = ["Finisher", "ScheduleCallback", "write_schedule"]

SCHEDULE_FILE = "schedule.yaml"
REPLAY_FILE = "replay.yaml"


class Finisher:
    """Takes the winner to ``<directory>/final``.

    Args:
        search: The search that it won.
    """

    def __init__(self, search: Search) -> None:
        self.search = search

    def finish(
        self,
        winner: Candidate,
        final: Final,
        writer: ArchiveWriter,
        archive: Archive,
        executor: Executor,
        progress: ProgressDisplay,
        interrupts: Interrupts,
    ) -> None:
        """Do what ``final`` says with the winner, unless that very thing was done before.

        A checkpoint that is missing or damaged is made again by training from the same config and seed. A test that came
        to its end is never made again, whatever was lost or killed since.

        Raises:
            SearchError: If retraining or testing fails.
            SearchInterrupted: If the user asks to stop meanwhile.
        """
        search = self.search
        config = search.trainable.final_config(winner, final.overrides)
        target = search.directory / "final"
        request = FinalRequest(winner.id, final.retrain, final.test, config)
        earlier = read_meta(archive.meta, FinalOutcome)
        if earlier is not None and earlier.request == request:
            fault = StoredCheckpoint(FINAL_CHECKPOINT, seal=earlier.seal).fault(search.directory)
            if not fault:
                progress.message(_describe(earlier, target))
                return
            progress.message(f"final: {target / MODEL_FILE} {fault}: it is made again")
        recorded = archive.result(winner.id)
        stored = None if recorded is None else StoredCheckpoint.of(recorded)
        fault, trusted = ("", True) if stored is None else look_at(search.directory, stored, search.trust)
        if fault and not final.retrain:
            progress.message(f"final: the checkpoint of candidate {winner.id} {fault}: it is trained again")
        retrain = final.retrain or stored is None or bool(fault)
        checkpoint = None if retrain or stored is None else str(search.directory / stored.path)
        if earlier is not None and earlier.tested and earlier.request.config == config:
            remember_test(str(target), config, earlier.metrics)  # by now the file may be lost
        tested = recorded_test(str(target), config) is not None
        doing = "retraining" if retrain else "exporting" if tested or not final.test else "testing"
        progress.message(f"final: {doing} candidate {winner.id}" + (", which was tested before" if tested else ""))
        remove_tree(target)
        training = TrainingRequest(
            directory=str(target),
            objectives=search.objectives,
            fitness_epoch=search.fitness_epoch,
            devices=search.workers.devices_per_candidate,
            callbacks=(*self._replaying(archive, winner), *self._callbacks()),
            context=self._context(winner, target),
            trusted=trusted or retrain,
            chdir=search.workers.chdir,
            digest="" if stored is None or stored.seal is None else stored.seal.digest,
        )
        task = search.trainable.final_task(config, training, checkpoint, final.test)
        job = Job(winner.id, task.function, task.arguments, str(target), modules=task.modules)
        result = _wait(executor.submit(job), interrupts)
        if lost_its_start(result) and not retrain:
            self.finish(winner, final, writer, archive, executor, progress, interrupts)  # which finds it damaged
            return
        if result.status == FAILED:
            raise SearchError(f"final: candidate {winner.id} failed: {result.error_type}; see {target}/output.log")
        (target / "checkpoint.ckpt").unlink(missing_ok=True)
        write_schedule(archive, winner.id, target)
        done = result.entry(WinnerRecord)
        assert done is not None, "finish_candidate leaves it"
        seal = SealRecord.of(target / MODEL_FILE)
        if checkpoint is not None and stored is not None and not stored.is_own:
            seal = replace(seal, mark="")
        outcome = FinalOutcome(request, dict(result.metrics), **vars(done), seal=seal)
        writer.set_meta(outcome.key, outcome.to_dict())
        progress.message(_describe(outcome, target))

    def _replaying(self, archive: Archive, candidate: Candidate) -> tuple[Callback, ...]:
        """What follows the hyperparameters that a candidate's training had; nothing where they never changed."""
        if candidate.segment is None:
            return ()
        return (import_by_name(self.search.algorithm.schedule_callback)(schedule_of(archive, candidate.id)),)

    def _callbacks(self) -> list[Callback]:
        """The search's own callbacks that shape a whole training of one candidate: what it grows, how fast it trains.

        Left out is what compares it with other candidates, or averages it with them: here there are none.
        """
        return [
            callback
            for callback in self.search.callbacks
            if not (isinstance(callback, SearchCallback) and (callback.ends_trainings or callback.averages_weights))
        ]

    def _context(self, winner: Candidate, directory: Path) -> SearchContext:
        """What the callbacks may know: the search's objectives and the winner's genome, but no parent and no others."""
        return SearchContext(
            candidate=winner.id,
            seed=winner.seed,
            objectives=self.search.objectives,
            fitness_epoch=self.search.fitness_epoch,
            directory=str(directory),
            genes=dict(winner.genome),
            search_seed=self.search.algorithm.seed,
        )


@dataclass(frozen=True)
class ScheduleCallback:
    """Import path of the callback that follows the schedules which a search finds, in the archive's meta values."""

    key: ClassVar[str] = "schedule_callback"

    path: str = Algorithm.schedule_callback

    def to_dict(self) -> str:
        """As JSON: the path."""
        return self.path

    @classmethod
    def from_dict(cls, record: str) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(record)


def write_schedule(archive: Archive, candidate: int, to: Path) -> list[Path]:
    """Write the schedule of hyperparameters that a candidate's training followed, where it is a segment of one.

    Args:
        archive: The search's.
        candidate: Its id.
        to: The directory of the candidate's ``config.yaml``.

    Returns:
        ``schedule.yaml``, epoch -> config path -> value, and ``replay.yaml``, the config that follows it beside the
        candidate's own: ``lightning-evo fit --config config.yaml --config replay.yaml``. Nothing where there is none.
    """
    if archive.candidate(candidate).segment is None:
        return []
    schedule = schedule_of(archive, candidate)
    callback = read_meta(archive.meta, ScheduleCallback) or ScheduleCallback()
    replay = {"class_path": callback.path, "init_args": {"schedule": schedule}}
    contents = {SCHEDULE_FILE: schedule, REPLAY_FILE: {"trainer": {"callbacks+": [replay]}}}
    for name, content in contents.items():
        write_atomically(to / name, dump_yaml(content))
    return [to / name for name in contents]


def _wait(future: Future[Result], interrupts: Interrupts) -> Result:
    while True:
        try:
            return future.result(timeout=0.5)
        except TimeoutError:
            if interrupts.now:
                raise SearchInterrupted(
                    "stopped before the winner was finished; run the same command again to finish it"
                ) from None


def _describe(outcome: FinalOutcome, target: Path) -> str:
    tested = {name: value for name, value in outcome.metrics.items() if name.startswith("test")}
    test_result = ", ".join(f"{name} {value:.4f}" for name, value in tested.items())
    if not outcome.tested:
        test_result = f"not tested: {outcome.why_not}"
    winner = outcome.request.candidate
    files = f"winner: candidate {winner}, {test_result or 'tested'}; {target}/{CONFIG_FILE}, {MODEL_FILE}"
    return "; ".join(part for part in (files, outcome.packed) if part)
