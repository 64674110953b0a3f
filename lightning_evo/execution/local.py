"""Jobs on this machine: each slot has a warm worker process, whose death harms no other."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from types import TracebackType
from typing import Self

from lightning_evo._compat.multiprocessing import imports_main_module
from lightning_evo.execution.isolation import WorkerSettings, start_forkserver
from lightning_evo.execution.job import Job, Pending
from lightning_evo.execution.results import decode_result, read_result
from lightning_evo.execution.slots import available_cores
from lightning_evo.execution.warm import NeverBegan, OutOfTime, WarmWorker, WorkerDied, remedy
from lightning_evo.execution.worker import OUTPUT_FILE
from lightning_evo.genome import FAILED, Result

__all__ = ["DEFAULT_PRELOAD", "LocalExecutor", "default_threads"]

DEFAULT_PRELOAD = ("torch", "lightning.pytorch", "lightning_evo.training.preload")

_MAX_FALSE_STARTS = 5
"""A job whose worker died this many times in a row before it began ends the search: the machine can't run workers."""


class LocalExecutor:
    """Runs each job in one of ``slots`` warm worker processes of this machine (Linux, macOS).

    Workers are forked from a server that has imported ``preload`` once. A slot sees its own devices only, keeps to its
    number of threads, and starts the next queued job itself as soon as one ends. A worker that dies breaks its slot's
    present job alone: the worker is replaced and the job run again, on that slot, at once. When the controller dies, even
    by SIGKILL, the kernel kills all workers and their child processes.

    The first executor of a process starts the forkserver; its ``preload`` and thread environment hold for later ones too
    (torch itself takes each executor's own number of threads).

    Implements :class:`~lightning_evo.execution.Executor`.

    Args:
        slots: How many jobs run at once; or the devices of each slot, as
            :func:`~lightning_evo.execution.plan_slots` gives them (none: the slot sees what the controller sees).
        threads: Threads per slot. Default: ``OMP_NUM_THREADS`` if set, else this process's cores shared evenly, at least 1.
        max_retries: How often a job is started again after its worker died (not after an exception or time limit).
        recycle_after: Replace a slot's worker after this many jobs. Default: never.
        redirect_output: Send what a job prints to ``output.log`` in its directory, which a retry continues.
        preload: Modules the forkserver imports once; missing ones are passed over.
        modules: Modules of the user that it imports once as well. One that fails, or leaves what a fork mustn't inherit
            (threads, child processes, CUDA, changes of what numbers are computed), is imported by each worker itself.

    Raises:
        ValueError: If a number is out of range.
        RuntimeError: If the program's main module makes an executor when it is merely imported.
    """

    def __init__(
        self,
        slots: int | Sequence[Sequence[str]] = 1,
        threads: int | None = None,
        max_retries: int = 2,
        recycle_after: int | None = None,
        redirect_output: bool = True,
        preload: Sequence[str] = DEFAULT_PRELOAD,
        modules: Sequence[str] = (),
    ) -> None:
        if imports_main_module():
            # A worker process imports the program's main module; running the search there would never end.
            raise RuntimeError(
                "the main module creates a LocalExecutor when imported: move that under `if __name__ == '__main__':`"
            )
        groups = [()] * slots if isinstance(slots, int) else [tuple(group) for group in slots]
        if not groups:
            raise ValueError(f"slots: {slots!r} is not a number of at least 1 or a non-empty list of device groups")
        for name, number, least in (
            ("threads", threads, 1),
            ("max_retries", max_retries, 0),
            ("recycle_after", recycle_after, 1),
        ):
            if number is not None and number < least:
                raise ValueError(f"{name}: {number!r} is not at least {least}")
        self.threads = threads if threads is not None else default_threads(len(groups))
        self.max_retries = max_retries
        self.recycle_after = recycle_after
        self._running: dict[int, Pending] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Future[Result]] = set()
        # Sorted: jobs by priority, the ends of the slots' threads (None) after all jobs.
        self._queue: queue.PriorityQueue[tuple[bool, Pending | None]] = queue.PriorityQueue()
        self._ended: queue.SimpleQueue[tuple[Pending, Result] | None] = queue.SimpleQueue()
        settings = [WorkerSettings(self.threads, group, os.getcwd()) for group in groups]
        start_forkserver(preload, settings[0].thread_environment, modules)
        self._workers = [WarmWorker(one, slot, redirect_output) for slot, one in enumerate(settings)]
        self._slot_threads = [
            threading.Thread(target=self._serve, args=(worker,), name=f"slot-{worker.slot}", daemon=True)
            for worker in self._workers
        ]
        self._notifier = threading.Thread(target=self._notify, name="slot-results", daemon=True)
        for thread in (*self._slot_threads, self._notifier):
            thread.start()
        # Before Pebble's own exit handler, which would look to the slots like deaths of their workers.
        atexit.register(self._at_exit)

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return len(self._workers)

    @property
    def running(self) -> Mapping[int, int]:
        """The running jobs: slot -> job id."""
        with self._lock:
            return {slot: pending.job.id for slot, pending in sorted(self._running.items())}

    def submit(self, job: Job) -> Future[Result]:
        """Queue a job; see :meth:`Executor.submit <lightning_evo.execution.Executor.submit>`.

        Cancelling the future of a running job kills its worker. Done-callbacks run in one thread of the executor's; a slow
        one delays other results' notice, never the next job.
        """
        pending = Pending.of(job)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"job {job.id}: the executor was shut down and accepts no more jobs")
            if not pending.future.done():
                self._open.add(pending.future)
                self._queue.put((False, pending))
        pending.future.add_done_callback(self._open.discard)
        return pending.future

    def shutdown(self, cancel: bool = False) -> None:
        """Take no more jobs and return when none is left and all workers are dead; may be called again.

        Args:
            cancel: Cancel what is queued and kill what is running, instead of waiting for it.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._slot_threads:
                    self._queue.put((True, None))
            left = list(self._open)
        if cancel:
            for future in left:
                future.cancel()
        for thread in self._slot_threads:
            thread.join()
        self._ended.put(None)
        if threading.current_thread() is not self._notifier:  # a done-callback may shut down
            self._notifier.join()
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        self.shutdown(cancel=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown(cancel=kind is not None)

    # -- in the slots' threads -----------------------------------------------------------------------------------------

    def _serve(self, worker: WarmWorker) -> None:
        """Run one job after the other until the end is queued."""
        while True:
            # Ahead of the job that will need it; where it fails, that job tries again and says why.
            with contextlib.suppress(NeverBegan):
                worker.ready()
            _, pending = self._queue.get()
            if pending is None:
                break
            if not pending.future.cancelled():
                self._run(worker, pending)
                if self.recycle_after is not None and worker.jobs >= self.recycle_after:
                    worker.stop()
        worker.stop()

    def _run(self, worker: WarmWorker, pending: Pending) -> None:
        with self._lock:
            self._running[worker.slot] = pending
        try:
            result: Result | None = self._attempt(worker, pending)
        except CancelledError:
            result = None
        except Exception as error:
            # Nothing is known to come here. If it does, the search must end with it, not wait forever.
            result = replace(Result.failure(error), fatal=True, slot=worker.slot)
        with self._lock:
            del self._running[worker.slot]
        if result is not None:
            self._ended.put((pending, result))

    def _attempt(self, worker: WarmWorker, pending: Pending) -> Result:
        """Run a job, as often as worker deaths make it necessary."""
        job, attempt, false_starts = pending.job, 1, 0
        while True:
            try:
                return decode_result(worker.run(pending, attempt))
            except NeverBegan as reason:
                false_starts += 1
                if false_starts == _MAX_FALSE_STARTS:
                    text = f"{reason} ({false_starts} times){remedy(reason)}"
                    return replace(_failed(f"WorkerDied: {text}", text, worker, attempt), fatal=True)
            except OutOfTime:
                text = f"ran longer than its time limit of {job.time_limit:g} s and was killed"
                return _failed("TimeLimit", text, worker, attempt)
            except WorkerDied as death:
                left = read_result(job.directory)
                if left is not None and left.attempts == attempt:
                    return left  # it died after its work was done
                if attempt > self.max_retries:
                    times = "once" if attempt == 1 else f"{attempt} times, the last time"
                    log = os.path.join(job.directory, OUTPUT_FILE)
                    text = f"its worker process died {times}: {death}; its output is in {log}"
                    return _failed("WorkerDied", text, worker, attempt)
                attempt, false_starts = attempt + 1, 0

    # -- in the notifier's thread --------------------------------------------------------------------------------------

    def _notify(self) -> None:
        """Keep promises in a thread of its own, so that no done-callback delays a slot's next job."""
        while (ended := self._ended.get()) is not None:
            pending, result = ended
            pending.settle(result)


def _failed(error_type: str, text: str, worker: WarmWorker, attempt: int) -> Result:
    """The result of a job whose process could not give one."""
    now = time.time()
    began = now if worker.began is None else now - (time.monotonic() - worker.began)
    return Result(
        FAILED, error=text, error_type=error_type, slot=worker.slot, attempts=attempt, started=began, ended=now
    )


def default_threads(slots: int) -> int:
    """Threads of each of some slots: ``OMP_NUM_THREADS`` if set, else this process's cores shared evenly, at least 1."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdigit() and int(wanted) > 0 else max(1, available_cores() // slots)
