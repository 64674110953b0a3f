"""The frame of a job in the process that runs it: everything is caught, plain data comes back."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
import os
import pickle
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_evo.execution.results import RESULT_FILE, ImportedByWorkers, ReplacedWorker, encode_result, write_result
from lightning_evo.execution.user_modules import take_left_out
from lightning_evo.genome import FAILED, Result
from lightning_evo.utils.files import open_unlinked
from lightning_evo.utils.output import settle_output
from lightning_evo.utils.waiting import on_waiting

if TYPE_CHECKING:  # of worker processes alone
    from lightning_evo.execution.process_state import ProcessState

__all__ = ["OUTPUT_FILE", "JobState", "own_process", "run_job"]

OUTPUT_FILE = "output.log"

_FULL = 2**20  # a file system with fewer free bytes counts as full


class JobState(ctypes.Structure):
    """The state of a worker process that the controller sees, in shared memory.

    Its id, that of the process that started it, when (monotonic) its job began, and the id of the process that began it:
    Pebble may start another one in its place.
    """

    _fields_ = (
        ("pid", ctypes.c_long),
        ("parent", ctypes.c_long),
        ("began", ctypes.c_double),
        ("runner", ctypes.c_long),
    )


# Set in the local executor's own worker processes only.
_state: JobState | None = None
_process: ProcessState | None = None


def own_process(state: JobState, process: ProcessState) -> None:
    """Have this process to ourselves: say in ``state`` when a job begins, and put ``process`` back after each."""
    global _state, _process
    _state, _process = state, process
    on_waiting(_excuse)


def _excuse(seconds: float) -> None:
    """Have the job begin later, as far as its time limit goes."""
    if _state is not None and _state.runner == os.getpid():
        _state.began += seconds


def run_job(
    payload: bytes, directory: str, slot: int, attempt: int, redirect_output: bool, modules: Sequence[str] = ()
) -> tuple[str, bool]:
    """Call a job's function and return its result, whatever happens.

    The result is also left in ``<directory>/result.json``, before this function returns it.

    Args:
        payload: The pickled function and keyword arguments.
        directory: The job's directory; created. From the second attempt on it is emptied first, ``output.log`` excepted.
        slot: Where it runs.
        attempt: How often it has been started, this time included.
        redirect_output: Send what this process writes to its file descriptors 1 and 2 to ``<directory>/output.log``.
            Only where the process belongs to this job alone.
        modules: What the job will import, see :attr:`Job.modules`.

    Returns:
        The result as JSON text (see ``encode_result``), and whether this process is fit for another job: not if CUDA is
        broken or if the job left behind what can't be put back, which the result then says. A function that
        raises anything (``SystemExit`` and ``KeyboardInterrupt`` included), returns no result or one that JSON can't hold
        has failed. A full disk or an unusable directory is fatal.
    """
    started = time.time()
    with contextlib.ExitStack() as stack:
        try:
            _prepare(directory, attempt)
            if redirect_output:
                stack.enter_context(_output_to(Path(directory, OUTPUT_FILE)))
        except OSError as error:
            result = replace(Result.failure(error), fatal=True)
        else:
            if _process is not None and not _process.prepare(modules):
                os._exit(0)  # this job has not begun: a fresh process begins it
            if _state is not None:
                _state.runner, _state.began = os.getpid(), time.monotonic()
            result = _call(payload)
        lasting = {} if _process is None else _process.put_back()
        result = replace(
            result,
            slot=slot,
            attempts=attempt,
            started=started if result.started is None else result.started,
            ended=time.time() if result.ended is None else result.ended,
        )
        if left_out := take_left_out():
            record = ImportedByWorkers(left_out)
            result = replace(result, extra={**result.extra, record.key: record.to_dict()})
        text = _record(_with(result, lasting), directory)
        fit = _free_memory(collect=_state is not None or time.time() - started > _LONG)
        if _process is not None and (all_lasting := _process.end_what_runs()) != lasting:
            lasting = all_lasting
            text = _record(_with(result, lasting), directory)
        return text, fit and not lasting


def _with(result: Result, lasting: Mapping[str, str]) -> Result:
    """The result with what its job left in its process, where that makes the process useless for others."""
    if not lasting:
        return result
    record = ReplacedWorker(dict(lasting))
    return replace(result, extra={**result.extra, record.key: record.to_dict()})


def _prepare(directory: str, attempt: int) -> None:
    os.makedirs(directory, exist_ok=True)
    # A result found here later must be this run's.
    Path(directory, RESULT_FILE).unlink(missing_ok=True)
    if attempt > 1:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.name != OUTPUT_FILE:  # the dead worker's last words
                    os.unlink(entry.path)


def _call(payload: bytes) -> Result:
    try:
        function, arguments = pickle.loads(payload)
        if _process is not None:
            _process.begin()
        # In a copy of the context, so that what the job sets in it (NumPy's and decimal's settings) ends with it.
        result = contextvars.copy_context().run(function, **arguments)
    except BaseException as error:
        return Result.failure(error)
    if isinstance(result, Result):
        return result
    name = f"{function.__module__}.{function.__qualname__}"
    return Result.failure(TypeError(f"{name} returned {type(result).__name__}, not a lightning_evo Result"))


def _record(result: Result, directory: str) -> str:
    """Write the result to its file; return it as text."""
    if result.status == FAILED and not result.fatal and _disk_is_full(directory):
        # Native code (torch.save, safetensors) reports a full disk as an error like any other.
        result = replace(result, fatal=True)
    text = encode_result(result)
    try:
        write_result(directory, text)
    except OSError as error:
        reason = Result.failure(error)
        return encode_result(
            replace(
                result,
                fatal=True,
                error=result.error or reason.error,
                error_type=result.error_type or reason.error_type,
            )
        )
    return text


def _disk_is_full(directory: str) -> bool:
    try:
        return shutil.disk_usage(directory).free < _FULL
    except OSError:
        return False  # no such directory: that failure is reported already


_LONG = 1.0
"""Seconds after which a job is worth a full garbage collection in a process that isn't its own."""


def _free_memory(collect: bool) -> bool:
    """Free what the job held; returns whether CUDA, where it was used, still works."""
    if collect:
        # Models form cycles. A worker's own preloaded objects are frozen and cost nothing here; in a process full of the
        # user's objects a collection takes a tenth of a second, too much after a job of milliseconds.
        gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        # After some errors (an assertion on the device, an illegal access) every later call in this process fails.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append what this process, its native code and its child processes print to the file at ``path``."""
    settle_output()
    saved = {number: os.dup(number) for number in (1, 2)}
    try:
        with open_unlinked(path, "ab", buffering=0) as log:
            for number in saved:
                os.dup2(log.fileno(), number)
        yield
    finally:
        # A job may have closed or replaced a stream, or filled the disk, which its result then says.
        settle_output()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
