"""The slots of this machine, or the executor that was handed in, on which a search's candidates run."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from lightning_evo.evolution.errors import SearchError
from lightning_evo.evolution.settings import Workers
from lightning_evo.execution import (
    DEFAULT_PRELOAD,
    Executor,
    FuturesExecutor,
    LocalExecutor,
    default_threads,
    end_in_import,
    plan_slots,
    refuse_unguarded,
)
from lightning_evo.training import Trainable

__all__ = ["check_main_module", "make_executor", "plan"]


def check_main_module(given: object, workers: Workers, trainable: Trainable) -> None:
    """End the program with one line where worker processes would run the search again; see ``refuse_unguarded``.

    Args:
        given: The executor that the caller handed in, if any: whose processes do what is the caller's business.
        workers: Their settings.
        trainable: What is trained, which says what workers import beforehand.
    """
    if given is not None:
        end_in_import()
    else:
        threads = workers.threads or default_threads(workers.slots or 1)
        refuse_unguarded(threads, DEFAULT_PRELOAD, _users_modules(workers, trainable))


def plan(trainable: Trainable, workers: Workers, swarm_size: int | None) -> list[tuple[str, ...]]:
    """The devices of each slot of this machine.

    Raises:
        SearchError: If there are fewer devices than asked for.
    """
    # A swarm waits for the one before it: a single slot with all threads.
    count = 1 if workers.slots is None and swarm_size is not None else workers.slots
    try:
        return plan_slots(trainable.accelerator, count, workers.devices_per_candidate)
    except ValueError as error:
        raise SearchError(f"evolution.workers: {error}") from None


def make_executor(
    given: concurrent.futures.Executor | Executor | None,
    workers: Workers,
    slots: Sequence[tuple[str, ...]],
    trainable: Trainable,
) -> AbstractContextManager[Executor]:
    """Yield the executor of the candidates, while the context is open.

    Args:
        given: What the caller handed in, and will shut down; ``None``: workers on this machine.
        workers: Their settings.
        slots: The devices of each slot of this machine.
        trainable: What is trained, which says what workers import beforehand.

    Raises:
        SearchError: If the executor handed in can't do what ``workers`` asks for.
    """
    if isinstance(given, concurrent.futures.Executor):
        if workers.slots is None:
            raise SearchError(
                "evolution.workers.slots: set the number of candidates that the given executor runs at once"
            )
        for name in ("time_limit", "threads", "recycle_after", "preload"):
            if getattr(workers, name) is not None:
                raise SearchError(f"evolution.workers.{name}: only local workers support it, not the given executor")
        return FuturesExecutor(given, slots=workers.slots)
    if given is not None:
        return nullcontext(given)
    return LocalExecutor(
        slots,
        threads=workers.threads,
        max_retries=workers.max_retries,
        recycle_after=workers.recycle_after,
        preload=DEFAULT_PRELOAD,
        modules=_users_modules(workers, trainable),
    )


def _users_modules(workers: Workers, trainable: Trainable) -> Sequence[str]:
    return trainable.preload if workers.preload is None else workers.preload
