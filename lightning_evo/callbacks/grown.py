"""How does one open the checkpoint of a network that has grown? Built by its class, grown by its recipe, loaded strictly."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_evo.callbacks.growth_expression import Expression, express
from lightning_evo.callbacks.growth_recipe import KEY, Recipe, carry, recipe_in
from lightning_evo.callbacks.rebuilding import build_from
from lightning_evo.callbacks.whole_files import copy_whole, save_whole, write_whole
from lightning_evo.functional.growth import GrowthError, replay

__all__ = ["export_grown", "load_grown"]

_INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")
_HPARAMS, _HPARAMS_NAME = "hyper_parameters", "hparams_name"
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision")
_HEADER = """\
# How the network in model.ckpt has grown: `class_path` built with the checkpoint's hyperparameters, then these steps.
# No hyperparameters of the class build it as it is. Open it with
#     lightning_evo.load_grown("model.ckpt")
# or take the steps in a module of the class, with lightning_evo.functional.growth:
#     replay(module, [GrowthStep.from_dict(step) for step in steps])
"""


def load_grown(
    path: str | Path,
    cls: type[LightningModule] | None = None,
    map_location: Any = "cpu",
    trusted: bool = False,
    **hparams: Any,
) -> LightningModule:
    """Open a checkpoint of a module that has grown in training; without its callback, its data or its Trainer.

    The module is built from the checkpoint's hyperparameters as ``load_from_checkpoint`` would, takes the steps of growth
    that the checkpoint records, and then its weights, strictly. A checkpoint whose network hasn't grown opens as well.

    Args:
        path: Of a Lightning checkpoint.
        cls: Class of the module. Default: the one the checkpoint records; one whose network hasn't grown needs it.
        map_location: Where to put tensors, as in ``torch.load``.
        trusted: Whether a checkpoint that holds more than tensors and plain data may be unpickled, which can run any code
            in it. The class that a checkpoint records is imported in any case.
        **hparams: Hyperparameters to use instead of the checkpoint's, or that it doesn't hold (a module handed over in
            Python).

    Returns:
        The module, in eval mode.

    Raises:
        FileNotFoundError: If there is no such file.
        GrowthError: If it is damaged, no Lightning checkpoint, not safe to read, of a later version, or if its class
            can't be imported, built, or grown as it says; the message says which.
    """
    path = Path(path)
    return _opened(path, _read(path, map_location, trusted), cls, trusted, hparams)


def export_grown(
    checkpoint: str | Path, to: str | Path, cls: type[LightningModule] | None = None, trusted: bool = False
) -> list[Path]:
    """Write a checkpoint that opens without this package, where the class can build the grown network.

    Where hyperparameters are found that build it (:func:`express`), ``model.ckpt`` opens with the stock
    ``load_from_checkpoint`` and ``model.yaml`` is the ``model:`` section of a LightningCLI config. It holds weights, for
    predicting, testing or fine-tuning: the states of optimizers, schedulers and callbacks are left out, as they are in the
    order in which parameters were added. Where none are found, ``model.ckpt`` is the checkpoint as it was, and
    ``grown.yaml`` the recipe by which :func:`load_grown` builds it.

    Args:
        checkpoint: Path of a Lightning checkpoint.
        to: Directory; made if absent.
        cls: As in :func:`load_grown`.
        trusted: As in :func:`load_grown`.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: If there is no such file.
        GrowthError: If it can't be opened, as in :func:`load_grown`.
    """
    path, to = Path(checkpoint), Path(to)
    held = _read(path, "cpu", trusted)
    module = _opened(path, held, cls, trusted, {})
    recipe = recipe_in(held)
    expression = express(module) if recipe is not None else Expression(held.get(_HPARAMS, {}), {})
    to.mkdir(parents=True, exist_ok=True)
    if expression is None:
        assert recipe is not None
        text = _HEADER + yaml.safe_dump(recipe.to_dict(), sort_keys=False)
        return [copy_whole(path, to / "model.ckpt"), write_whole(text, to / "grown.yaml")]
    written = [copy_whole(path, to / "model.ckpt")] if recipe is None else [_saved(held, expression, to / "model.ckpt")]
    section = _section(type(module), expression.hparams)
    return written if section is None else [*written, write_whole(section, to / "model.yaml")]


# Reading --------------------------------------------------------------------------------------------------------------


def _read(path: Path, map_location: Any, trusted: bool) -> dict[str, Any]:
    """A Lightning checkpoint."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a directory' if path.is_dir() else 'does not exist'}")
    try:
        held = torch.load(path, map_location=map_location, weights_only=not trusted)
    except Exception as error:  # a damaged file, or foreign objects in a trusted one, may raise anything
        if isinstance(error, pickle.UnpicklingError) and not trusted and zipfile.is_zipfile(path):
            reason = "holds more than tensors and plain data (trusted=True reads it, and runs whatever code is in it)"
            raise GrowthError(f"{path} {reason}: {_line(error)}") from error
        raise GrowthError(f"{path} cannot be read; it is damaged, or no checkpoint: {_line(error)}") from error
    if not isinstance(held, dict) or not isinstance(held.get("state_dict"), Mapping):
        raise GrowthError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return held


