"""Isolation of a slot's worker process: device, threads and process group; it never outlives its owner."""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker

from lightning_evo.execution.children import MARK, adopt_orphans, end_marked, mark
from lightning_evo.execution.user_modules import orders
from lightning_evo.execution.worker import JobState, own_process
from lightning_evo.utils.process import die_with_parent

__all__ = ["WorkerSettings", "isolate", "kill_group", "start_forkserver"]


@dataclass(frozen=True)
class WorkerSettings:
    """The arguments with which a worker process is started.

    Args:
        threads: Threads for each of its parallel regions.
        devices: The CUDA devices it sees, as ``CUDA_VISIBLE_DEVICES`` names them; empty: as the controller does.
        directory: The working directory; empty: that of the controller when the process starts.
    """

    threads: int
    devices: tuple[str, ...] = ()
    directory: str = ""

    @property
    def thread_environment(self) -> dict[str, str]:
        """Environment variables from which numerical libraries take the number of threads."""
        return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))


def isolate(settings: WorkerSettings, state: JobState) -> None:
    """Initialise a worker process; runs in it before its first job."""
    from lightning_evo.execution.process_state import ProcessState  # of use in worker processes alone; preloaded

    state.pid, state.parent = os.getpid(), os.getppid()  # before it has a group of its own: see end_orphans
    # A process group of its own: the terminal's Ctrl-C passes by, and the worker's child processes can be killed with it.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Without its forkserver a worker would run on while the controller takes it for dead.
    die_with_parent()
    _die_with_controller()
    adopt_orphans()
    if settings.directory:
        with contextlib.suppress(OSError):  # it was removed
            os.chdir(settings.directory)
    os.environ.update(settings.thread_environment)
    if settings.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(settings.devices)  # CUDA reads it when it is first used
    # A worker inherits its own start method. What a job starts (a DataLoader's workers) starts as in any other process.
    multiprocessing.set_start_method(None, force=True)
    if "torch" in sys.modules:
        # Imported in the forkserver, when other thread counts may have held.
        sys.modules["torch"].set_num_threads(settings.threads)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there is none where it was closed
            # What a candidate prints must not make it fail, whatever the terminal's encoding.
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(line_buffering=True, errors="backslashreplace")
    own_process(state, ProcessState())
    # What was preloaded is never garbage: leaving it out makes the collection after each job take milliseconds.
    gc.freeze()


def _die_with_controller() -> None:
    """Have this process group killed when the controller dies.

    The forkserver doesn't do it: it lives on while any worker does.
    """
    import fcntl  # not on Windows, where this module must still import

    controller = multiprocessing.parent_process()
    assert controller is not None
    sentinel = controller.sentinel  # the read end of a pipe whose only writer is the controller
    if not hasattr(fcntl, "F_SETSIG"):
        threading.Thread(target=_die_at_end_of, args=(sentinel,), name="die-with-controller", daemon=True).start()
        return
    # The kernel sends the signal when the pipe's writer closes: at once, and even where a job hangs in native code.
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if connection.wait([sentinel], timeout=0):
        os.killpg(0, signal.SIGKILL)  # it died before


def _die_at_end_of(sentinel: int) -> None:
    connection.wait([sentinel])
    os.killpg(0, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the worker process ``pid`` and the child processes it started, as far as they are still there."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


_starting = threading.Lock()
_lasting: tuple[int, queue.SimpleQueue[Callable[[], None]]] | None = None  # of which process, and its thread's work


def start_forkserver(preload: Sequence[str], environment: Mapping[str, str], modules: Sequence[str] = ()) -> None:
    """Start the forkserver, which all of a process's executors share, unless it runs; doesn't wait for its imports.

    Args:
        preload: Modules that it imports.
        environment: Variables that it has besides those of this process.
        modules: Modules of the user that it imports as well, where that is safe: see :mod:`.user_modules`.
    """
    resource_tracker.ensure_running()  # would unblock SIGINT if the forkserver's start had to do it
    with _starting:
        end_marked()
        room = __name__.rpartition(".")[0]
        # With what every worker needs to start, pebble's and this room's imports.
        ours = [f"{room}.process_state", f"{room}.server_imports"]
        forkserver.set_forkserver_preload([f"{room}.server", *preload, "pebble", __name__, *ours])
        _call_in_lasting_thread(lambda: _ensure_forkserver({**environment, **orders(modules)}))


def _ensure_forkserver(environment: Mapping[str, str]) -> None:
    with _without_sigint(), _environment({**environment, MARK: mark()}):
        forkserver.ensure_running()


def _call_in_lasting_thread(function: Callable[[], None]) -> None:
    """Call a function in a thread that lives as long as this process: to the kernel it is the parent of what it starts."""
    global _lasting
    if _lasting is None or _lasting[0] != os.getpid():
        _lasting = os.getpid(), queue.SimpleQueue()
        threading.Thread(target=_serve, args=(_lasting[1],), name="forkserver-parent", daemon=True).start()
    done: Future[None] = Future()

    def call() -> None:
        try:
            function()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    _lasting[1].put(call)
    done.result()


def _serve(calls: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        calls.get()()


@contextlib.contextmanager
def _without_sigint() -> Iterator[None]:
    """Block SIGINT in this thread, and thereby in processes it starts: Ctrl-C must not end a forkserver's imports."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
