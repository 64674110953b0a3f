"""A job: a function, its arguments, and where and under which limits it runs."""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from lightning_evo.genome import Result

__all__ = ["Job", "Pending"]


@dataclass(frozen=True, eq=False)
class Job:
    """A function call that ends in a :class:`~lightning_evo.genome.Result`.

    Args:
        id: The candidate's id; shown in :attr:`Executor.running <lightning_evo.execution.Executor.running>`.
        function: What to call; it must be importable by name in another process.
        arguments: Its keyword arguments: plain data that can be pickled.
        directory: The candidate's own directory. The worker creates it, writes ``output.log`` and ``result.json`` into
            it, and empties it before the candidate is started again after a worker's death. Stored as an absolute path.
        time_limit: Seconds it may run, counted from when the function is called; ``None`` (default): no limit.
        priority: Smaller runs first; equal priorities run in the order of submission.
        modules: What the function will import: a worker imports it before the job begins. What importing a module changes
            in the process stays for later jobs, what the job itself changes doesn't.

    Raises:
        ValueError: If ``time_limit`` is not above 0.
    """

    id: int
    function: Callable[..., Result]
    arguments: Mapping[str, Any]
    directory: str
    time_limit: float | None = None
    priority: int = 0
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"job {self.id}: time_limit: {self.time_limit!r} is not above 0 seconds")
        # The working directory may be another when the job runs.
        object.__setattr__(self, "directory", os.path.abspath(self.directory))


_order = itertools.count()


@dataclass(order=True)
class Pending:
    """A submitted job with the future it was promised; sorts by priority, then by the order of submission."""

    priority: int
    order: int
    job: Job = field(compare=False)
    payload: bytes = field(compare=False)
    future: Future[Result] = field(compare=False)

    @classmethod
    def of(cls, job: Job) -> Pending:
        """Promise a result for ``job``; where it can't be pickled, the future already holds the failure."""
        future: Future[Result] = Future()
        # Without this, wait() and as_completed() would not notice a canceled future.
        future.add_done_callback(lambda done: done.cancelled() and done.set_running_or_notify_cancel())
        try:
            payload = pickle.dumps((job.function, dict(job.arguments)))
        except Exception as error:
            # Pickle raises whatever the arguments' own methods raise. No worker is asked to do what can't reach it.
            payload = b""
            future.set_result(Result.failure(error))
        return cls(job.priority, next(_order), job, payload, future)

    def settle(self, result: Result) -> None:
        """Keep the promise, unless the job was canceled meanwhile."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            if not self.future.cancelled():
                raise
