"""How is a grown network built again? By its steps, which its checkpoints hold and any module of its class can repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn

from lightning_evo._compat.torch import REGISTRIES
from lightning_evo.functional.growth import GrowthError, GrowthStep, replay
from lightning_evo.utils.compiled import plain_name
from lightning_evo.utils.imports import public_name

__all__ = ["KEY", "Original", "Recipe", "Restoration", "carry", "recipe_in", "recipe_of", "restore_structure"]

KEY = "grown"
"""Under which name checkpoints hold the recipe."""
VERSION = 1
_ATTRIBUTE = "_grown"


@dataclass(frozen=True)
class Recipe:
    """The steps that lead from what a class builds to a grown network.

    Args:
        class_path: The class.
        steps: In the order in which they were taken.
        parameters: How many parameters there were before, and after each step.
    """

    class_path: str
    steps: tuple[GrowthStep, ...] = ()
    parameters: tuple[int, ...] = ()

    def then(self, step: GrowthStep, parameters: int) -> Recipe:
        """With one more step, after which there are so many parameters."""
        return replace(self, steps=(*self.steps, step), parameters=(*self.parameters, parameters))

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        steps = [step.to_dict() for step in self.steps]
        return {
            "version": VERSION,
            "class_path": self.class_path,
            "steps": steps,
            "parameters": list(self.parameters),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """What :meth:`to_dict` gave.

        Raises:
            GrowthError: If a later version of this package wrote it.
        """
        if data.get("version") != VERSION:
            raise GrowthError(f"{KEY}: a recipe of version {data.get('version')!r}, where this package reads {VERSION}")
        steps = tuple(GrowthStep.from_dict(step) for step in data["steps"])
        return cls(data["class_path"], steps, tuple(data["parameters"]))


def recipe_in(checkpoint: Mapping[str, Any]) -> Recipe | None:
    """The recipe that a checkpoint holds; ``None`` if its network hasn't grown."""
    return Recipe.from_dict(checkpoint[KEY]) if checkpoint.get(KEY) else None


def recipe_of(module: LightningModule, parameters: int | None = None) -> Recipe:
    """How a module has grown; without steps if it hasn't.

    Args:
        module: Grown or not.
        parameters: How many it had before its first step, if that has just been taken. Default: those it has.
    """
    carried = vars(module).get(_ATTRIBUTE)
    if carried is not None:
        return Recipe.from_dict(carried)
    kind = type(module)
    count = sum(p.numel() for p in module.parameters()) if parameters is None else parameters
    return Recipe(public_name(kind), (), (count,))


def carry(module: LightningModule, recipe: Recipe) -> None:
    """Have every checkpoint of a module hold its recipe, whoever saves it, weights alone or not."""
    # Not a callback's on_save_checkpoint, which isn't called where weights alone are saved.
    vars(module).pop("on_save_checkpoint", None)
    vars(module).pop(_ATTRIBUTE, None)
    if recipe.steps:
        vars(module)[_ATTRIBUTE] = recipe.to_dict()
        vars(module)["on_save_checkpoint"] = partial(_save, module)


def _save(module: LightningModule, checkpoint: dict[str, Any]) -> None:
    checkpoint[KEY] = vars(module)[_ATTRIBUTE]
    type(module).on_save_checkpoint(module, checkpoint)


class Original:
    """A module's structure at some time, so that it can be had again after growing.

    Kept are references, so it costs no memory but that of parameters which growth has replaced.
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
        """Put every parameter, buffer and module where it was."""
        for part, tables in self._tables:
            for name, table in tables.items():
                vars(part)[name].clear()
                vars(part)[name].update(table)
        for part, numbers in self._numbers:
            vars(part).update(numbers)
        carry(self.module, self.recipe)


def restore_structure(module: LightningModule, checkpoint: Mapping[str, Any], original: Original) -> None:
    """Give a module the structure that a checkpoint's network has, before its weights are loaded.

    Args:
        module: Built by its class, or already grown.
        checkpoint: Of a network of its class.
        original: How the module was before it grew.

    Raises:
        GrowthError: If the module can't take the checkpoint's steps.
    """
    recipe = recipe_in(checkpoint)
    wanted = recipe.steps if recipe is not None else ()
    if _compatible(module, checkpoint.get("state_dict", {})):
        if recipe is not None:
            carry(module, recipe)
        return
    if not _begins(wanted, recipe_of(module).steps):
        original.restore()
    have = recipe_of(module).steps
    if not _begins(wanted, have):
        said = f"its {len(wanted)} steps of growth don't begin with the {len(have)} that this module was built with"
        raise GrowthError(f"the checkpoint's network can't be built: {said}; hand over a module that hasn't grown")
    if len(wanted) > len(have):
        try:
            replay(module, wanted[len(have) :])
        except GrowthError as error:
            raise GrowthError(
                f"the checkpoint's growth can't be repeated in {type(module).__name__}: {error}"
            ) from error
    if recipe is not None:
        carry(module, recipe)


class Restoration:
    """Has a module repeat a checkpoint's growth when Lightning loads one into it, before the weights are loaded."""

    def __init__(self) -> None:
        self._original: Original | None = None
        self._module: LightningModule | None = None

    def remember(self, module: LightningModule) -> Original:
        """The structure that a module had the first time; it grows from there."""
        if self._original is None or self._original.module is not module:
            self._original = Original(module)
        return self._original

    def install(self, module: LightningModule) -> None:
        """From now on, until :meth:`remove`."""
        self.remove()
        self._module = module
        # Lightning calls it just before it loads the weights; no callback has a hook there.
        vars(module)["on_load_checkpoint"] = self._load

    def remove(self) -> None:
        """Leave the module as it was; nothing where nothing is installed."""
        if self._module is not None:
            vars(self._module).pop("on_load_checkpoint", None)
        self._module = None

    def _load(self, checkpoint: dict[str, Any]) -> None:
        module = self._module
        assert module is not None
        restore_structure(module, checkpoint, self.remember(module))
        type(module).on_load_checkpoint(module, checkpoint)


def _begins(steps: Sequence[GrowthStep], first: Sequence[GrowthStep]) -> bool:
    return [one.to_dict() for one in steps[: len(first)]] == [one.to_dict() for one in first]


def _compatible(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether a state dict's tensors are those of a module, by name and shape."""
    own = {plain_name(name): getattr(value, "shape", None) for name, value in module.state_dict().items()}
    return own == {plain_name(name): getattr(value, "shape", None) for name, value in state.items()}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple))
