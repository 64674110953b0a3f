"""A trained candidate as stock Lightning opens it: its config and its checkpoint, whatever structure it has come to."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import torch
from lightning.pytorch import LightningModule

from lightning_evo._compat.lightning import CLASS_PATH_KEY, INSTANTIATOR_KEY
from lightning_evo.callbacks.search import SearchCallback, callbacks_that
from lightning_evo.training.blueprint import dump_yaml, load_yaml
from lightning_evo.training.candidate import CONFIG_FILE
from lightning_evo.utils.checkpoints import can_be_mapped
from lightning_evo.utils.files import atomic_path, copy_atomically, write_atomically
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.masking import Mask

__all__ = [
    "MODEL_FILE",
    "Package",
    "UntrustedNetwork",
    "held_by",
    "mask_file",
    "pack",
    "plain_checkpoint",
    "restore_structure",
]

MODEL_FILE = "model.ckpt"


class UntrustedNetwork(Exception):
    """A checkpoint that isn't trusted holds a network that only code named by it can build."""


@dataclass(frozen=True)
class Package:
    """The files written for a candidate.

    Args:
        files: ``config.yaml`` and ``model.ckpt``, and what else is needed to open the network.
        message: How to open it, where that is worth a word.
    """

    files: tuple[Path, ...]
    message: str = ""


def pack(config: str, checkpoint: Path, to: Path, trusted: bool) -> Package:
    """Write a candidate's config and checkpoint so that stock Lightning opens them, as far as that is possible.

    Args:
        config: The candidate's config as YAML. Where a callback has changed the network's structure and the model's own
            arguments can express it, they take the place of its model's, and the callback is left out.
        checkpoint: Its checkpoint.
        to: The directory, which exists.
        trusted: Whether the checkpoint may be unpickled, and the classes that it names be imported.

    Raises:
        UntrustedNetwork: If that is needed, and it may not.
    """
    kinds = callbacks_that("changes_structure")
    if not trusted:
        held = held_by(checkpoint, trusted=False)
        if any(kind.has_changed_structure(held) for kind in kinds):
            raise UntrustedNetwork(
                f"{checkpoint} holds a network that has grown, and building it runs code that it names"
            )
        kinds = []
    for kind in kinds:
        exported = kind.export_structure(checkpoint, to)
        if exported is not None:
            if exported.model is not None:
                config = dump_yaml(_with_model(load_yaml(config), exported.model))
            return Package((write_atomically(to / CONFIG_FILE, config), *exported.files), exported.message)
    return Package((write_atomically(to / CONFIG_FILE, config), copy_atomically(checkpoint, to / MODEL_FILE)))


def mask_file(path: Path, mask: Mask, trusted: bool) -> list[str]:
    """Mask the secrets in a file of a package, a YAML file or a checkpoint; others stay as they are.

    Args:
        path: The file; of a checkpoint, the hyperparameters are masked.
        mask: What masks them.
        trusted: Whether a checkpoint may be unpickled.

    Returns:
        The paths of what was masked, which a YAML file then names in its first lines.
    """
    if path.suffix == ".yaml":
        text = path.read_text(encoding="utf-8")
        content = load_yaml(text)
        masked = list(dict.fromkeys(mask.paths(content)))
        if masked:
            lines = [f"# Masked here, as it looks secret; fill it in: {name}" for name in masked]
            lines += [line for line in text.splitlines() if line.startswith("#")]
            write_atomically(path, "\n".join([*lines, dump_yaml(mask.data(content))]))
        return masked
    if path.suffix != ".ckpt":
        return []
    held = held_by(path, trusted)
    known = {key: held[key] for key in _HYPERPARAMETERS if isinstance(held.get(key), Mapping)}
    masked = list(dict.fromkeys(mask.paths(known)))
    if masked:
        with atomic_path(path) as part:
            torch.save({**held, **mask.data(known)}, part)
    return masked


