"""Opening and exporting checkpoints of networks that have grown, with or without this package."""

from __future__ import annotations

import copy
import pickle
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning.pytorch import LightningModule
from torch import Tensor, fx, nn

from lightning_evo._compat.lightning import CLASS_PATH_KEY, INSTANTIATOR_KEY, hparams_name
from lightning_evo._compat.torch import buffers_dict, modules_dict, parameters_dict
from lightning_evo.callbacks.growth.recipe import KEY, Recipe, attach_recipe, recipe_in
from lightning_evo.callbacks.rebuilding import build_from
from lightning_evo.callbacks.search import ExportedStructure
from lightning_evo.functional.graph.tracing import trace
from lightning_evo.functional.growth import GrowthError, replay
from lightning_evo.functional.inheritance.alignment import units_of
from lightning_evo.functional.inheritance.roles import analyse
from lightning_evo.utils.checkpoints import can_be_mapped
from lightning_evo.utils.files import atomic_path, copy_atomically, write_atomically
from lightning_evo.utils.imports import import_by_name, public_name

__all__ = ["Expression", "export_grown", "express", "load_grown"]


_INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module", "pytorch_lightning.cli.instantiate_module")
_HPARAMS, _HPARAMS_NAME = "hyper_parameters", "hparams_name"
_OF_TRAINING = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "MixedPrecision")
_HEADER = """\
# How the network in model.ckpt has grown: `class_path` built with the checkpoint's hyperparameters, then these steps.
# No hyperparameters of the class build it as it is. Open it with
#     lightning_evo.load_grown("model.ckpt", TheClass)
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
        cls: Class of the module. Default: the one the checkpoint records, if it is imported already, of this package, or
            ``trusted``; one whose network hasn't grown needs it.
        map_location: Where to put tensors, as in ``torch.load``.
        trusted: Whether a checkpoint that holds more than tensors and plain data may be unpickled, which can run any code
            in it, and its class be imported, if that isn't one of this package and isn't imported yet.
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
        return [copy_atomically(path, to / "model.ckpt"), write_atomically(to / "grown.yaml", text)]
    written = (
        [copy_atomically(path, to / "model.ckpt")] if recipe is None else [_saved(held, expression, to / "model.ckpt")]
    )
    section = _section(type(module), expression.hparams)
    return written if section is None else [*written, write_atomically(to / "model.yaml", section)]


def export_structure(checkpoint: Path, to: Path) -> ExportedStructure | None:
    """:func:`export_grown` of a checkpoint that a search trusts; ``None`` where its network hasn't grown."""
    recipe = recipe_in(_read(checkpoint, "cpu", trusted=True, mmap=True))
    if recipe is None:
        return None
    model, grown = to / "model.ckpt", to / "grown.yaml"
    reason = "its class keeps arguments that no config can hold"
    try:
        files = export_grown(checkpoint, to, trusted=True)
    except GrowthError as error:  # a class that keeps no hyperparameters
        files, reason = [], str(error)
    section = next((path for path in files if path.name == "model.yaml"), None)
    if section is not None:
        expressed = yaml.safe_load(section.read_text(encoding="utf-8"))
        section.unlink()
        message = "the network has grown: config.yaml holds the model as it is now, stock Lightning opens model.ckpt"
        return ExportedStructure((model,), message, expressed)
    if grown not in files:
        said = f"# How the network in {model.name} has grown, from the one that config.yaml builds.\n# {reason}\n"
        copy_atomically(checkpoint, model)
        write_atomically(grown, said + yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    return ExportedStructure(
        (model, grown),
        "the network has grown beyond what its class's arguments can say: lightning_evo.load_grown opens model.ckpt, "
        "grown.yaml says how it was made",
    )


# Analysis --------------------------------------------------------------------------------------------------------------


def _read(path: Path, map_location: Any, trusted: bool, mmap: bool = False) -> dict[str, Any]:
    """Read a Lightning checkpoint."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a directory' if path.is_dir() else 'does not exist'}")
    try:
        held = torch.load(path, map_location=map_location, weights_only=not trusted, mmap=mmap and can_be_mapped(path))
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
    """Return the module that a checkpoint holds, in eval mode."""
    recipe = _recipe(path, held)
    saved = dict(held.get(_HPARAMS) or {})
    kind = cls if cls is not None else _class_of(path, recipe, saved, trusted)
    maker = saved.get(INSTANTIATOR_KEY)
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
        attach_recipe(module, recipe)
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


def _class_of(path: Path, recipe: Recipe | None, hparams: Mapping[str, Any], trusted: bool) -> type[LightningModule]:
    """Return the class that a checkpoint records."""
    name = recipe.class_path if recipe is not None else hparams.get(CLASS_PATH_KEY)
    if not isinstance(name, str):
        raise GrowthError(f"{path} doesn't tell the class of its module; give it as `cls`")
    if not (trusted or name.partition(".")[0] == __name__.partition(".")[0] or _is_there(name)):
        raise GrowthError(
            f"{path}: {name} isn't imported, and importing it would run code that the checkpoint names: give the class as "
            "`cls`, or trusted=True if you trust whoever made it"
        )
    found = _imported(name)
    if isinstance(found, str):
        raise GrowthError(f"{path}: class {name} can't be imported: {found}; give the class as `cls`")
    return found


def _is_there(name: str) -> bool:
    """Whether a dotted path names something that can be had without importing anything."""
    module, names = name, list[str]()
    while module and module not in sys.modules:
        module, _, last = module.rpartition(".")
        names.insert(0, last)
    found: Any = sys.modules.get(module)
    for each in names:
        found = vars(found).get(each) if hasattr(found, "__dict__") else None
    return found is not None


def _imported(name: str) -> type[LightningModule] | str:
    """Return a LightningModule's class by its import path, or why there is none."""
    if "<locals>" in name:
        return "it was defined in a function"
    try:
        found = import_by_name(name)
    except ImportError as error:
        return str(error)
    except Exception as error:  # whatever the user's module raises
        return _line(error)
    return found if isinstance(found, type) and issubclass(found, LightningModule) else "it is no LightningModule"


# Writing


def _saved(held: Mapping[str, Any], expression: Expression, to: Path) -> Path:
    """Write the checkpoint with other hyperparameters and names, and without the states of a training."""
    kept = {name: value for name, value in held.items() if name not in (KEY, *_OF_TRAINING)}
    kept[_HPARAMS] = dict(expression.hparams)
    kept["state_dict"] = {expression.names[name]: value for name, value in held["state_dict"].items()}
    with atomic_path(to) as part:
        torch.save(kept, part)
    return to


def _section(kind: type[LightningModule], hparams: Mapping[str, Any]) -> str | None:
    """Return a config's ``model:`` section; ``None`` if hyperparameters aren't plain data."""
    class_path = hparams.get(CLASS_PATH_KEY) or public_name(kind)
    arguments = {name: value for name, value in hparams.items() if not name.startswith("_")}
    try:
        return cast(str, yaml.safe_dump({"class_path": class_path, "init_args": _listed(arguments)}, sort_keys=False))
    except yaml.YAMLError:
        return None


def _listed(value: Any) -> Any:
    """Return tuples as lists, for YAML."""
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    return [_listed(one) for one in value] if isinstance(value, list | tuple) else value


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _lines(error: BaseException) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:3])


