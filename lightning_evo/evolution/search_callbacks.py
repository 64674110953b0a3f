"""Callbacks that take part in a search, of its own section and of the evolved config, and checks that they can."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback

from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.evolution.errors import SearchError
from lightning_evo.genome import Objective, SearchSpace
from lightning_evo.training import Trainable
from lightning_evo.utils.imports import import_by_name

__all__ = ["EPOCHS", "check_participants", "participants"]

EPOCHS = "trainer.max_epochs"


def participants(callbacks: Sequence[Callback], trainable: Trainable) -> list[type[SearchCallback]]:
    """The kinds of callbacks that take part in the search.

    Raises:
        SearchError: If something given isn't a callback or can't be handed to another process, or a function is evolved,
            which no callback can watch.
    """
    for i, callback in enumerate(callbacks):
        where = f"evolution.callbacks[{i}]"
        if not isinstance(callback, Callback):
            raise SearchError(f"{where}: {callback!r} is not a lightning.pytorch Callback")
        if not trainable.trains_modules:
            raise SearchError(f"{where}: {type(callback).__name__} has no Trainer to work in: a function is evolved")
        try:
            pickle.dumps(callback)
        except Exception as error:
            # Pickle raises whatever the callback's own methods raise.
            raise SearchError(f"{where}: {type(callback).__name__} can't be sent to a worker: {error}") from None
    kinds = [type(callback) for callback in callbacks if isinstance(callback, SearchCallback)]
    return kinds + _configured(trainable.config or {})


def check_participants(
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
    said = space[EPOCHS].extremes() if EPOCHS in space else [config.get("max_epochs")]
    numbers = [number for number in said if isinstance(number, int) and number > 0]
    return min(numbers, default=None)
