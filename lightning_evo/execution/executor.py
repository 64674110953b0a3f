"""The protocol behind which candidates run: submit a job, get a future; slots; shutdown."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from lightning_evo.execution.job import Job
from lightning_evo.genome import Result

__all__ = ["Executor"]


@runtime_checkable
class Executor(Protocol):
    """Runs jobs, at most one per slot at a time.

    As a context manager it shuts down at the end of the block; where the block raised, it cancels what is left.
    """

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""

    @property
    def running(self) -> Mapping[int, int]:
        """The running jobs: slot -> job id."""

    def submit(self, job: Job) -> Future[Result]:
        """Queue a job.

        Returns:
            A future that ends in a result, a failed one included, or is canceled; it never raises a job's exception.
            Its ``cancel()`` works as long as it isn't done, also while the job runs; its ``running()`` is always false
            (see :attr:`running`).

        Raises:
            RuntimeError: After :meth:`shutdown`.
            ValueError: If the job asks for what this executor can't do.
        """

    def shutdown(self, cancel: bool = False) -> None:
        """Take no more jobs and return when none is left; may be called again.

        Args:
            cancel: Cancel what is queued and running, instead of waiting for it.
        """

    def __enter__(self) -> Self:
        """Give the executor itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Shut down; cancel what is left where the block raised."""
