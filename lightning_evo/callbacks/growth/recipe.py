"""The recipe of a grown network: its steps, which checkpoints hold and any module of its class can repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from lightning_evo._compat.torch import REGISTRIES
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, replay, resolve
from lightning_evo.functional.growth.surgery import count as count_parameters
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.imports import public_name

if TYPE_CHECKING:
    from lightning_evo.utils.checkpoints import Checkpoint

__all__ = [
    "KEY",
    "OriginalStructure",
    "Recipe",
    "StructureRestorer",
    "attach_recipe",
    "continues_parent",
    "read_parent",
    "recipe_in",
    "recipe_of",
    "repeat_parents_growth",
    "restore_structure",
    "take_initial_steps",
    "with_names",
]

KEY = "grown"
"""Key of the recipe in checkpoints."""
VERSION = 1
_ATTRIBUTE = "_grown"


@dataclass(frozen=True)
class Recipe:
    """The steps that lead from the network a class builds to a grown one.

    Args:
        class_path: Import path of the class.
        steps: The steps in the order in which they were taken.
        parameters: The number of parameters before the first step, and after each.
    """

    class_path: str
    steps: tuple[GrowthStep, ...] = ()
    parameters: tuple[int, ...] = ()

    def then(self, step: GrowthStep, parameters: int) -> Recipe:
        """Return it with one more step, after which there are ``parameters``."""
        return replace(self, steps=(*self.steps, step), parameters=(*self.parameters, parameters))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, for checkpoints."""
        steps = [step.to_dict() for step in self.steps]
        return {
            "version": VERSION,
            "class_path": self.class_path,
            "steps": steps,
            "parameters": list(self.parameters),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Make it from the result of :meth:`to_dict`.

        Raises:
            GrowthError: If a later version of this package wrote it.
        """
        if data.get("version") != VERSION:
            raise GrowthError(
                f"{KEY}: the recipe has version {data.get('version')!r}; this package reads version {VERSION}"
            )
        steps = tuple(GrowthStep.from_dict(step) for step in data["steps"])
        return cls(data["class_path"], steps, tuple(data["parameters"]))


def recipe_in(checkpoint: Mapping[str, Any]) -> Recipe | None:
    """Return the recipe in a checkpoint; ``None`` if its network hasn't grown."""
    return Recipe.from_dict(checkpoint[KEY]) if checkpoint.get(KEY) else None


def recipe_of(module: LightningModule, parameters: int | None = None) -> Recipe:
    """Return a module's recipe; it has no steps if the module hasn't grown.

    Args:
        module: The module.
        parameters: Its number of parameters before its first step, if that has just been taken. The default is the present
            number.
    """
    carried = vars(module).get(_ATTRIBUTE)
    if carried is not None:
        return Recipe.from_dict(carried)
    kind = type(module)
    count = sum(p.numel() for p in module.parameters()) if parameters is None else parameters
    return Recipe(public_name(kind), (), (count,))


def attach_recipe(module: LightningModule, recipe: Recipe) -> None:
    """Add a recipe to every checkpoint of a module, however it is saved, weights alone or not."""
    # Not a callback's on_save_checkpoint, which isn't called where weights alone are saved.
    vars(module).pop("on_save_checkpoint", None)
    vars(module).pop(_ATTRIBUTE, None)
    if recipe.steps:
        vars(module)[_ATTRIBUTE] = recipe.to_dict()
        vars(module)["on_save_checkpoint"] = partial(_save, module)


def _save(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    checkpoint[KEY] = vars(module)[_ATTRIBUTE]
    type(module).on_save_checkpoint(module, checkpoint)


class OriginalStructure:
    """A module's structure at one time, to be restored after growth.

    It keeps references, so it costs no memory except for parameters that growth has replaced.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module, self.recipe = module, recipe_of(module)
        self._tables = [(part, {name: dict(vars(part)[name]) for name in REGISTRIES}) for part in module.modules()]
        self._numbers = [
            (part, {name: value for name, value in vars(part).items() if name != "training" and _plain(value)})
            for part in module.modules()
            if type(part).__module__.startswith("torch.nn")  # whose attributes are sizes and settings
        ]

    def restore(self) -> None:
        """Put every parameter, buffer and module back."""
        for part, tables in self._tables:
            for name, table in tables.items():
                vars(part)[name].clear()
                vars(part)[name].update(table)
        for part, numbers in self._numbers:
            vars(part).update(numbers)
        attach_recipe(self.module, self.recipe)


def restore_structure(module: LightningModule, checkpoint: Mapping[str, Any], original: OriginalStructure) -> None:
    """Give a module the structure of a checkpoint's network, before its weights are loaded.

    Args:
        module: The module, as its class builds it or already grown.
        checkpoint: A checkpoint of a network of its class.
        original: The module's structure before it grew.

    Raises:
        GrowthError: If the module can't take the checkpoint's steps.
    """
    recipe = recipe_in(checkpoint)
    wanted = recipe.steps if recipe is not None else ()
    if _compatible(module, checkpoint.get("state_dict", {})):
        if recipe is not None:
            attach_recipe(module, recipe)
        return
    if not _starts_with(wanted, recipe_of(module).steps):
        original.restore()
    have = recipe_of(module).steps
    if not _starts_with(wanted, have):
        reason = f"its {len(wanted)} steps of growth don't begin with the {len(have)} that this module was built with"
        raise GrowthError(f"the checkpoint's network can't be built: {reason}; use a module that hasn't grown")
    if len(wanted) > len(have):
        try:
            replay(module, wanted[len(have) :])
        except GrowthError as error:
            raise GrowthError(
                f"the checkpoint's growth can't be repeated in {type(module).__name__}: {error}"
            ) from error
    if recipe is not None:
        attach_recipe(module, recipe)


class StructureRestorer:
    """Has a module repeat a checkpoint's growth when Lightning loads one into it, before the weights are loaded."""

    def __init__(self) -> None:
        self._original: OriginalStructure | None = None
        self._module: LightningModule | None = None

    def remember(self, module: LightningModule) -> OriginalStructure:
        """Remember, the first time, the structure that a module grows from; return it."""
        if self._original is None or self._original.module is not module:
            self._original = OriginalStructure(module)
        return self._original

    def install(self, module: LightningModule) -> None:
        """Start to restore the structure of checkpoints, until :meth:`remove`."""
        self.remove()
        self._module = module
        # Lightning calls it just before it loads the weights; no callback has a hook there.
        vars(module)["on_load_checkpoint"] = self._load

    def remove(self) -> None:
        """Stop doing so, and leave the module as it was."""
        if self._module is not None:
            vars(self._module).pop("on_load_checkpoint", None)
        self._module = None

    def _load(self, checkpoint: dict[str, Any]) -> None:
        module = self._module
        assert module is not None
        restore_structure(module, checkpoint, self.remember(module))
        type(module).on_load_checkpoint(module, checkpoint)


# A child that begins as its parent, and initial steps

StepConfig = dict[str, Any]
"""A step as in a config, see :func:`~lightning_evo.functional.growth.resolve`."""


def read_parent(context: SearchContext | None) -> Checkpoint | None:
    """Return the checkpoint of a search's parent, if it can be read. As long as it is kept, it isn't read again.

    Args:
        context: The search, if there is one.
    """
    parent = context.parent if context is not None else None
    if parent is None or not Path(parent.checkpoint).is_file():
        return None
    from lightning_evo.utils.checkpoints import (
        DamagedCheckpoint,
        read_checkpoint,
    )  # outside a search there is no parent

    try:
        checkpoint = read_checkpoint(parent.checkpoint, parent.trusted, parent.digest)
        recipe_in(checkpoint)
    except DamagedCheckpoint:
        raise  # the search has the candidate start from another
    except Exception as error:  # unpickling a damaged file may raise anything
        rank_zero_warn(f"StructuralGrowth: {parent.checkpoint} cannot be read, so its growth isn't repeated: {error}")
        return None
    return checkpoint


def continues_parent(checkpoint: Mapping[str, Any], key: str, initial: Sequence[StepConfig]) -> bool:
    """Whether a child repeats its parent's growth and continues from there.

    It does if its initial steps begin with its parent's: the child is the parent, grown further.

    Args:
        checkpoint: The parent's checkpoint.
        key: The key of the callback's state in checkpoints.
        initial: The child's initial steps.
    """
    requests = initial_steps_in(checkpoint, key)
    return list(initial[: len(requests)]) == requests and bool(initial or recipe_in(checkpoint))


def initial_steps_in(checkpoint: Mapping[str, Any], key: str) -> list[StepConfig]:
    """Return the initial steps of the training that a checkpoint belongs to."""
    return list(checkpoint.get("callbacks", {}).get(key, {}).get("initial", []))


def repeat_parents_growth(
    module: LightningModule, checkpoint: Mapping[str, Any], key: str, record: Callable[[Growth], None]
) -> int:
    """Give a module its parent's structure; return how many of the child's initial steps that includes.

    Args:
        module: The child.
        checkpoint: The parent's.
        key: The key of the callback's state in checkpoints.
        record: Called with the account of each step.
    """
    recipe = recipe_in(checkpoint)
    if recipe is not None:
        replay(module, recipe.steps)
        attach_recipe(module, recipe)
        counts = zip(recipe.parameters, recipe.parameters[1:], strict=False)
        for step, (before, after) in zip(recipe.steps, counts, strict=True):
            record(Growth(step, before, after))
    return len(initial_steps_in(checkpoint, key))


def take_initial_steps(
    module: LightningModule,
    requests: Sequence[StepConfig],
    first: int,
    max_parameters: int | None,
    seed: Callable[[int], int],
    take: Callable[[GrowthStep, int], Growth],
    note: Callable[[Growth], None],
) -> None:
    """Take the steps before training.

    Args:
        module: The module to grow.
        requests: The steps, see :func:`~lightning_evo.functional.growth.resolve`.
        first: The index of the first one to take.
        max_parameters: The largest number of parameters allowed.
        seed: Returns the seed of the step with an index.
        take: Takes a step.
        note: Called with the account of each step.

    Raises:
        GrowthError: If a step can't be taken; the message begins with its index.
    """
    for index in range(first, len(requests)):
        try:
            room = None if max_parameters is None else max_parameters - count_parameters(module)
            growth = take(resolve(module, requests[index], seed=seed(index), max_added=room), seed(index))
        except (KeyError, TypeError) as error:
            raise GrowthError(f"initial[{index}]: {requests[index]!r} is no step: {error!r}") from error
        except GrowthError as error:
            raise GrowthError(f"initial[{index}]: {error}") from error
        note(growth)


def with_names(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the states of a checkpoint's optimizers, with the names of parameters if growth has changed their order.

    Otherwise their order follows from the network, as it does in a child's optimizer.

    Args:
        checkpoint: A checkpoint of a training with or without :class:`~lightning_evo.callbacks.StructuralGrowth`.

    Returns:
        Each optimizer's ``state_dict``, whose groups have ``param_names`` where the callback has noted them.
    """
    states: list[dict[str, Any]] = list(checkpoint.get("optimizer_states", []))
    ours = (one for one in checkpoint.get("callbacks", {}).values() if isinstance(one, Mapping) and "records" in one)
    names = next((one["groups"]["names"] for one in ours if one.get("groups")), None)
    if names is None:
        return states
    return [
        {**state, "param_groups": [{**group, "param_names": own} for group, own in zip(held, named, strict=True)]}
        for state, named in zip(states, names, strict=False)  # a checkpoint of weights alone has no states
        for held in [state["param_groups"]]
    ]


def _starts_with(steps: Sequence[GrowthStep], first: Sequence[GrowthStep]) -> bool:
    return [one.to_dict() for one in steps[: len(first)]] == [one.to_dict() for one in first]


def _compatible(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether a state dict's tensors match those of a module, by name and shape."""
    own = {plain_name(name): getattr(value, "shape", None) for name, value in module.state_dict().items()}
    return own == {plain_name(name): getattr(value, "shape", None) for name, value in state.items()}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple))
