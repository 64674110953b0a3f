"""The loop of a search: ask, record, submit; wait, record, tell. It never trains."""

from __future__ import annotations

import queue
import time
from collections import Counter
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from lightning_evo.archive import Archive, ArchiveWriter, DiskFull
from lightning_evo.archive.meta import CheckpointUsage, read_meta
from lightning_evo.archive.seals import CHECKPOINTS, sealed
from lightning_evo.evolution.checkpoints import Checkpoints, lost_its_start
from lightning_evo.evolution.errors import Interrupts, SearchError, SearchInterrupted
from lightning_evo.evolution.jobs import Jobs, SharedResults
from lightning_evo.evolution.screening import QualityRecord
from lightning_evo.evolution.search import Search
from lightning_evo.evolution.stacking import ALONE, Grouping, member_results
from lightning_evo.execution import Executor, find_result
from lightning_evo.execution.results import RESULT_FILE, ImportedByWorkers, ReplacedWorker
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.genome.records import StackRecord, UncountedFlopsRecord
from lightning_evo.reporting.progress import ProgressDisplay, RunningCandidate, SearchState
from lightning_evo.reporting.reporter import ReporterDispatcher
from lightning_evo.training.adaptation import AdaptationRecord
from lightning_evo.training.candidate import read_curve
from lightning_evo.utils.files import OutsideError, inside, remove_tree

__all__ = ["DUPLICATES_IN_A_ROW", "FAILURES_ALIKE", "AnswerRecord", "Controller"]

FAILURES_ALIKE = 3
"""The search stops when its first candidates, this many, all fail with the same error."""

DUPLICATES_IN_A_ROW = 200
"""The search space counts as exhausted when this many candidates in a row had all been asked before."""

_MOST_DAMAGED = 3
"""How often a candidate starts again because what it starts from was damaged meanwhile."""

TICK = 0.5
"""Seconds between two looks at signals and the display while nothing else happens."""

RECORD_ELAPSED = 5.0
"""Seconds between two records of the time spent, which the wall-time budget adds up over continued runs."""


@dataclass
class _Done:
    job: int
    future: Future[Result]


