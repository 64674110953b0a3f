"""What of a trained candidate does stock Lightning open? Its config and its checkpoint, with what it has grown in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule

from lightning_evo.callbacks.growth.loading import export_grown
from lightning_evo.callbacks.growth.recipe import Original, recipe_in, restore_structure
from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth
from lightning_evo.functional.growth.growth import GrowthError
from lightning_evo.training.blueprint import dump_yaml, load_yaml
from lightning_evo.training.candidate import CONFIG_FILE, draw_weights
from lightning_evo.utils.files import copy_atomically, write_atomically
from lightning_evo.utils.imports import import_by_name

__all__ = ["MODEL_FILE", "Package", "grow_as", "pack"]

MODEL_FILE = "model.ckpt"
_RECIPE_FILE = "grown.yaml"
_SECTION_FILE = "model.yaml"


@dataclass(frozen=True)
class Package:
    """What was written of a candidate.

    Args:
        files: ``config.yaml`` and ``model.ckpt``; ``grown.yaml`` where it needs a recipe.
        grown: Empty where the network is the one of the candidate's config. ``expressed``: it has grown, and the config
            says so in the model's own arguments. ``recipe``: these can't say it; ``lightning_evo.load_grown`` opens it.
    """

    files: tuple[Path, ...]
    grown: Literal["", "expressed", "recipe"] = ""

    def __str__(self) -> str:
        if self.grown == "recipe":
            return (
                f"the network has grown beyond what its class's arguments can say: lightning_evo.load_grown opens "
                f"{MODEL_FILE}, {_RECIPE_FILE} says how it was made"
            )
        if self.grown == "expressed":
            return (
                f"the network has grown: {CONFIG_FILE} holds the model as it is now, stock Lightning opens {MODEL_FILE}"
            )
        return ""


def pack(config: str, checkpoint: Path, to: Path) -> Package:
    """Write a candidate's config and checkpoint so that stock Lightning opens them, as far as that is possible.

    Args:
        config: The candidate's config as YAML. Where the model's own arguments can express what has grown, they take the
            place of its model's, and the callback that made it grow is left out.
        checkpoint: Its checkpoint, trusted: it is the search's own.
        to: The directory, which exists.
    """
    recipe = recipe_in(_read(checkpoint))
    if recipe is None:
        return Package((write_atomically(to / CONFIG_FILE, config), copy_atomically(checkpoint, to / MODEL_FILE)))
    reason = "its class keeps arguments that no config can hold"
    try:
        files = [path.name for path in export_grown(checkpoint, to, trusted=True)]
    except GrowthError as error:  # a class that keeps no hyperparameters
        files, reason = [], str(error)
    if _SECTION_FILE in files:
        section = to / _SECTION_FILE
        text = dump_yaml(_with_model(load_yaml(config), load_yaml(section.read_text())))
        section.unlink()
        return Package((write_atomically(to / CONFIG_FILE, text), to / MODEL_FILE), "expressed")
    if _RECIPE_FILE not in files:
        said = f"# How the network in {MODEL_FILE} has grown, from the one that {CONFIG_FILE} builds.\n# {reason}\n"
        copy_atomically(checkpoint, to / MODEL_FILE)
        write_atomically(to / _RECIPE_FILE, said + dump_yaml(recipe.to_dict()))
    return Package((write_atomically(to / CONFIG_FILE, config), to / MODEL_FILE, to / _RECIPE_FILE), "recipe")


def grow_as(module: LightningModule, checkpoint: Path) -> None:
    """Give a module, as its class builds it, the structure of the network that a checkpoint holds.

    Args:
        module: It stays as it is where the checkpoint's network hasn't grown.
        checkpoint: Of a network of its class, trusted.
    """
    held = _read(checkpoint)
    if recipe_in(held) is not None:
        draw_weights(module)
        restore_structure(module, held, Original(module))


def _read(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint, its tensors left on disk until they are needed."""
    try:
        return cast(dict[str, Any], torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True))
    except pickle.UnpicklingError:  # it holds hyperparameters of the user's own classes
        return cast(dict[str, Any], torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True))


def _with_model(config: dict[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The config with another model section, and without what would make the model grow once more."""
    # A LightningCLI with one model class has its arguments right in the section.
    section = dict(model) if "class_path" in (config.get("model") or {}) else dict(model.get("init_args", {}))
    trainer = dict(config.get("trainer") or {})
    listed = trainer.get("callbacks") or []
    trainer["callbacks"] = [one for one in (listed if isinstance(listed, list) else [listed]) if not _grows(one)]
    return {**config, "model": section, "trainer": trainer}


def _grows(callback: Any) -> bool:
    path = str(callback.get("class_path", "") if isinstance(callback, Mapping) else callback)
    kind = import_by_name(path) if "." in path else None
    return isinstance(kind, type) and issubclass(kind, StructuralGrowth)
