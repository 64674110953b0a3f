"""What does the controller do? It asks, records, submits; waits; records, tells; and never trains."""

from __future__ import annotations

import queue
import shutil
import time
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_evo.archive import Archive, ArchiveWriter, DiskFull
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.evolution.checkpoints import CHECKPOINTS, Checkpoints
from lightning_evo.evolution.errors import SearchError, SearchInterrupted
from lightning_evo.evolution.interrupts import Interrupts
from lightning_evo.evolution.knowledge import Knowledge
from lightning_evo.evolution.screening import QualityRecord
from lightning_evo.execution import Executor, Job, read_result
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.reporting.progress import Progress, Running, SearchState
from lightning_evo.training.candidate import read_curve

if TYPE_CHECKING:
    from lightning_evo.evolution.evolution import Evolution

__all__ = ["DUPLICATES_IN_A_ROW", "FAILURES_ALIKE", "Controller"]

FAILURES_ALIKE = 3
"""The search stops when its first candidates, this many, all fail with the same error."""

DUPLICATES_IN_A_ROW = 200
"""The search space counts as exhausted when this many candidates in a row had all been asked before."""

TICK = 0.5
"""Seconds between two looks at signals and the display while nothing else happens."""

RECORD_ELAPSED = 5.0
"""Seconds between two records of the time spent, which the wall-time budget adds up over continued runs."""


@dataclass
class _Done:
    candidate: Candidate
    future: Future[Result]