class Controller:
    """One run of a search over its archive.

    Args:
        search: What is searched.
        writer: Where everything is recorded.
        archive: The same, to read.
        executor: Where candidates run.
        progress: What the user sees.
        interrupts: What the user asks for with Ctrl-C.
        grouping: Which candidates train together.
        reporting: The reporters, which get every event.
    """

    def __init__(
        self,
        search: Search,
        writer: ArchiveWriter,
        archive: Archive,
        executor: Executor,
        progress: ProgressDisplay,
        interrupts: Interrupts,
        grouping: Grouping,
        reporting: ReporterDispatcher,
    ) -> None:
        self.search = search
        self.writer = writer
        self.archive = archive
        self.executor = executor
        self.progress = progress
        self.interrupts = interrupts
        self.reporting = reporting
        self.algorithm = search.algorithm
        self.state = SearchState(search.objectives, search.budget.limits)
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self._running: dict[int, list[Candidate]] = {}  # a job's id -> the candidates it trains
        self._begun: list[Candidate] = []  # a swarm that isn't asked for whole yet
        self._uncounted: set[str] = set()  # operations whose FLOPs aren't counted, that were reported
        self._alone: dict[int, str] = {}  # why candidates that were to train in a stack are trained by themselves
        self._trained, self._together = 0, 0  # candidates whose training was begun, and those of them in stacks
        self._damaged: Counter[int] = Counter()  # how often a job's start was damaged after it was looked at
        self._duplicates: dict[int, list[Candidate]] = {}
        self._duplicates_in_a_row = 0
        self._quality = QualityRecord(self.algorithm, writer, archive, progress)
        self._checkpoints = Checkpoints(search.directory, search.keep_checkpoints, search.objectives, search.trust)
        self._checkpoints.peak_bytes = (read_meta(archive.meta, CheckpointUsage) or CheckpointUsage()).peak_bytes
        self._shared = (
            SharedResults(search.directory, self.algorithm, search.space, search.objectives)
            if search.needs_shared_results
            else None
        )
        self._grouping = grouping
        self._jobs = Jobs(search, archive, self._checkpoints, self._shared, grouping, progress.message)
        self._unfinished: dict[int, Candidate] = {}
        self._noted: set[str] = set()  # notes about candidates' configs that were shown
        self._left: Counter[str] = Counter()  # how often workers were replaced, by what a job had left behind
        self._started = time.monotonic()
        self._elapsed_before = float(archive.meta.get("elapsed", 0.0))
        self._recorded_elapsed = self._elapsed_before

    # -- the search ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Bring the algorithm to where the archive says it was; start again what was asked and never ended."""
        for candidate, result in self.archive.events():
            if result is None:
                self.algorithm.recall(candidate)
                self.reporting.asked(candidate)
                self.state.asked += 1
                self._unfinished[candidate.id] = candidate
            else:
                self._tell(candidate, result)
        if self.state.asked:
            self.progress.message(f"continuing: {self.state.summary()}; {len(self._unfinished)} unfinished")
        self._adopt(list(self._unfinished.values()))
        for remark in self._checkpoints.refused:
            self.progress.message(remark)
        self._start_again(list(self._unfinished.values()))
        self._drop_checkpoints()  # a kill, or candidates that were tried again, may have left more than are needed

    def _adopt(self, candidates: list[Candidate]) -> None:
        """Record those that had ended when the controller was killed."""
        for candidate in candidates:
            adopted = self._left_behind(candidate)
            if adopted is not None and not adopted.fatal and not lost_its_start(adopted):
                self._record(candidate, adopted, adopted=True)

    def _left_behind(self, candidate: Candidate) -> Result | None:
        """The result that an earlier run's worker left of a candidate; one that can't be used is reported as damaged."""
        place = self._jobs.directory(candidate)
        result, fault = find_result(place)
        values = None if result is None or result.fitness is None else len(result.fitness)
        if values not in (None, len(self.search.objectives)):
            result, fault = None, f"its fitness has {values} values"
        if fault:
            self.progress.message(
                f"{place / RESULT_FILE} is damaged ({fault}): candidate {candidate.id} is trained again"
            )
        return result

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
                f"stopped: {self.state.summary()}; the same command continues the search in {self.search.directory}"
            )
        if self.state.best is None and self.state.failed:
            raise SearchError(
                f"{self.state.end}: no candidate finished; the first failed: {self.state.first_errors[0]}"
            )
        if self._grouping.free and self._trained > 1 and not self._together:
            self.progress.message(self._why_nothing_stacked())
        self.progress.message(self._farewell())

    # -- asking --------------------------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        while len(self._running) < self.executor.slots and (asked := self._ask()):
            self._start(asked)

    def _ask(self) -> list[Candidate]:
        """Ask for what a free slot trains next: one candidate, as many as may be stacked, or a swarm; nothing: wait."""
        size = self.algorithm.swarm_size
        asked, self._begun = self._begun, []
        while len(asked) < (size or self._grouping.capacity):
            # A swarm is asked for whole or not at all: one that is begun has its place in the budget.
            swarm_is_begun = size is not None and bool(asked)
            done = self.interrupts.stopping if swarm_is_begun else self._spent(size or 1)
            if done:
                break
            candidate = self.algorithm.ask()
            self._quality.look()
            if candidate is None:
                if not self._running and not asked:
                    raise SearchError(
                        f"{type(self.algorithm).__name__}.ask() wants to wait, but nothing is running that could be told"
                    )
                break
            self.writer.record_candidate(candidate, queued=time.time())
            self._unfinished[candidate.id] = candidate
            self.reporting.asked(candidate)
            self.state.asked += 1
            asked.append(candidate)
        if size and len(asked) < size:
            asked, self._begun = [], asked
        return asked

    def _spent(self, wanted: int) -> bool:
        """Whether the budget doesn't allow for so many more candidates."""
        budget, state = self.search.budget, self.state
        state.elapsed = self._elapsed()
        if self._duplicates_in_a_row >= DUPLICATES_IN_A_ROW:
            state.end = f"the search space seems exhausted: {DUPLICATES_IN_A_ROW} candidates in a row were duplicates"
        elif self.algorithm.exhausted:
            state.end = f"{type(self.algorithm).__name__} is through"
        elif budget.candidates is not None and state.asked + wanted > budget.candidates:
            state.end = "budget.candidates"
        elif budget.epochs is not None and state.epochs >= budget.epochs:
            state.end = "budget.epochs"
        elif budget.seconds is not None and state.elapsed >= budget.seconds:
            state.end = "budget.wall_time"
        return bool(state.end) or self.interrupts.stopping

    def _start(self, candidates: list[Candidate]) -> None:
        """Have candidates trained, or answered by those they duplicate."""
        fresh = []
        for candidate in candidates:
            original = candidate.duplicate_of
            self._duplicates_in_a_row = 0 if original is None else self._duplicates_in_a_row + 1
            if original is None:
                fresh.append(candidate)
            elif (known := self.archive.result(original)) is not None:
                self._record(candidate, answered_by(known, original))
            else:
                self._duplicates.setdefault(original, []).append(candidate)
        for group in self._grouping.split(fresh):
            self._submit(group)

    def _start_again(self, candidates: list[Candidate]) -> None:
        """Start what an earlier run left unfinished; of a swarm all particles, as they make sense only together."""
        size = self.algorithm.swarm_size
        if size is None:
            self._start(candidates)
            return
        for first in sorted({candidate.id // size * size for candidate in candidates}):
            swarm = [self.archive.candidate(id) for id in range(first, min(first + size, self.state.asked))]
            if len(swarm) == size:
                self._submit(swarm)
            else:
                self._begun = swarm

    def _submit(self, group: list[Candidate]) -> None:
        if len(group) == 1:
            job = self._jobs.alone(group[0])
        else:
            job = self._jobs.together(group, {each.id for each in group if each.id not in self._unfinished})
        self._running[job.id] = group
        self._trained += len(group)
        self._together += len(group) if len(group) > 1 else 0
        future = self.executor.submit(job)
        future.add_done_callback(lambda future: self._done.put(_Done(job.id, future)))

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
        group = self._running.pop(done.job)
        try:
            result = done.future.result()
        except CancelledError:
            return  # stays unfinished in the archive, and is trained when the search continues
        if lost_its_start(result) and self._damaged[done.job] < _MOST_DAMAGED:
            self._damaged[done.job] += 1
            self._checkpoints.look_again()
            self._submit(group)
            return
        self._count_replaced(done.job, result)
        self._tell_imported(result)
        ended = self._results(group, result)
        if result.fatal:
            for candidate, own in ended:
                if own.status != FAILED:
                    self._record(candidate, own)  # trained all the same; the archive keeps space for it in reserve
            raise SearchError(
                f"candidate {done.job} failed because of the machine: {result.error_type}{_hint(result.error_type or '')}\n"
                f"Fix this and run the same command again: the search continues, and no finished candidate is lost."
            )
        for candidate, own in ended:
            self._tell_adapted(own)
            self._record(candidate, own)
            for duplicate in self._duplicates.pop(candidate.id, []):
                self._record(duplicate, answered_by(own, candidate.id))
            self._stop_if_all_fail_alike(own, self._jobs.directory_of(group))
        if len(group) > 1:
            remove_tree(self._jobs.directory_of(group) / CHECKPOINTS)  # of the stack as a whole, which nobody continues
        left = [candidate for candidate in group if candidate.id in self._unfinished]
        if left:
            reason = result.error_type or "it left no result"
            self.progress.message(f"a stack of {len(group)} failed: {reason}; {len(left)} are trained one by one")
            for candidate in left:
                self._alone[candidate.id] = reason
                self._submit([candidate])

    def _tell_adapted(self, result: Result) -> None:
        """Say, once for each, what of the config is left out or redirected in candidates."""
        adapted = result.entry(AdaptationRecord)
        for note in () if adapted is None else adapted.notes:
            if note not in self._noted:
                self._noted.add(note)
                self.progress.message(f"{note} (said once)")

    def _count_replaced(self, job: int, result: Result) -> None:
        """Say, once for each kind, that a worker was replaced because of what its job left behind."""
        replaced = result.entry(ReplacedWorker)
        if replaced is None:
            return
        if not replaced.left.keys() <= self._left.keys():
            self.progress.message(
                f"candidate {job} left {replaced} behind, which can't be put back: "
                "its worker is replaced, so that nothing of it reaches the next candidate (said once)"
            )
        self._left.update(replaced.left.keys())

    def _tell_imported(self, result: Result) -> None:
        """Say, once for each, which modules couldn't be imported for all workers at once."""
        imported = result.entry(ImportedByWorkers)
        for name, reason in () if imported is None else imported.reasons.items():
            note = f"importing {name} {reason}: each worker imports it by itself"
            if note not in self._noted:
                self._noted.add(note)
                self.progress.message(f"{note} (said once)")

    def _results(self, group: list[Candidate], result: Result) -> list[tuple[Candidate, Result]]:
        """The candidates that have a result now that a job has ended with ``result``, each with its own."""
        if len(group) == 1:
            return [(group[0], result)]
        waiting = [candidate for candidate in group if candidate.id in self._unfinished]
        return member_results(waiting, self._jobs.directory, result, self.algorithm.swarm(group[0]))

    def _record_what_still_ends(self) -> None:
        """The disk is full: nothing new begins, and what runs is recorded in the space the archive kept in reserve."""
        self.progress.message("the disk is full: recording running candidates as they finish, then stopping")
        while self._running and not self.interrupts.now:
            try:
                done = self._done.get(timeout=TICK)
            except queue.Empty:
                continue
            group = self._running.pop(done.job)
            if done.future.cancelled():
                continue
            for candidate, result in self._results(group, done.future.result()):
                if result.status == FAILED:
                    continue  # what a full disk made fail is trained again when the search continues
                with suppress(DiskFull):
                    self.writer.record_result(candidate.id, self._placed(candidate, result.storable()))

    def _placed(self, candidate: Candidate, result: Result, adopted: bool = False) -> Result:
        """The result with its checkpoint's path relative to the run's directory, and with its seal.

        Args:
            candidate: The candidate.
            result: As its training left it.
            adopted: It was found in the candidate's directory, where somebody else could have put it: its checkpoint is
                this user's own only if the worker said so.
        """
        if result.checkpoint is None or candidate.duplicate_of is not None:
            return result
        try:
            path = inside(self._jobs.directory(candidate), result.checkpoint)
            if not adopted and path.is_file():
                result = sealed(result, path)
        except (OutsideError, OSError) as error:
            self.progress.message(f"candidate {candidate.id}: its checkpoint is not used: {error}")
            return replace(result, checkpoint=None, checkpoint_bytes=None)
        return replace(result, checkpoint=path.relative_to(self.search.directory).as_posix())

    def _as_recorded(self, candidate: Candidate, result: Result, adopted: bool) -> Result:
        """The result with all that is known of it besides, as the archive takes it."""
        if result.status == FAILED and not result.curve:
            # A worker that died took its curve along; what it had written is still there.
            result = replace(result, curve=tuple(read_curve(self._jobs.directory(candidate))))
        if (why := self._alone.pop(candidate.id, None)) is not None:
            alone = StackRecord(candidate.id, 1, ALONE, why)
            result = replace(result, extra={**result.extra, alone.key: alone.to_dict()})
        # An executor of the user's own may have returned anything, and a path or an earlier version's file hold any text.
        return self._placed(candidate, result.storable(), adopted)

    def _record(self, candidate: Candidate, result: Result, adopted: bool = False) -> None:
        result = self._as_recorded(candidate, result, adopted)
        self.writer.record_result(candidate.id, result)
        self._tell(candidate, result)
        self._drop_checkpoints()
        self.progress.told(candidate, result, self.state)
        self._tell_uncounted(result)

    def _tell_uncounted(self, result: Result) -> None:
        """Say, once for each, which operations' FLOPs aren't counted."""
        uncounted = result.entry(UncountedFlopsRecord)
        if uncounted is not None and not set(uncounted.calls) <= self._uncounted:
            self._uncounted |= set(uncounted.calls)
            self.progress.message(str(uncounted))

    def _tell(self, candidate: Candidate, result: Result) -> None:
        """Bring everything up to date with a recorded result: counts, checkpoints, the algorithm, what others know."""
        del self._unfinished[candidate.id]
        self.state.add_result(candidate, result)
        self._checkpoints.add(candidate, result)
        self.algorithm.tell(candidate, result)
        self.reporting.told(candidate, result, self.algorithm.population)
        if self._shared is not None:
            self._shared.told(candidate, result)

    def _drop_checkpoints(self) -> None:
        """Delete checkpoints that nobody needs any more."""
        needed: set[int] = set()
        if self.search.inherits:
            waiting = (candidate.inherits for candidate in self._unfinished.values())
            needed = self.algorithm.ancestors | {id for id in waiting if id is not None}
        self._checkpoints.drop(needed, self.writer)

    def _stop_if_all_fail_alike(self, result: Result, place: Path) -> None:
        state = self.state
        if result.status != FAILED or state.completed or state.stopped:
            return
        assert result.error_type is not None
        alike = 1 if result.error_type.startswith("MetricNotLogged") else FAILURES_ALIKE
        errors = state.first_errors[:alike]
        if len(errors) < alike or len(set(errors)) > 1:
            return
        log = place / "output.log"
        raise SearchError(
            f"{'the first candidate' if alike == 1 else f'all of the first {alike} candidates'} failed: "
            f"{result.error_type}{_hint(result.error_type)}\n"
            f"The traceback is in `lightning-evo leaderboard {self.search.directory} --errors`, the output in {log}."
        )

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self, force: bool = False) -> None:
        elapsed = self._elapsed()
        if force or elapsed - self._recorded_elapsed >= RECORD_ELAPSED:
            usage = self._checkpoints.usage
            known = {"elapsed": elapsed, usage.key: usage.to_dict(), "end": self.state.end}
            self.writer.update_meta(known)
            self._recorded_elapsed = elapsed
        self.state.elapsed = elapsed
        self.reporting.poll({slot: self._running.get(job, []) for slot, job in self.executor.running.items()}, elapsed)
        if self.progress.due():
            self.state.running = {slot: self._describe_running(job) for slot, job in self.executor.running.items()}
            self.progress.update(self.state)

    def _describe_running(self, job: int) -> RunningCandidate:
        group = self._running.get(job)
        if group is None:
            return RunningCandidate(job, 0, None)
        epoch = len(read_curve(self._jobs.directory(group[0])))
        return RunningCandidate(job, epoch, self.search.trainable.epochs(group[0]), others=len(group) - 1)

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._started

    def _why_nothing_stacked(self) -> str:
        """Why no candidates trained together, though there are genes that might have differed among them."""
        fixed = [path for path, reason in (self._grouping.reasons or {}).items() if reason]
        if not fixed:
            return "nothing was stacked: never were there two candidates at once for a free slot"
        return (
            "nothing was stacked: candidates that were there at once never agreed in "
            f"{', '.join(fixed)}, which must be equal within a stack"
        )

    def _farewell(self) -> str:
        kept = self._checkpoints
        disk = (
            f"; {kept.usage.kept} checkpoints, {kept.bytes / 1e6:.1f} MB (at most {kept.peak_bytes / 1e6:.1f})"
            if kept
            else ""
        )
        times = ", ".join(f"{kind} {count}" for kind, count in self._left.most_common())
        left = f"; workers replaced because of what candidates left behind: {times}" if times else ""
        return (
            f"finished ({self.state.end}): {self.state.summary()}{disk}{left}\n"
            f"To extend the search, raise evolution.budget and run the same command again."
        )


@dataclass(frozen=True)
class AnswerRecord:
    """The candidate that gave its result to one that was answered, not trained.

    Args:
        original: Id of the candidate it duplicates.
    """

    key: ClassVar[str] = "answered_by"

    original: int

    def to_dict(self) -> int:
        """As JSON: the id."""
        return self.original

    @classmethod
    def from_dict(cls, record: int) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(record)


def answered_by(result: Result, original: int) -> Result:
    """The result of a candidate that was answered, not trained: the original's, at no cost of its own."""
    answer = AnswerRecord(original)
    spent = {name: 0 for name in ("seconds", "epochs", "training_flops") if name in result.cost}
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
        extra={answer.key: answer.to_dict()},
    )


def _hint(error_type: str) -> str:
    if error_type.startswith("MetricNotLogged"):
        return " (evolution.objectives: monitor must be one of these, or a cost such as cost/params)"
    if error_type.startswith(("OSError", "FileNotFoundError", "NotADirectoryError", "PermissionError")):
        return " (in the candidate's directory: free space, or make it writable)"
    return ""
