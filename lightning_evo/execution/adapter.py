"""Jobs in any ``concurrent.futures.Executor``: threads, processes, dask, loky, parsl."""

from __future__ import annotations

import concurrent.futures
import heapq
import threading
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future
from dataclasses import replace
from types import TracebackType
from typing import Self

from lightning_evo.execution.job import Job, Pending
from lightning_evo.execution.results import decode_result
from lightning_evo.execution.worker import run_job
from lightning_evo.genome import Result

__all__ = ["FuturesExecutor"]


class FuturesExecutor:
    """Runs jobs in an executor of someone else's making, ``slots`` of them at a time.

    Jobs wait here, by priority, until a slot is free. A job that raises is a failed result, as everywhere; so is one whose
    worker was lost, and a broken pool (one death breaks a standard process pool with all that runs in it) is fatal to the
    search. What the executor does not offer, this adapter does not add: workers are shared with others, so nothing is
    redirected or pinned, no worker is killed or replaced, and a time limit is refused. Cancelling a running job discards
    its result; its slot is free when it has ended.

    For dask: ``FuturesExecutor(client.get_executor(pure=False), slots=...)``.

    Implements :class:`~lightning_evo.execution.Executor`.

    Args:
        executor: Where jobs run. It stays its owner's: shutting down this adapter leaves it running.
        slots: How many jobs run at the same time; usually its number of workers.

    Raises:
        ValueError: If ``slots`` is below 1.
    """

    def __init__(self, executor: concurrent.futures.Executor, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"slots: {slots!r} is not at least 1")
        self.executor = executor
        self._slots = slots
        self._queue: list[Pending] = []
        self._running: dict[int, Pending] = {}
        self._open: set[Future[Result]] = set()
        self._closed = False
        self._lock = threading.RLock()
        self._filling = False
        self._broken: BrokenExecutor | None = None

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._slots

    @property
    def running(self) -> Mapping[int, int]:
        """The running jobs: slot -> job id."""
        with self._lock:
            return {slot: pending.job.id for slot, pending in sorted(self._running.items())}

    def submit(self, job: Job) -> Future[Result]:
        """Queue a job; see :meth:`Executor.submit <lightning_evo.execution.Executor.submit>`.

        Raises:
            ValueError: If the job has a time limit.
        """
        if job.time_limit is not None:
            raise ValueError(
                f"job {job.id}: time_limit {job.time_limit:g} was given, but {type(self.executor).__name__} cannot end a "
                f"running job; leave time_limit out or use the LocalExecutor"
            )
        pending = Pending.of(job)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"job {job.id}: the executor was shut down and accepts no more jobs")
            if not pending.future.done():
                self._open.add(pending.future)
                heapq.heappush(self._queue, pending)
        pending.future.add_done_callback(self._open.discard)
        self._fill_slots()
        return pending.future

    def shutdown(self, cancel: bool = False) -> None:
        """Take no more jobs and wait for those submitted; may be called again. The wrapped executor is left running.

        Args:
            cancel: Cancel what is queued and discard what is running, instead of waiting for it.
        """
        with self._lock:
            self._closed = True
            left = list(self._open)
        if cancel:
            for future in left:
                future.cancel()
        concurrent.futures.wait(left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown(cancel=kind is not None)

    def _fill_slots(self) -> None:
        """Hand queued jobs to the executor while slots are free."""
        refused: list[tuple[Pending, Result]] = []
        with self._lock:
            if self._filling:
                return  # called back from below, by an executor that runs jobs as they are submitted
            self._filling = True
            try:
                while self._queue and len(self._running) < self._slots:
                    pending = heapq.heappop(self._queue)
                    if not pending.future.cancelled():
                        slot = min(set(range(self._slots)) - self._running.keys())
                        self._running[slot] = pending
                        try:
                            if self._broken is not None:
                                raise self._broken
                            self._start(pending, slot)
                        except Exception as error:
                            # A broken or closed executor refuses; which exceptions say so is the executor's own affair.
                            del self._running[slot]
                            refused.append((pending, replace(_lost(error, slot), fatal=True)))
            finally:
                self._filling = False
        for pending, result in refused:
            pending.settle(result)

    def _start(self, pending: Pending, slot: int) -> None:
        # By position: some executors take keyword arguments for themselves.
        inner = self.executor.submit(run_job, pending.payload, pending.job.directory, slot, 1, False)
        pending.future.add_done_callback(lambda _: inner.cancel())
        inner.add_done_callback(lambda _: self._end(pending, slot, inner))

    def _end(self, pending: Pending, slot: int, inner: Future[tuple[str, bool]]) -> None:
        if inner.cancelled():
            result = _lost(RuntimeError("the executor canceled the job"), slot)
        elif (error := inner.exception()) is not None:
            result = _lost(error, slot)
            if isinstance(error, BrokenExecutor):
                # Not to be asked again: while a process pool tells of its end, it holds a lock that submitting waits for
                # (from Python 3.12 on).
                self._broken = error
        else:
            result = decode_result(inner.result()[0])
        with self._lock:
            del self._running[slot]
        self._fill_slots()
        pending.settle(result)


def _lost(error: BaseException, slot: int) -> Result:
    """The result of a job that the executor lost."""
    failure = Result.failure(error)
    return replace(
        failure, error_type=f"WorkerDied: {failure.error_type}", fatal=isinstance(error, BrokenExecutor), slot=slot
    )
