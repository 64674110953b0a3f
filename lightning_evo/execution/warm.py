"""A slot's warm worker process: a one-worker Pebble pool, replaced whenever anything went wrong."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
import weakref
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from lightning_evo.execution.children import end_orphans
from lightning_evo.execution.isolation import WorkerSettings, isolate, kill_group
from lightning_evo.execution.job import Job, Pending
from lightning_evo.execution.worker import OUTPUT_FILE, JobState, run_job
from lightning_evo.utils.output import bound_output, settle_output

__all__ = ["NeverBegan", "OutOfTime", "WarmWorker", "WorkerDied", "remedy"]

_LOOK = 1.0  # seconds between two looks at whether the worker lives, for the ends that Pebble doesn't notice


class WorkerDied(Exception):
    """The worker process died while it ran a job."""


class NeverBegan(Exception):
    """The worker process died, or couldn't be started, before it began the job."""


class OutOfTime(Exception):
    """The job ran longer than its limit."""


_every: weakref.WeakSet[WarmWorker] = weakref.WeakSet()
"""All of this process: executors share the forkserver."""


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
        _every.add(self)

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
            # Pebble's own exceptions say nothing; what they come from does.
            cause = error if str(error) or error.__cause__ is None else error.__cause__
            raise NeverBegan(f"the worker process could not be started: {cause!r}") from error

    def run(self, pending: Pending, attempt: int) -> str:
        """Run a job to its end, whatever that is.

        Returns:
            Its result as JSON text.

        Raises:
            NeverBegan: If the process could not begin it.
            WorkerDied: If the process died with it; the message says how.
            OutOfTime: If its time was up; the process was killed.
            CancelledError: If its future was canceled; the process was killed.
        """
        self.ready()
        assert self._pool is not None
        self._state.runner, self._state.began = 0, 0.0
        job = pending.job
        try:
            # Pebble's own exceptions (RuntimeError) mean that the idle process died since it was last looked at.
            inner = self._pool.schedule(
                run_job, args=(pending.payload, job.directory, self.slot, attempt, self.redirect_output, job.modules)
            )
        except RuntimeError as error:
            raise NeverBegan(f"the worker process died while idle: {error}") from error
        pending.future.add_done_callback(lambda _: inner.cancel())
        try:
            text, fit = self._wait(inner, job)
        except (CancelledError, OutOfTime):
            self.stop(kill=True)
            raise
        except (ProcessExpired, BrokenProcessPool) as error:
            self.stop(kill=True)
            if self.began is None:
                raise NeverBegan(f"the worker process died before it began the job: {error}") from error
            raise WorkerDied(_cause(error.exitcode if isinstance(error, ProcessExpired) else None)) from error
        finally:
            self._bound_output(job)
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
        """Kill what is left of the process, its group, and what its jobs have moved out of the group."""
        for pid in {self._state.pid, self._state.runner} - {0}:
            kill_group(pid)
        if self._state.pid:
            end_orphans(self._state.parent, {worker._state.pid for worker in list(_every) if worker is not self})

    def _wait(self, inner: ProcessFuture[tuple[str, bool]], job: Job) -> tuple[str, bool]:
        time_limit = job.time_limit
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
                self._bound_output(job)
                if not inner.done() and not self._alive():
                    raise BrokenProcessPool("the worker process is gone") from None

    def _bound_output(self, job: Job) -> None:
        """Look whether a job prints without end. Its process can't be relied on for that, nor can those it starts."""
        if self.redirect_output:
            bound_output(os.path.join(job.directory, OUTPUT_FILE))

    def _alive(self) -> bool:
        assert self._pool is not None
        if not self._pool.active:
            return False
        if self.began is None:
            return True
        try:
            os.kill(self._state.runner, 0)
        except ProcessLookupError:
            return False
        return True


_REMEDIES = {
    errno.ENOSPC: "/dev/shm is probably full (`df -h /dev/shm`): remove what fills it or enlarge it (Docker: --shm-size)",
    errno.EMFILE: "this process has too many files open: raise the limit (`ulimit -n`) or use fewer workers.slots",
    errno.ENFILE: "too many files are open on this machine: close some programs",
    errno.EAGAIN: "no more processes or threads may be started: raise the limit (`ulimit -u`, or the container's limit "
    "of pids) or use fewer workers.slots",
    errno.ENOMEM: "there is too little memory: end other programs or use fewer workers.slots",
}


def remedy(reason: NeverBegan) -> str:
    """What to do so that workers start: an addition to the reason why one did not."""
    cause = reason.__cause__
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _REMEDIES:
            return f": {_REMEDIES[cause.errno]}"
        if isinstance(cause, RuntimeError) and "new thread" in str(cause):
            return f": {_REMEDIES[errno.EAGAIN]}"
        if isinstance(cause, (EOFError, ConnectionError)):
            break
        cause = cause.__cause__ or cause.__context__
    return (
        ": the server that workers are forked from, or the workers themselves, were killed while they started, often by "
        "the kernel's out-of-memory killer (`dmesg`), or an import failed; what they said is on standard error"
    )


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
