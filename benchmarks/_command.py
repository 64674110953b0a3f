"""Run the console script as a user does, watch it from outside, and kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from _processes import Process, family, workers

HERE = Path(__file__).resolve().parent
SCRIPT = Path(sys.executable).with_name("lightning-evo")
GRACE = 5.0
"""Seconds in which the processes of a dead controller must be gone."""


class Command:
    """``lightning-evo fit``, running in ``folder``."""

    def __init__(self, folder: Path, output: IO[bytes]) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        arguments = [str(SCRIPT), "fit", "--config", "config.yaml", "--config", "search.yaml"]
        self._process = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        self._started: set[Process] = set()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """The exit code, once it has ended."""
        return self._process.returncode

    @property
    def workers(self) -> list[Process]:
        return workers(self._process.pid)

    def wait(self, condition: Callable[[], bool] = lambda: False, seconds: float = 1800) -> bool:
        """Wait until ``condition`` holds (then true) or the command has ended (then false).

        Raises:
            RuntimeError: If neither happens in time.
        """
        end = time.monotonic() + seconds
        while self.running:
            if condition():
                return True
            if time.monotonic() > end:
                raise RuntimeError(f"nothing happened within {seconds:g} s")
            self._look()
            time.sleep(0.2)
        return False

    def end(self) -> list[Process]:
        """Kill the command if it still runs; returns which of the processes it started are alive 5 s later."""
        self._look()
        self._process.kill()
        self._process.wait()
        end = time.monotonic() + GRACE
        while (left := [process for process in self._started if process.alive]) and time.monotonic() < end:
            time.sleep(0.05)
        for orphan in left:
            os.kill(orphan.pid, signal.SIGKILL)
        return left

    def _look(self) -> None:
        """Record the processes it has started while their parents are still alive to identify them."""
        if self.running:
            self._started.update(family(self._process.pid)[1:])
