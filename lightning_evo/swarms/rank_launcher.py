"""How are a swarm's processes started, and how do they end when one of them has died? As DDP's are, but with its name."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    from lightning_evo.swarms.strategy import SwarmStrategy

__all__ = ["RankLauncher"]


class RankLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks as DDP does, but ends them with an error that names the one that died."""

    def __init__(self, strategy: SwarmStrategy) -> None:
        assert strategy.cluster_environment is not None
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self._strategy = strategy

    def launch(self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        watch = self._strategy.watch
        watch.enter()
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            watch.explain = self._how_it_ended
            if self.procs:
                threading.Thread(target=self._await_connection, name="swarm-children", daemon=True).start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            # A collective notices that a process is gone before anybody says which.
            lost = _is_collective(error) and watch.wait(2.0)
            watch.leave(f"{type(error).__name__}: {_first_line(error)}")
            self._end_children()
            if lost and watch.error is not None:
                raise watch.error from error
            raise
        except SystemExit as error:
            # SIGTERM is handed on to all ranks by Lightning; any other exit is this rank's alone.
            alone = bool(error.code) and not isinstance(error, SIGTERMException)
            watch.leave(f"SystemExit: {error.code}" if alone else None)
            raise
        except KeyboardInterrupt:
            watch.leave()  # Ctrl-C reaches all ranks
            raise
        watch.leave()
        return result

    def _await_connection(self) -> None:
        """Notice ranks that die before they are connected, while rank 0 waits for them."""
        watch = self._strategy.watch
        while not watch.connected and watch.error is None:
            for at, process in enumerate(self.procs, start=1):
                if process.poll() is not None:
                    rank = self._strategy.global_rank + at
                    watch.declare(rank, f"{_ending(process.returncode)} before it had joined; see its own error above")
            time.sleep(0.1)

    def _how_it_ended(self, rank: int) -> str | None:
        at = rank - self._strategy.global_rank - 1
        if not 0 <= at < len(self.procs):
            return None
        try:
            return _ending(self.procs[at].wait(timeout=1.0))
        except subprocess.TimeoutExpired:
            return None

    def _end_children(self) -> None:
        """Give the other ranks on this machine time to end by themselves, then end them."""
        deadline = time.monotonic() + self._strategy.watch.grace
        for process in self.procs:
            try:
                process.wait(timeout=max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_collective(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and bool(re.search("gloo|nccl|connection|peer", str(error), re.IGNORECASE))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _ending(code: int) -> str:
    return (
        f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
    )