# A search for hyperparameters that build a grown network

_TRIES = 64
"""The largest number of networks that are built."""
_LAYER = 10**6
"""The distance of a missing or additional layer, where a differing size counts 1."""


@dataclass(frozen=True)
class Expression:
    """Hyperparameters with which a module's class builds a grown network.

    Args:
        hparams: The hyperparameters, as ``save_hyperparameters`` keeps them.
        names: For each tensor of the grown network's state dict, its name in the network that they build.
    """

    hparams: Mapping[str, Any]
    names: Mapping[str, str] = field(repr=False)


def express(module: LightningModule, tries: int = _TRIES) -> Expression | None:
    """Hyperparameters that build a grown module; ``None`` if none are found, or if it is too different from all.

    Tried is what a person would: numbers that were a layer's old width or kernel become the new one (a multiple of a width
    becomes the same multiple), lists of widths get another entry, depths one more, an activation's name the new one; in
    nested sections as well. Of all such changes the one that makes most layers alike is kept, until all are. The answer
    is accepted only if both networks have the same layers of the same shapes and, as far as they can be traced, compute the
    same between them. Tensors are matched in the order of registration.

    Args:
        module: Grown, with its hyperparameters saved (``save_hyperparameters``).
        tries: How many modules are built at most.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a constructor's, once for each try
            return _Search(module, tries).run()
    except Exception:  # whatever a user's constructor raises when it gets hyperparameters that nobody chose
        return None


@dataclass(frozen=True)
class _Leaf:
    """A module with tensors of its own, or without children."""

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]


def _leaves(module: nn.Module) -> list[_Leaf]:
    found = []
    for name, part in module.named_modules():
        own = [*parameters_dict(part).items(), *buffers_dict(part).items()]
        if own or not modules_dict(part):
            shapes = tuple(tuple(tensor.shape) for _, tensor in own if tensor is not None)
            found.append(_Leaf(name, type(part).__name__, shapes))
    return found


class _Search:
    def __init__(self, module: LightningModule, tries: int) -> None:
        self.module, self.left = module, tries
        self.name = hparams_name(module)
        self.leaves = _leaves(module)

    def run(self) -> Expression | None:
        hparams: dict[str, Any] = copy.deepcopy(dict(self.module.hparams))
        built = self._build(hparams)
        if built is None:
            return None
        distance = self._distance(built)
        while distance:
            best, missing = None, distance >= _LAYER
            for changed in self._changes(hparams, built):
                if not self.left:
                    break
                other = self._build(changed)
                if other is not None and (reached := self._distance(other)) < distance:
                    best, distance = (changed, other), reached
                    if missing or not distance:  # the right number of layers first, then their sizes
                        break
            if best is None:
                return None
            hparams, built = best
        names = _same(self.module, built)
        return None if names is None else Expression(hparams, names)

    def _build(self, hparams: Mapping[str, Any]) -> LightningModule | None:
        self.left -= 1
        try:
            return build_from(type(self.module), hparams, self.name)
        except Exception:  # as in `express`: this one isn't it
            return None

    def _distance(self, built: LightningModule) -> int:
        """Return how many sizes differ; a missing or additional layer counts more than any size."""
        theirs = _leaves(built)
        if len(theirs) != len(self.leaves):
            return _LAYER * abs(len(theirs) - len(self.leaves))
        return sum(_differing(one, other) for one, other in zip(self.leaves, theirs, strict=True))

    def _changes(self, hparams: dict[str, Any], built: LightningModule) -> Iterator[dict[str, Any]]:
        """Yield hyperparameters with one change each, the likeliest first."""
        theirs = _leaves(built)
        missing = len(self.leaves) - len(theirs)
        sizes = _replaced(theirs, self.leaves)
        pairs = [] if missing else list(zip(theirs, self.leaves, strict=True))
        kinds = {one.kind: other.kind for one, other in pairs if one.kind != other.kind}
        found = [(at, old, new) for at, old in _places(hparams) for new in _values(old, sizes, kinds, missing)]
        for place, _, new in sorted(found, key=lambda one: (one[1], one[2]) not in sizes):
            yield _with(hparams, place, new)


def _differing(one: _Leaf, other: _Leaf) -> int:
    if [len(shape) for shape in one.shapes] != [len(shape) for shape in other.shapes]:
        return 10 + (one.kind != other.kind)
    pairs = zip(one.shapes, other.shapes, strict=True)
    return (one.kind != other.kind) + sum(a != b for x, y in pairs for a, b in zip(x, y, strict=True))


def _replaced(before: Sequence[_Leaf], after: Sequence[_Leaf]) -> list[tuple[int, int]]:
    """Return which size became which other one, the most frequent first."""
    counts: Counter[tuple[int, int]] = Counter()
    if len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            for x, y in zip(one.shapes, other.shapes, strict=False):
                counts.update((a, b) for a, b in zip(x, y, strict=False) if a != b)
    else:
        old = {size for leaf in before for shape in leaf.shapes for size in shape}
        new = Counter(size for leaf in after for shape in leaf.shapes[:1] for size in shape[:1])
        counts.update({(a, b): times for a in old for b, times in new.items()})
    return [pair for pair, _ in counts.most_common()]


def _places(at: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the keys and values of numbers, strings and lists of numbers in nested hyperparameters."""
    if isinstance(at, Mapping):
        for key, value in at.items():
            if not (isinstance(key, str) and key.startswith("_")):
                yield from _places(value, (*path, key))
    elif isinstance(at, list | tuple):
        if at and all(isinstance(one, int) and not isinstance(one, bool) for one in at):
            yield path, at
        for index, value in enumerate(at):
            yield from _places(value, (*path, index))
    elif isinstance(at, int | str) and not isinstance(at, bool):
        yield path, at


