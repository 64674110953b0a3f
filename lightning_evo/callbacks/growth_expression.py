"""Could a grown network have been built as it is? A search for hyperparameters that build it, without any recipe."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning.pytorch import LightningModule
from torch import fx, nn

from lightning_evo.callbacks.rebuilding import build_from
from lightning_evo.functional.alignment import units_of
from lightning_evo.functional.roles import read
from lightning_evo.functional.tracing import trace

__all__ = ["Expression", "express"]

_TRIES = 64
"""How many networks are built at most."""
_LAYER = 10**6
"""What a layer more or less counts, in sizes that differ."""


@dataclass(frozen=True)
class Expression:
    """Hyperparameters with which a module's class builds a grown network.

    Args:
        hparams: As ``save_hyperparameters`` keeps them.
        names: For each tensor of the grown network's state dict its name in what they build.
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
    """A module with tensors of its own, or without children: what a network is made of."""

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]


def _leaves(module: nn.Module) -> list[_Leaf]:
    found = []
    for name, part in module.named_modules():
        own = [*part._parameters.items(), *part._buffers.items()]
        if own or not part._modules:
            shapes = tuple(tuple(tensor.shape) for _, tensor in own if tensor is not None)
            found.append(_Leaf(name, type(part).__name__, shapes))
    return found


class _Search:
    def __init__(self, module: LightningModule, tries: int) -> None:
        self.module, self.left = module, tries
        self.name = getattr(module, "_hparams_name", None) or ""
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
        """How many sizes differ; a layer more or less counts more than any size."""
        theirs = _leaves(built)
        if len(theirs) != len(self.leaves):
            return _LAYER * abs(len(theirs) - len(self.leaves))
        return sum(_differing(one, other) for one, other in zip(self.leaves, theirs, strict=True))

    def _changes(self, hparams: dict[str, Any], built: LightningModule) -> Iterator[dict[str, Any]]:
        """Hyperparameters with one change each, the likeliest first."""
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
    """Which size became which other one, the most frequent first."""
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
    """Where in nested hyperparameters there is a number, a text or a list of numbers."""
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
    """What may have become of a hyperparameter.

    Args:
        value: A number, a text, or a list of numbers.
        sizes: Which size became which.
        kinds: Which class of layers became which.
        missing: How many layers too few it builds.
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
    """A copy with another value in one place."""

    def put(at: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return value
        if isinstance(at, Mapping):
            return {key: put(one, path[1:]) if key == path[0] else copy.deepcopy(one) for key, one in at.items()}
        return type(at)(put(one, path[1:]) if index == path[0] else one for index, one in enumerate(at))

    changed: dict[str, Any] = put(hparams, place)
    return changed


# Whether two modules are the same ---------------------------------------------------------------------------------------


def _same(grown: nn.Module, built: nn.Module) -> dict[str, str] | None:
    """The name in ``built`` of each tensor of ``grown``, if the two compute the same; else ``None``."""
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
            signatures.append(read(graph, module, units_of(module, "network"), named, table).signature)
    if signatures:
        return len(signatures) == 2 and signatures[0] == signatures[1]
    # What can't be traced is the same if it is made of the same modules, under the same names.
    one, other = ([(name, type(part), part.extra_repr()) for name, part in each.named_modules()] for each in modules)
    return one == other
