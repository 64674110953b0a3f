"""Candidates that continue each other's training: what that needs of a search, and which genes allow it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from lightning_evo.algorithms import Algorithm
from lightning_evo.callbacks.search import SearchCallback, callbacks_that
from lightning_evo.evolution.errors import SearchError
from lightning_evo.evolution.search_callbacks import EPOCHS
from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.genome import FAILED, SearchSpace
from lightning_evo.training import Trainable
from lightning_evo.training.structure import StructureComparison
from lightning_evo.utils.imports import import_by_name

__all__ = ["check_continuing", "compare_in_worker", "refuse_structural"]


def check_continuing(
    algorithm: Algorithm, kinds: Sequence[type[SearchCallback]], trainable: Trainable, space: SearchSpace
) -> int:
    """Check a search whose candidates continue each other's training; return the epochs of a whole training.

    Raises:
        SearchError: If there is no such length, it varies, the algorithm's own is longer, a function is evolved, or a
            callback ends trainings which others are to continue.
    """
    name = type(algorithm).__name__
    if not trainable.trains_modules:
        raise SearchError(f"evolution.algorithm: {name} continues trainings of a LightningCLI config, not a function")
    if EPOCHS in space:
        raise SearchError(f"evolution.space.{EPOCHS}: {name} trains all members equally long, so this can't be a gene")
    whole = ((trainable.config or {}).get("trainer") or {}).get("max_epochs")
    if not isinstance(whole, int) or whole < 1:
        raise SearchError(f"{EPOCHS}: {whole!r} is not a valid length for {name}: give the epochs of a whole training")
    if algorithm.epochs is not None and algorithm.epochs > whole:
        raise SearchError(
            f"evolution.algorithm.init_args.epochs: {algorithm.epochs} is more than {EPOCHS}, {whole}, "
            "on which schedules are based"
        )
    try:
        # What is found must be a schedule that can be followed.
        import_by_name(algorithm.schedule_callback)({0: dict.fromkeys(space)})
    except ValueError as error:
        raise SearchError(f"evolution.space: {name} finds a schedule of hyperparameters: {error}") from None
    for kind in kinds:
        if kind.ends_trainings:
            raise SearchError(
                f"evolution.callbacks: {kind.__name__} ends trainings early, which members of {name} are to continue; "
                "leave one of them out"
            )
    return whole


def refuse_structural(
    algorithm: Algorithm, kinds: Sequence[type[SearchCallback]], comparison: StructureComparison
) -> None:
    """Raise :class:`SearchError` if a gene changes the structure, so that no training could go on with another value.

    A callback that fits structures takes care of the network's; nothing does of the optimizers'.
    """
    inherits = any(kind.fits_structures for kind in kinds)
    for path, difference in comparison.structural.items():
        if inherits and not difference.startswith(("optimizer ", "scheduler ")):
            continue
        raise SearchError(
            f"evolution.space.{path}: {difference}: {type(algorithm).__name__} continues trainings with other values, which "
            f"a gene that changes the structure doesn't allow without rules to inherit by: put {_fitting()} into "
            "evolution.callbacks (it fits networks, not optimizers), or leave the gene out"
        )


def _fitting() -> str:
    """The callbacks that fit weights to another structure, as words."""
    return f"the callback {' or '.join(kind.__name__ for kind in callbacks_that('fits_structures'))}"


def compare_in_worker(trainable: Trainable, space: SearchSpace) -> StructureComparison:
    """Which genes change the structure, found out in a worker process of its own, which sees no GPU.

    Raises:
        SearchError: If that process fails.
    """
    task = trainable.structure_task(space)
    with (
        tempfile.TemporaryDirectory(prefix="lightning-evo-structure-") as directory,
        LocalExecutor([("",)], threads=1, max_retries=0) as executor,
    ):
        result = executor.submit(Job(0, task.function, task.arguments, directory)).result()
    if result.status == FAILED:
        raise SearchError(f"evolution.space: the networks could not be built to be compared: {result.error_type}")
    return StructureComparison.from_dict(result.extra)