class Controller:
    """One run of a search over its archive.

    Args:
        evolution: What is searched.
        writer: Where everything is recorded.
        archive: The same, to read.
        executor: Where candidates run.
        progress: What the user sees.
        interrupts: What the user asks for with Ctrl-C.
    """

    def __init__(
        self,
        evolution: Evolution,
        writer: ArchiveWriter,
        archive: Archive,
        executor: Executor,
        progress: Progress,
        interrupts: Interrupts,
    ) -> None:
        self.evolution = evolution
        self.writer = writer
        self.archive = archive
        self.executor = executor
        self.progress = progress
        self.interrupts = interrupts
        self.algorithm = evolution.algorithm
        self.state = SearchState(evolution.objectives, evolution.budget.limits)
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._running: dict[int, Candidate] = {}
        self._echoes: dict[int, list[Candidate]] = {}
        self._duplicates_in_a_row = 0
        self._quality = QualityRecord(self.algorithm, writer, archive, progress)
        self._checkpoints = Checkpoints(evolution.directory, evolution.keep_checkpoints, evolution.objectives)
        self._checkpoints.peak_bytes = archive.meta.get(CHECKPOINTS, {}).get("peak_bytes", 0)
        self._knowledge = (
            Knowledge(evolution.directory, self.algorithm, evolution.space, evolution.objectives)
            if evolution.needs_known_results
            else None
        )
        self._unfinished: dict[int, Candidate] = {}
        self._orphaned = False
        self._started = time.monotonic()
        self._elapsed_before = float(archive.meta.get("elapsed", 0.0))
        self._recorded_elapsed = self._elapsed_before

    # -- the search ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Bring the algorithm to where the archive says it was; start again what was asked and never ended."""
        for candidate, result in self.archive.events():
            if result is None:
                self.algorithm.recall(candidate)
                self.state.asked += 1
                self._unfinished[candidate.id] = candidate
            else:
                self._tell(candidate, result)
        if self.state.asked:
            self.progress.message(f"continuing: {self.state.summary()}; {len(self._unfinished)} to finish")
        for candidate in list(self._unfinished.values()):
            adopted = read_result(self._directory(candidate))
            if adopted is not None and not adopted.fatal:
                # It had finished, and the controller was killed before it could record it.
                self._record(candidate, adopted)
            else:
                self._start(candidate)

    def run(self) -> None:
        """Search until the budget is spent.

        Raises:
            SearchError: If the first candidates all fail alike, or the machine fails (full disk).
            SearchInterrupted: If the user asked to stop.
        """
        try:
            while True:
                self._fill_slots()
                if not self._running:
                    break
                self._look()
                self._wait()
                if self.interrupts.now:
                    break
            self._look(force=True)
        except DiskFull:
            self._record_what_still_ends()
            raise
        if self.interrupts.stopping:
            self.executor.shutdown(cancel=self.interrupts.now)
            raise SearchInterrupted(
                f"stopped: {self.state.summary()}; the same command continues the search in {self.evolution.directory}"
            )
        if self.state.best is None and self.state.failed:
            raise SearchError(
                f"{self.state.end}: no candidate finished; the first failed: {self.state.first_errors[0]}"
            )
        self.progress.message(self._farewell())

    # -- asking --------------------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots and not self._spent():
            candidate = self.algorithm.ask()
            self._quality.look()
            if candidate is None:
                if not self._running:
                    raise SearchError(
                        f"{type(self.algorithm).__name__}.ask() wants to wait, but nothing is running that could be told"
                    )
                return
            self.writer.record_candidate(candidate, queued=time.time())
            self._unfinished[candidate.id] = candidate
            self.state.asked += 1
            self._start(candidate)

    def _spent(self) -> bool:
        budget, state = self.evolution.budget, self.state
        state.elapsed = self._elapsed()
        if self._duplicates_in_a_row >= DUPLICATES_IN_A_ROW:
            state.end = (
                f"the search space seems exhausted: {DUPLICATES_IN_A_ROW} candidates in a row had been asked before"
            )
        elif self.algorithm.exhausted:
            state.end = f"{type(self.algorithm).__name__} is through"
        elif budget.candidates is not None and state.asked >= budget.candidates:
            state.end = "budget.candidates"
        elif budget.epochs is not None and state.epochs >= budget.epochs:
            state.end = "budget.epochs"
        elif budget.seconds is not None and state.elapsed >= budget.seconds:
            state.end = "budget.wall_time"
        return bool(state.end) or self.interrupts.stopping

    def _start(self, candidate: Candidate) -> None:
        """Have a candidate trained, or answered by the one it duplicates."""
        original = candidate.duplicate_of
        self._duplicates_in_a_row = 0 if original is None else self._duplicates_in_a_row + 1
        if original is not None:
            if (known := self.archive.result(original)) is not None:
                self._record(candidate, _echo(known, original))
            else:
                self._echoes.setdefault(original, []).append(candidate)
            return
        directory = self._directory(candidate)
        # Whatever an interrupted attempt left would mix with the new one.
        shutil.rmtree(directory, ignore_errors=True)
        evolution = self.evolution
        task = evolution.trainable.task(
            candidate,
            directory,
            evolution.objectives,
            evolution.fitness_epoch,
            save_checkpoint=evolution.keep_checkpoints > 0 or evolution.inherits,
            devices=evolution.workers.devices_per_candidate,
            callbacks=evolution.callbacks,
            context=self._context(candidate, directory),
        )
        job = Job(
            id=candidate.id,
            function=task.function,
            arguments=task.arguments,
            directory=str(directory),
            time_limit=evolution.workers.time_limit_seconds,
        )
        self._running[candidate.id] = candidate
        future = self.executor.submit(job)
        future.add_done_callback(lambda future: self._done.put(_Done(candidate, future)))

    def _context(self, candidate: Candidate, directory: Path) -> SearchContext:
        """What the candidate's callbacks may know of the search."""
        return SearchContext(
            candidate=candidate.id,
            seed=candidate.seed,
            objectives=self.evolution.objectives,
            fitness_epoch=self.evolution.fitness_epoch,
            directory=str(directory),
            known=None if self._knowledge is None else str(self._knowledge.path.absolute()),
            features=() if self._knowledge is None else self._knowledge.features(candidate),
            parent=self._parent(candidate),
            segment=candidate.segment,
        )

    def _parent(self, candidate: Candidate) -> Inherited | None:
        parent = self._checkpoints.parent_of(candidate, self.archive.candidate)
        if parent is not None and parent.why and not self._orphaned:
            self._orphaned = True  # each such case is recorded with its candidate; once is enough to say it
            instead = f"from {parent.candidate}" if parent.checkpoint else "from scratch"
            self.progress.message(f"{parent.why}: candidate {candidate.id} starts {instead} instead")
        return parent

    # -- telling -------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Take in what has ended; return after a tick at the latest."""
        try:
            done = self._done.get(timeout=TICK)
            while True:
                self._end(done)
                done = self._done.get_nowait()
        except queue.Empty:
            return

    def _end(self, done: _Done) -> None:
        candidate = self._running.pop(done.candidate.id)
        try:
            result = done.future.result()
        except CancelledError:
            return  # stays unfinished in the archive, and is trained when the search continues
        if result.fatal:
            if result.status != FAILED:
                self._record(candidate, result)  # trained all the same; the archive keeps space for it in reserve
            raise SearchError(
                f"candidate {candidate.id} met a failure of the machine: {result.error_type}\n"
                f"Mend that and run the same command again: the search continues, nothing finished is lost."
            )
        self._record(candidate, result)
        for echo in self._echoes.pop(candidate.id, []):
            self._record(echo, _echo(result, candidate.id))
        self._stop_if_all_fail_alike(candidate, result)

    def _record_what_still_ends(self) -> None:
        """The disk is full: nothing new begins, and what runs is recorded in the space the archive kept in reserve."""
        self.progress.message("the disk is full: recording what still ends, then stopping")
        while self._running and not self.interrupts.now:
            try:
                done = self._done.get(timeout=TICK)
            except queue.Empty:
                continue
            candidate = self._running.pop(done.candidate.id)
            if done.future.cancelled() or done.future.result().status == FAILED:
                continue  # what a full disk made fail is trained again when the search continues
            with suppress(DiskFull):
                self.writer.record_result(candidate.id, self._placed(candidate, done.future.result()))

    def _placed(self, candidate: Candidate, result: Result) -> Result:
        """The result with its checkpoint's path relative to the run's directory."""
        if result.checkpoint is None or candidate.duplicate_of is not None:
            return result
        path = self._directory(candidate) / result.checkpoint
        return replace(result, checkpoint=path.relative_to(self.evolution.directory).as_posix())

    def _record(self, candidate: Candidate, result: Result) -> None:
        if result.status == FAILED and not result.curve:
            # A worker that died took its curve along; what it had written is still there.
            result = replace(result, curve=tuple(read_curve(self._directory(candidate))))
        result = self._placed(candidate, result)
        self.writer.record_result(candidate.id, result)
        self._tell(candidate, result)
        self._drop_checkpoints()
        self.progress.told(candidate, result, self.state)

    def _tell(self, candidate: Candidate, result: Result) -> None:
        """Bring everything up to date with a recorded result: counts, checkpoints, the algorithm, what others know."""
        del self._unfinished[candidate.id]
        self.state.account(candidate, result)
        self._checkpoints.add(candidate, result)
        self.algorithm.tell(candidate, result)
        if self._knowledge is not None:
            self._knowledge.told(candidate, result)

    def _drop_checkpoints(self) -> None:
        """Delete checkpoints that nobody needs any more."""
        needed: set[int] = set()
        if self.evolution.inherits:
            waiting = (candidate.inherits for candidate in self._unfinished.values())
            needed = self.algorithm.ancestors | {id for id in waiting if id is not None}
        self._checkpoints.drop(needed, self.writer)

    def _stop_if_all_fail_alike(self, candidate: Candidate, result: Result) -> None:
        state = self.state
        if result.status != FAILED or state.completed or state.stopped:
            return
        assert result.error_type is not None
        alike = 1 if result.error_type.startswith("MetricNotLogged") else FAILURES_ALIKE
        errors = state.first_errors[:alike]
        if len(errors) < alike or len(set(errors)) > 1:
            return
        log = self._directory(candidate) / "output.log"
        raise SearchError(
            f"{'the first candidate' if alike == 1 else f'all of the first {alike} candidates'} failed: "
            f"{result.error_type}{_hint(result.error_type)}\n"
            f"The traceback is in `lightning-evo leaderboard {self.evolution.directory} --errors`, the output in {log}."
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self, force: bool = False) -> None:
        elapsed = self._elapsed()
        if force or elapsed - self._recorded_elapsed >= RECORD_ELAPSED:
            self.writer.update_meta({"elapsed": elapsed, CHECKPOINTS: self._checkpoints.describe()})
            self._recorded_elapsed = elapsed
        self.state.elapsed = elapsed
        if self.progress.due():
            self.state.running = {slot: self._describe_running(job) for slot, job in self.executor.running.items()}
            self.progress.update(self.state)

    def _describe_running(self, candidate_id: int) -> Running:
        candidate = self._running.get(candidate_id)
        if candidate is None:
            return Running(candidate_id, 0, None)
        return Running(
            candidate_id, len(read_curve(self._directory(candidate))), self.evolution.trainable.epochs(candidate)
        )

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    def _directory(self, candidate: Candidate) -> Path:
        return self.evolution.directory / "candidates" / f"{candidate.id:06d}"

    def _farewell(self) -> str:
        kept = self._checkpoints
        disk = (
            f"; {len(kept)} checkpoints, {kept.bytes / 1e6:.1f} MB (at most {kept.peak_bytes / 1e6:.1f})"
            if kept
            else ""
        )
        return (
            f"finished ({self.state.end}): {self.state.summary()}{disk}\n"
            f"To extend the search, raise evolution.budget and run the same command again."
        )


def _echo(result: Result, original: int) -> Result:
    """The result of a candidate that was answered, not trained: the original's, at no cost of its own."""
    spent = {name: 0 for name in ("seconds", "epochs") if name in result.cost}
    return replace(
        result,
        cost={**result.cost, **spent},
        curve=(),
        checkpoint=None,
        checkpoint_bytes=None,
        started=None,
        ended=None,
        slot=None,
        attempts=0,
        extra={"answered_by": original},
    )


def _hint(error_type: str) -> str:
    if error_type.startswith("MetricNotLogged"):
        return " (evolution.objectives: monitor must be one of these, or a cost such as cost/params)"
    return ""