def plain_checkpoint(path: Path, config: Mapping[str, Any], cls: type | None, trusted: bool) -> None:
    """Leave out of a checkpoint what concerns the search alone, so that it opens as one of an ordinary fit.

    That is: the states of the search's callbacks, for which Lightning would ask, and the function by which LightningCLI
    rebuilds a module from sections of a config, where its class takes its arguments as they are. The class's name stays
    where the config names it too: stock LightningCLI opens the checkpoint by it.

    Args:
        path: The checkpoint; written anew where it changes.
        config: The candidate's config; callbacks that it names keep their states.
        cls: The model's class, if it is known.
        trusted: Whether it may be unpickled.
    """
    held = held_by(path, trusted)
    states, hparams = held.get("callbacks"), held.get("hyper_parameters")
    changed: dict[str, Any] = {}
    if isinstance(states, Mapping):
        listed = (config.get("trainer") or {}).get("callbacks") or []
        own = {_name(one) for one in (listed if isinstance(listed, list) else [listed])}
        kept = {key: state for key, state in states.items() if _name(key) in own or _name(key) not in _of_search()}
        if len(kept) < len(states):
            changed["callbacks"] = kept
    if isinstance(hparams, Mapping) and cls is not None:
        plain = {name: value for name, value in hparams.items() if name not in (INSTANTIATOR_KEY, CLASS_PATH_KEY)}
        # Stock LightningCLI compares them with the config, in which the class is named where it may be chosen.
        chosen = CLASS_PATH_KEY in hparams and "class_path" in (config.get("model") or {})
        if len(plain) < len(hparams) and _taken_as_they_are(plain, cls) and not (chosen and _takes_any_argument(cls)):
            needed = {CLASS_PATH_KEY: hparams[CLASS_PATH_KEY]} if chosen else {}
            changed["hyper_parameters"] = {**plain, **needed}
    if changed:
        with atomic_path(path) as part:
            torch.save({**held, **changed}, part)


def _of_search() -> set[str]:
    """Names of callbacks that a search brings along: this package's, and users' own that take part in one."""
    found, left = {"FitnessRecorder", "CostMeter", "SpeedMeter"}, [SearchCallback]
    while left:
        kind = left.pop()
        found.add(kind.__qualname__)
        left += kind.__subclasses__()
    return found


def _name(callback: Any) -> str:
    """A callback's class by its section in a config, or by the key of its state (which may name arguments too)."""
    path = str(callback.get("class_path", "") if isinstance(callback, Mapping) else callback)
    return path.partition("{")[0].rpartition(".")[2]


def _takes_any_argument(cls: type) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in signature(cls).parameters.values())


def _taken_as_they_are(hparams: Mapping[str, Any], cls: type) -> bool:
    """Whether a class takes saved arguments as they are: plain data, and text only where it asks for text."""
    try:
        kinds = get_type_hints(vars(cls).get("__init__", cls))
    except Exception:  # names that exist for type checkers alone
        kinds = {}
    return all(_is_plain(value, kinds.get(name, str)) for name, value in hparams.items())


def _is_plain(value: Any, kind: Any) -> bool:
    if isinstance(value, str):
        return kind is Any or any(part is str or isinstance(part, str) for part in (kind, *_parts_of(kind)))
    if isinstance(value, Mapping):
        return "class_path" not in value and all(_is_plain(one, str) for one in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(one, Any if kind in (list, tuple) else kind) for one in value)
    return value is None or isinstance(value, bool | int | float)


def _parts_of(kind: Any) -> list[Any]:
    return [part for one in get_args(kind) for part in (one, *_parts_of(one))]


_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")


def restore_structure(module: LightningModule, checkpoint: Path, trusted: bool) -> None:
    """Give a module, as its class builds it, the structure of the network that a checkpoint holds.

    Args:
        module: It stays as it is where no callback has changed the checkpoint's network.
        checkpoint: Of a network of its class.
        trusted: Whether it may be unpickled.
    """
    held = held_by(checkpoint, trusted)
    for kind in callbacks_that("changes_structure"):
        if kind.restore_structure(module, held):
            return


def held_by(checkpoint: Path, trusted: bool) -> dict[str, Any]:
    """The content of a checkpoint, its tensors left on disk until they are needed."""
    try:
        return cast(
            dict[str, Any],
            torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=can_be_mapped(checkpoint)),
        )
    except pickle.UnpicklingError:
        if not trusted:
            raise
        # It holds hyperparameters of the user's own classes.
        return cast(
            dict[str, Any],
            torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=can_be_mapped(checkpoint)),
        )


def _with_model(config: dict[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """The config with another model section, and without what would change its structure once more."""
    # A LightningCLI with one model class has its arguments right in the section.
    section = dict(model) if "class_path" in (config.get("model") or {}) else dict(model.get("init_args", {}))
    trainer = dict(config.get("trainer") or {})
    listed = trainer.get("callbacks") or []
    listed = listed if isinstance(listed, list) else [listed]
    trainer["callbacks"] = [one for one in listed if not _changes_structure(one)]
    return {**config, "model": section, "trainer": trainer}


def _changes_structure(callback: Any) -> bool:
    path = str(callback.get("class_path", "") if isinstance(callback, Mapping) else callback)
    kind = import_by_name(path) if "." in path else None
    return isinstance(kind, type) and issubclass(kind, SearchCallback) and kind.changes_structure