def _opened(
    path: Path,
    held: dict[str, Any],
    cls: type[LightningModule] | None,
    trusted: bool,
    hparams: Mapping[str, Any],
) -> LightningModule:
    """The module that a checkpoint holds, in eval mode."""
    recipe = _recipe(path, held)
    saved = dict(held.get(_HPARAMS) or {})
    kind = cls if cls is not None else _class_of(path, recipe, saved)
    maker = saved.get("_instantiator")
    if maker not in (None, *_INSTANTIATORS) and not trusted:
        raise GrowthError(f"{path}: {maker!r} is to build the module; trusted=True lets it")
    try:
        module = build_from(kind, saved | dict(hparams), held.get(_HPARAMS_NAME) or "")
    except Exception as error:  # whatever the user's constructor raises
        raise GrowthError(f"{path}: {kind.__name__} can't be built from its hyperparameters: {_line(error)}") from error
    if maker is not None:
        # Built from a config's section, it has met its own arguments alone; what it was made from is to be saved again.
        module.save_hyperparameters(saved | dict(hparams), logger=False)
    if recipe is not None and recipe.steps:
        try:
            replay(module, recipe.steps)
        except GrowthError as error:
            raise GrowthError(f"{path}: its growth can't be repeated in {kind.__name__}: {error}") from error
        carry(module, recipe)
    _load(path, module, held)
    return module.eval()


def _load(path: Path, module: LightningModule, held: dict[str, Any]) -> None:
    module.on_load_checkpoint(held)
    state = held["state_dict"]
    try:
        module.load_state_dict(state, strict=module.strict_loading)
    except RuntimeError as error:
        raise GrowthError(f"{path}: its weights don't fit {type(module).__name__}: {_lines(error)}") from error
    tensor = next((value for value in state.values() if isinstance(value, Tensor)), None)
    if tensor is not None:
        module.to(tensor.device)


def _recipe(path: Path, held: Mapping[str, Any]) -> Recipe | None:
    try:
        return recipe_in(held)
    except GrowthError as error:
        raise GrowthError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise GrowthError(f"{path}: {KEY}: its recipe is damaged: {_line(error)}") from error


def _class_of(path: Path, recipe: Recipe | None, hparams: Mapping[str, Any]) -> type[LightningModule]:
    """The class that a checkpoint records."""
    name = recipe.class_path if recipe is not None else hparams.get("_class_path")
    if not isinstance(name, str):
        raise GrowthError(f"{path} doesn't tell the class of its module; give it as `cls`")
    found = _imported(name)
    if isinstance(found, str):
        raise GrowthError(f"{path}: class {name} can't be imported: {found}; give the class as `cls`")
    return found


def _imported(name: str) -> type[LightningModule] | str:
    """A LightningModule's class by its path, nested ones too; or why there is none."""
    if "<locals>" in name:
        return "it was defined in a function"
    parts = name.split(".")
    reason = "its path names no module"
    for end in range(len(parts) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            reason = str(error)
            continue
        except Exception as error:  # whatever the user's module raises
            return _line(error)
        for part in parts[end:]:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, LightningModule):
            return found
        return f"{'.'.join(parts[:end])} has no LightningModule of this name"
    return reason


# Writing --------------------------------------------------------------------------------------------------------------


def _saved(held: Mapping[str, Any], expression: Expression, to: Path) -> Path:
    """The checkpoint with other hyperparameters and names, and without a training's states."""
    kept = {name: value for name, value in held.items() if name not in (KEY, *_OF_TRAINING)}
    kept[_HPARAMS] = dict(expression.hparams)
    kept["state_dict"] = {expression.names[name]: value for name, value in held["state_dict"].items()}
    return save_whole(kept, to)


def _section(kind: type[LightningModule], hparams: Mapping[str, Any]) -> str | None:
    """A config's ``model:`` section; ``None`` where hyperparameters aren't plain data."""
    class_path = hparams.get("_class_path") or f"{kind.__module__}.{kind.__qualname__}"
    arguments = {name: value for name, value in hparams.items() if not name.startswith("_")}
    try:
        return cast(str, yaml.safe_dump({"class_path": class_path, "init_args": _listed(arguments)}, sort_keys=False))
    except yaml.YAMLError:
        return None


def _listed(value: Any) -> Any:
    """Tuples as lists, which is how YAML has them."""
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3])
