"""Checks before anything trains: of callbacks, and of the genes of trainings that continue."""

from __future__ import annotations

import json
import pickle
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm
from lightning_evo.callbacks.search import SearchCallback, callbacks_that
from lightning_evo.evolution.errors import SearchError
from lightning_evo.execution import Job, LocalExecutor
from lightning_evo.genome import FAILED, Objective, SearchSpace
from lightning_evo.genome.links import expanded, origin
from lightning_evo.training import Trainable
from lightning_evo.training.request import FitnessEpoch
from lightning_evo.training.structure import StructureComparison
from lightning_evo.utils.imports import import_by_name, in_session
from lightning_evo.utils.signatures import constructor_parameters

__all__ = [
    "check_arguments",
    "check_callbacks",
    "check_continuing",
    "check_sendable",
    "compare_in_worker",
    "list_of",
    "refuse_structural",
    "search_callback_kinds",
    "setting_of",
]

EPOCHS = "trainer.max_epochs"

T = TypeVar("T")


def check_arguments(
    directory: object, database: object, seed: object, fitness_epoch: object, keep_checkpoints: object
) -> None:
    """Raise :class:`SearchError` if one of a search's plain arguments isn't what it has to be."""
    if not isinstance(directory, (str, Path)) or not str(directory).strip() or "\0" in str(directory):
        raise SearchError(f"evolution.directory: {directory!r} is not the path of a directory")
    try:
        Path(directory).stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SearchError(f"evolution.directory: {str(directory)!r} can't be a directory: {error.strerror}") from None
    if database is not None and (not isinstance(database, str) or "://" not in database or "\0" in database):
        raise SearchError(
            f"evolution.database: {database!r} is not the URL of a database, such as postgresql://host/evolution"
        )
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise SearchError(f"evolution.seed: {seed!r} is not a whole number")
    if fitness_epoch not in get_args(FitnessEpoch):
        raise SearchError(f"evolution.fitness_epoch: {fitness_epoch!r} is not 'best' or 'last'")
    if isinstance(keep_checkpoints, bool) or not isinstance(keep_checkpoints, int):
        raise SearchError(f"evolution.keep_checkpoints: {keep_checkpoints!r} is not a whole number")
    if keep_checkpoints < 0:
        raise SearchError(f"evolution.keep_checkpoints: {keep_checkpoints!r} is not at least 0")


