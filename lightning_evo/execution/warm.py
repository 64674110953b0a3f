"""A slot's warm worker process: a one-worker Pebble pool, replaced whenever anything went wrong."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from lightning_evo.execution.isolation import WorkerSettings, isolate, kill_group
from lightning_evo.execution.job import Pending
from lightning_evo.execution.worker import JobState, run_job
from lightning_evo.utils.output import settle_output

__all__ = ["NeverBegan", "OutOfTime", "WarmWorker", "WorkerDied"]

_LOOK = 1.0  # seconds between two looks at whether the worker lives, for the ends that Pebble doesn't notice


class WorkerDied(Exception):
    """The worker process died while it ran a job."""


class NeverBegan(Exception):
    """The worker process died, or couldn't be started, before it began the job."""


class OutOfTime(Exception):
    """The job ran longer than its limit."""


class WarmWorker:
    """One worker process, ready before its job comes; every end but a job's own replaces it.

    Pebble's pool brings the process, its channel and the notice of its death. Time limits and cancellation are ours: a
    pool that kills a worker just when its job ends may kill the next job with it and wait for that one forever. So does a
    pool whose worker died within the channel's lock or exited with code 0. Hence a pool never serves again after a job
    that didn't end by itself.

    Not thread-safe: a slot's own thread uses it.

    Args:
        settings: What the process is started with.
        slot: Its slot's number.
        redirect_output: See ``run_job``.
    """

    def __init__(self, settings: WorkerSettings, slot: int, redirect_output: bool) -> None:
        self.settings = settings
        self.slot = slot
        self.redirect_output = redirect_output
        self.jobs = 0  # how many the present process has ended
        self._context = multiprocessing.get_context("forkserver")
        self._pool: ProcessPool | None = None
        self._state = JobState()

    def ready(self) -> None:
        """Have a process, a new one where the last was stopped or died while idle.

        Raises:
            NeverBegan: If it can't be started.
        """
        if self._pool is not None and self._pool.active:
            return
        self.stop(kill=True)
        settle_output()  # Python flushes it before it starts a process, and fails where it can't be written
        try:
            # Created in shared memory, cleared; the process is handed it as it starts.
            self._state = self._context.RawValue(JobState)
            self._pool = ProcessPool(
                max_workers=1, initializer=isolate, initargs=(self.settings, self._state), context=self._context
            )
            if not self._pool.active:  # this starts it
                raise BrokenProcessPool("it died immediately")
        except (OSError, RuntimeError, EOFError) as error:  # BrokenProcessPool is a RuntimeError
            self.stop(kill=True)
            raise NeverBegan(f"the worker process could not be started: {error!r}") from error

    def run(self, pending: Pending, attempt: int) -> str:
        """Run a job to its end, whatever that is.

        Returns:
            Its result as JSON text.

        Raises:
            NeverBegan: If the process could not begin it.
            WorkerDied: If the process died with it; the message says how.
            OutOfTime: If its time was up; the process was killed.
            CancelledError: If its future was cancelled; the process was killed.
        """
        self.ready()
        assert self._pool is not None
        self._state.pid, self._state.began = 0, 0.0
        job = pending.job
        try:
            # Pebble's own exceptions (RuntimeError) mean that the idle process died since it was last looked at.
            inner = self._pool.schedule(
                run_job, args=(pending.payload, job.directory, self.slot, attempt, self.redirect_output)
            )
        except RuntimeError as error:
            raise NeverBegan(f"the worker process died while idle: {error}") from error
        pending.future.add_done_callback(lambda _: inner.cancel())
        try:
            text, fit = self._wait(inner, job.time_limit)
        except (CancelledError, OutOfTime):
            self.stop(kill=True)
            raise
        except (ProcessExpired, BrokenProcessPool) as error:
            self.stop(kill=True)
            if self.began is None:
                raise NeverBegan(f"the worker process died before it began the job: {error}") from error
            raise WorkerDied(_cause(error.exitcode if isinstance(error, ProcessExpired) else None)) from error
        self.jobs += 1
        if not fit:
            self.stop()
        return text

    @property
    def began(self) -> float | None:
        """When (``time.monotonic``) the job that was run last began; ``None`` if it never did."""
        return self._state.began or None

    def stop(self, kill: bool = False) -> None:
        """End the process and its child processes; returns when they are dead.

        Args:
            kill: Without the grace of a SIGTERM, of which a job may have its own idea.
        """
        if self._pool is None:
            return
        self._pool.stop()
        if kill:
            self._kill()
        self._pool.join()
        self._kill()  # what its jobs left running
        self._pool = None
        self.jobs = 0

    def _kill(self) -> None:
        if self._state.pid:
            kill_group(self._state.pid)

    def _wait(self, inner: ProcessFuture[tuple[str, bool]], time_limit: float | None) -> tuple[str, bool]:
        while True:
            wait = _LOOK
            if time_limit is not None and self.began is not None:
                wait = min(wait, self.began + time_limit - time.monotonic())
            elif time_limit is not None:
                wait = min(wait, time_limit)
            try:
                return inner.result(timeout=max(0.0, wait))
            except TimeoutError:
                if wait <= 0:
                    raise OutOfTime from None
                if not inner.done() and not self._alive():
                    raise BrokenProcessPool("the worker process is gone") from None

    def _alive(self) -> bool:
        assert self._pool is not None
        if not self._pool.active:
            return False
        if self.began is None:
            return True
        try:
            os.kill(self._state.pid, 0)
        except ProcessLookupError:
            return False
        return True


def _cause(exitcode: int | None) -> str:
    """What an exit code says about how a process died."""
    if exitcode is None or exitcode == 0:
        return "exited without a result"
    if exitcode == signal.SIGTERM:  # Pebble's workers turn the signal into an exit code
        return f"killed by signal {exitcode} (SIGTERM)"
    if exitcode > 0:
        return f"exited with code {exitcode}"
    try:
        name = signal.Signals(-exitcode).name
    except ValueError:
        name = "unknown"
    hint = {
        "SIGKILL": ": often the kernel's out-of-memory killer",
        "SIGSEGV": ": a crash in native code",
        "SIGBUS": ": a crash in native code, or shared memory (/dev/shm) is full",
        "SIGABRT": ": aborted in native code; see the job's output",
    }
    return f"killed by signal {-exitcode} ({name}){hint.get(name, '')}"
