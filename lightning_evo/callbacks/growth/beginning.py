"""With which structure does a training begin? With a parent's, where it inherits, and with the steps that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from lightning_evo.callbacks.growth.observation import Records
from lightning_evo.callbacks.growth.recipe import carry, recipe_in
from lightning_evo.callbacks.growth.trainer_state import count_parameters
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, replay, resolve
from lightning_evo.utils.checkpoints import Checkpoint, read_checkpoint

__all__ = ["begin_as_parent", "goes_on", "parents_checkpoint", "take_wishes"]

Wish = dict[str, Any]


def parents_checkpoint(context: SearchContext | None) -> Checkpoint | None:
    """The checkpoint of a search's parent, if there is one that can be read; keep it, and it isn't read again.

    Args:
        context: What is known of the search, if there is one.
    """
    parent = context.parent if context is not None else None
    if parent is None or not Path(parent.checkpoint).is_file():
        return None
    try:
        # Our search's own, so it may hold anything.
        checkpoint = read_checkpoint(parent.checkpoint, trusted=True)
        recipe_in(checkpoint)
    except Exception as error:  # unpickling a damaged file may raise anything
        rank_zero_warn(f"StructuralGrowth: {parent.checkpoint} cannot be read, so its growth isn't repeated: {error}")
        return None
    return checkpoint


def goes_on(checkpoint: Mapping[str, Any], key: str, initial: Sequence[Wish]) -> bool:
    """Whether a child repeats the growth of its parent, if it has grown, and goes on from there.

    That is if the child's wishes begin with its parent's: the child is the parent, grown on.

    Args:
        checkpoint: The parent's.
        key: Under which the callback keeps its state in checkpoints.
        initial: The child's wishes.
    """
    wishes = wishes_in(checkpoint, key)
    return list(initial[: len(wishes)]) == wishes and bool(initial or recipe_in(checkpoint))


def wishes_in(checkpoint: Mapping[str, Any], key: str) -> list[Wish]:
    """The steps asked for before the training that a checkpoint is of."""
    return list(checkpoint.get("callbacks", {}).get(key, {}).get("initial", []))


def begin_as_parent(module: LightningModule, checkpoint: Mapping[str, Any], key: str, records: Records) -> int:
    """Give a module its parent's structure; says how many of the child's wishes that fulfils."""
    recipe = recipe_in(checkpoint)
    if recipe is not None:
        replay(module, recipe.steps)
        carry(module, recipe)
        counts = zip(recipe.parameters, recipe.parameters[1:], strict=False)
        for step, (before, after) in zip(recipe.steps, counts, strict=True):
            records.note_step(Growth(step, before, after), None, "parent", "the parent has grown so")
    return len(wishes_in(checkpoint, key))


def take_wishes(
    module: LightningModule,
    wishes: Sequence[Wish],
    first: int,
    max_parameters: int | None,
    seed: Callable[[int], int],
    take: Callable[[GrowthStep, int], Growth],
    note: Callable[[Growth], None],
) -> None:
    """Take the steps that come before training.

    Args:
        module: To grow.
        wishes: See :func:`~lightning_evo.functional.growth.resolve`.
        first: The number of the first to be taken.
        max_parameters: How many parameters there may be.
        seed: Gives that of a wish's number.
        take: Takes a step.
        note: Is told what it did.

    Raises:
        GrowthError: If one can't be taken; the message begins with its number.
    """
    for place in range(first, len(wishes)):
        try:
            room = None if max_parameters is None else max_parameters - count_parameters(module)
            growth = take(resolve(module, wishes[place], seed=seed(place), max_added=room), seed(place))
        except (KeyError, TypeError) as error:
            raise GrowthError(f"initial[{place}]: {wishes[place]!r} is no step: {error!r}") from error
        except GrowthError as error:
            raise GrowthError(f"initial[{place}]: {error}") from error
        note(growth)