def setting_of(kind: type[T], given: object, name: str) -> T:
    """What was given for an argument of a search: an object of its kind, or the mapping that a config would hold.

    Raises:
        SearchError: If it is neither, or the mapping doesn't make one. The message begins with the argument's config path.
    """
    if isinstance(given, kind):
        return given
    arguments = constructor_parameters(kind)
    if not isinstance(given, Mapping):
        known = ", ".join(arguments)
        raise SearchError(f"evolution.{name}: {given!r} is neither {kind.__name__}(...) nor a mapping of {known}")
    if unknown := [key for key in given if key not in arguments]:
        raise SearchError(f"evolution.{name}: {kind.__name__} has no {unknown[0]!r}; it has {', '.join(arguments)}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise SearchError(f"evolution.{name}: {error}") from None


def list_of(kind: type[T], given: object, name: str, called: str) -> tuple[T, ...]:
    """What was given for a list of objects of a kind; ``None``: an empty one.

    Raises:
        SearchError: If it is no list, or something in it isn't of the kind, which is named as it is ``called``.
    """
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        raise SearchError(f"evolution.{name}: {given!r} is not a list of which each is {called}")
    for i, one in enumerate(given):
        if not isinstance(one, kind):
            raise SearchError(f"evolution.{name}[{i}]: {one!r} is not {called}")
    return tuple(given)


def check_sendable(trainable: Trainable) -> None:
    """Raise :class:`SearchError` if what is evolved is a function, or names a class, that worker processes can't import."""
    if name := _of_session(trainable):
        raise SearchError(f"{name} can't be imported by worker processes: move it from the session to a file")
    function = getattr(trainable, "function", None)
    if function is None:
        return
    try:
        pickle.dumps(function)
    except Exception as error:
        raise SearchError(
            f"{function!r} can't be sent to worker processes: define it at the top level of a module ({error})"
        ) from None
    if in_session(function):
        raise SearchError(f"{function!r} can't be imported by worker processes: move it from the session to a file")


def _of_session(trainable: Trainable) -> str:
    """The class that a config or its LightningCLI takes from a main module without a file (a notebook); empty: none."""
    if hasattr(sys.modules["__main__"], "__file__"):
        return ""
    told = json.dumps(trainable.config, default=str) + repr(trainable.describe())
    found = re.search(r"__main__\.(\w+)", told)
    return found[1] if found else ""


def search_callback_kinds(callbacks: Sequence[Callback], trainable: Trainable) -> list[type[SearchCallback]]:
    """The kinds of callbacks that take part in the search.

    Raises:
        SearchError: If a callback can't be handed to another process, or a function is evolved, which no callback can watch.
    """
    for i, callback in enumerate(callbacks):
        where = f"evolution.callbacks[{i}]"
        if not trainable.trains_modules:
            raise SearchError(f"{where}: {type(callback).__name__} has no Trainer to work in: a function is evolved")
        try:
            pickle.dumps(callback)
        except Exception as error:
            # Pickle raises whatever the callback's own methods raise.
            raise SearchError(f"{where}: {type(callback).__name__} can't be sent to a worker: {error}") from None
    kinds = [type(callback) for callback in callbacks if isinstance(callback, SearchCallback)]
    return kinds + _configured(trainable.config or {})


def check_callbacks(
    callbacks: Sequence[Callback], trainable: Trainable, space: SearchSpace, objectives: Sequence[Objective]
) -> None:
    """Raise :class:`SearchError` if a callback of the search's section can't take part in it."""
    epochs = _fewest_epochs(trainable, space)
    for i, callback in enumerate(callbacks):
        if isinstance(callback, SearchCallback):
            try:
                callback.check_search(objectives, epochs)
            except ValueError as error:
                raise SearchError(f"evolution.callbacks[{i}].{error}") from None


def _configured(config: Mapping[str, Any]) -> list[type[SearchCallback]]:
    """The kinds that stand in the evolved config's own ``trainer.callbacks``."""
    listed = (config.get("trainer") or {}).get("callbacks") or []
    paths = [entry.get("class_path", "") for entry in (listed if isinstance(listed, list) else [listed])]
    found = map(import_by_name, paths)
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, SearchCallback)]


def _fewest_epochs(trainable: Trainable, space: SearchSpace) -> int | None:
    """The fewest epochs that a candidate may train; ``None`` if unknown."""
    config = (trainable.config or {}).get("trainer") or {}
    gene = origin(EPOCHS, trainable.links)
    said = space[gene].extremes() if gene in space else [config.get("max_epochs")]
    numbers = [number for number in said if isinstance(number, int) and number > 0]
    return min(numbers, default=None)


def check_continuing(
    algorithm: Algorithm, kinds: Sequence[type[SearchCallback]], trainable: Trainable, space: SearchSpace
) -> int:
    """Check a search whose candidates continue each other's training; return the epochs of a whole training.

    Raises:
        SearchError: If there is no such length, it varies, the algorithm's own is longer, a function is evolved, or a
            callback ends trainings which others are to continue.
    """
    name = type(algorithm).__name__
    if not trainable.trains_modules or trainable.config is None:
        raise SearchError(f"evolution.algorithm: {name} continues trainings of a LightningCLI config, not a function")
    if (gene := origin(EPOCHS, trainable.links)) in space:
        raise SearchError(f"evolution.space.{gene}: {name} trains all members equally long, so this can't be a gene")
    whole = ((trainable.config or {}).get("trainer") or {}).get("max_epochs")
    if not isinstance(whole, int) or whole < 1:
        raise SearchError(f"{EPOCHS}: {whole!r} is not a valid length for {name}: give the epochs of a whole training")
    if algorithm.epochs is not None and algorithm.epochs > whole:
        raise SearchError(
            f"evolution.algorithm.epochs: {algorithm.epochs} is more than {EPOCHS}, {whole}, "
            "on which schedules are based"
        )
    try:
        # What is found must be a schedule that can be followed.
        import_by_name(algorithm.schedule_callback)({0: expanded(dict.fromkeys(space), trainable.links)})
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
        result = executor.submit(Job(0, task.function, task.arguments, directory, modules=task.modules)).result()
    if result.status == FAILED:
        raise SearchError(f"evolution.space: the networks could not be built to be compared: {result.error_type}")
    comparison = result.entry(StructureComparison)
    assert comparison is not None, "a completed comparison has one"
    return comparison