def _values(value: Any, sizes: list[tuple[int, int]], kinds: Mapping[str, str], missing: int) -> Iterator[Any]:
    """Yield new values that a hyperparameter may have.

    Args:
        value: A number, a string, or a list of numbers.
        sizes: Pairs of an old and a new size.
        kinds: Old class of a layer -> new class.
        missing: How many layers are missing.
    """
    if isinstance(value, str):
        for old, new in kinds.items():
            before, dot, last = value.rpartition(".")
            if last.lower() == old.lower():
                yield before + dot + (new if last == old else new.lower() if last.islower() else new.upper())
    elif isinstance(value, int) and not missing:
        # A size may be a multiple of a hyperparameter (an expansion), or of it and of positions (a flattened map).
        scaled = {value * b // a: None for a, b in sizes if value and a % value == 0 and value * b % a == 0}
        yield from scaled
    elif isinstance(value, int) and missing > 0:
        yield value + 1
    elif isinstance(value, list | tuple) and missing > 0:
        widths = dict.fromkeys(b for _, b in sizes)
        entries = dict.fromkeys([*value, *widths])
        for entry in entries:
            for at in range(len(value), -1, -1):
                yield type(value)([*value[:at], entry, *value[at:]])


def _with(hparams: Mapping[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy with another value at one position."""

    def put(at: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return value
        if isinstance(at, Mapping):
            return {key: put(one, path[1:]) if key == path[0] else copy.deepcopy(one) for key, one in at.items()}
        return type(at)(put(one, path[1:]) if index == path[0] else one for index, one in enumerate(at))

    changed: dict[str, Any] = put(hparams, place)
    return changed


# Whether two modules are the same


def _same(grown: nn.Module, built: nn.Module) -> dict[str, str] | None:
    """Return the name in ``built`` of each tensor of ``grown``, if the two compute the same; else ``None``."""
    ours, theirs = units_of(grown, "grown"), units_of(built, "built")
    names: dict[str, str] = {}
    for one, other in zip(ours, theirs, strict=False):
        if one.shapes != other.shapes or (one.kind, one.settings, one.groups) != (
            other.kind,
            other.settings,
            other.groups,
        ):
            return None
        names |= {one.path(name): other.path(name) for name in one.tensors}
    whole = set(names) == set(grown.state_dict()) and set(names.values()) == set(built.state_dict())
    labels = [{unit.name: str(at) for at, unit in enumerate(units)} for units in (ours, theirs)]
    alike = len(ours) == len(theirs) and whole and _computes_alike((grown, built), labels)
    return names if alike else None


def _computes_alike(modules: tuple[nn.Module, nn.Module], labels: Sequence[Mapping[str, str]]) -> bool:
    table: dict[tuple, int] = {}
    signatures = []
    for module, named in zip(modules, labels, strict=True):
        graph = trace(module)
        if isinstance(graph, fx.Graph):
            signatures.append(analyse(graph, module, units_of(module, "network"), named, table).signature)
    if signatures:
        return len(signatures) == 2 and signatures[0] == signatures[1]
    # What can't be traced is the same if it is made of the same modules, under the same names.
    one, other = ([(name, type(part), part.extra_repr()) for name, part in each.named_modules()] for each in modules)
    return one == other
