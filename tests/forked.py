"""Processes of a test's own that start at once: forked from a server that has imported Lightning, as workers are."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from lightning_evo.execution.isolation import start_forkserver
from lightning_evo.execution.local import DEFAULT_PRELOAD

LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")
"""What tells Lightning that a process is one of several."""


class Forked:
    """A process that runs ``function(*arguments)``; leaving ``with`` kills it if it still runs.

    Args:
        function: From a module that can be imported, not the test's own closure.
        arguments: Its arguments; they are pickled.
        variables: Set in its environment.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any, **variables: str) -> None:
        start_forkserver(DEFAULT_PRELOAD, {"OMP_NUM_THREADS": "1"})
        handle, name = tempfile.mkstemp(prefix="forked-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHERS} | variables
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(function, arguments, environment, os.getcwd(), name)
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._log.unlink()

    def wait(self, timeout: float = 150) -> int:
        """Wait for its end; its exit code, which is negative where a signal ended it.

        Raises:
            TimeoutError: If it is still running after ``timeout`` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"still running after {timeout} s\n{self.output}")
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._process.kill()

    @property
    def output(self) -> str:
        """What it has printed so far, on both streams."""
        return self._log.read_text()


def end_of_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[tuple[int, str]]:
    """Run ``function(*arguments)`` in ``count`` processes that Lightning takes for the ranks of one training.

    A Trainer in them needs ``devices=count`` and DDP or another strategy with one process per device; they meet as if a
    cluster's scheduler had started them.

    Returns:
        Each rank's exit code and what it printed.
    """
    with contextlib.ExitStack() as stack:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            stack.enter_context(Forked(function, *arguments, LOCAL_RANK=str(rank), **address)) for rank in range(count)
        ]
        return [(rank.wait(), rank.output) for rank in ranks]


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> None:
    """The same where none may fail.

    Raises:
        AssertionError: If one does; the message holds what it printed.
    """
    for code, output in end_of_ranks(count, function, *arguments):
        assert code == 0, f"exit code {code}\n{output}"


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], directory: str, log: str
) -> None:
    with open(log, "wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    # Two new processes draw different numbers; forks of one would draw the same.
    random.seed()
    np.random.seed()
    # It inherits the start method of its own start; what it starts shall start as in any other process.
    multiprocessing.set_start_method(None, force=True)
    try:
        function(*arguments)
    except Exception:
        # As the interpreter does, not as multiprocessing does: torch's ranks say which they are.
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
