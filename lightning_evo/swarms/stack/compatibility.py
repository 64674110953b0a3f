"""Checks that a step is the same computation for all particles, so that one of them can compute it for all."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_evo._compat.lightning import HPARAMS
from lightning_evo.swarms.errors import SwarmError

__all__ = ["NotStackable", "differing_attributes", "guarded", "same", "unchanged"]

# Attributes of every LightningModule, which never affect what a step computes.
_INTERNAL = (set(vars(LightningModule())) - {"training"}) | {"log", "log_dict", *HPARAMS[1:]}


class NotStackable(SwarmError):
    """A step that can't be computed for all particles at once; the message is the reason."""


def differing_attributes(particles: Sequence[LightningModule]) -> dict[str, dict[str, str]]:
    """Attributes, other than tensors of the state dict, that differ between particles.

    Returns:
        Path of the module -> name of the attribute -> how it differs. Hyperparameters are named ``hparams.<name>``.
    """
    differing: dict[str, dict[str, str]] = {}
    trees = [dict(_steps(particle)) for particle in particles]
    for path, module in trees[0].items():
        mine = _attributes(module)
        for index, tree in enumerate(trees[1:], start=1):
            theirs = _attributes(tree[path])
            for name in {**mine, **theirs}:
                found = differing.get(path, {})
                if name not in found and not same(mine.get(name, _ABSENT), theirs.get(name, _ABSENT)):
                    values = (
                        f"{_show(mine.get(name, _ABSENT))} in particle 0, {_show(theirs.get(name, _ABSENT))} in {index}"
                    )
                    differing.setdefault(path, {})[name] = values
    return differing


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _steps(particle: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose attributes a step may read: all except metrics, which are handled separately."""
    inside: tuple[str, ...] = ()
    for path, module in particle.named_modules():
        if isinstance(module, (Metric, MetricCollection)):
            inside += (path,)
        elif not any(path.startswith(f"{metric}.") for metric in inside):
            yield path, module


def _attributes(module: nn.Module) -> dict[str, Any]:
    attributes = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
    hparams = attributes.pop(HPARAMS[0], None)
    if isinstance(hparams, Mapping):
        attributes.update({f"hparams.{name}": value for name, value in hparams.items()})
    return attributes


def same(one: Any, other: Any, depth: int = 6) -> bool:
    """Whether a step computes the same with both values; where that can't be told, it may not."""
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0:
        return False
    try:
        return _equal(one, other, depth - 1)
    except Exception:  # whatever a class makes of a comparison; tensors without data and empty cells raise too
        return False


def _equal(one: Any, other: Any, depth: int) -> bool:
    """Whether two values of one type are equal, NaN to itself, down to ``depth`` levels of what they hold."""
    if isinstance(one, Tensor):
        if one.dtype != other.dtype or one.layout != other.layout or one.shape != other.shape:
            return False
        one, other = (value.coalesce().to_dense() if value.is_sparse else value for value in (one, other))
        return bool(torch.equal(one, other)) or bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, np.ma.MaskedArray):
        masks = np.ma.getmaskarray(one), np.ma.getmaskarray(other)
        return same(*masks, depth) and same(one.filled(0), other.filled(0), depth)
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype.hasobject:
            return same(one.ravel().tolist(), other.ravel().tolist(), depth)
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key], depth) for key in one)
    if isinstance(one, (list, tuple, deque)):
        return len(one) == len(other) and all(same(a, b, depth) for a, b in zip(one, other, strict=True))
    if isinstance(one, types.MethodType):
        return one.__func__ is other.__func__ and _same_owner(one.__self__, other.__self__, depth)
    if isinstance(one, types.FunctionType):
        return one.__code__ is other.__code__ and same(_bound(one), _bound(other), depth)
    if isinstance(one, (bool, int, float, complex, str, bytes, type, types.BuiltinFunctionType)):
        return bool(one == other) or (one != one and other != other)
    if type(one).__eq__ is object.__eq__:
        # What a copy is made of: attributes alone say nothing of slots, or of what a partial binds.
        return all(same(a, b, depth) for a, b in zip(one.__reduce_ex__(4)[:3], other.__reduce_ex__(4)[:3], strict=True))
    return bool(one == other)


def _bound(function: types.FunctionType) -> list[Any]:
    """The values that a function brings along: of variables around it, and of its arguments' defaults."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [*cells, function.__defaults__, function.__kwdefaults__]


def _same_owner(one: Any, other: Any, depth: int) -> bool:
    return type(one) is type(other) if isinstance(one, nn.Module) else same(one, other, depth)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"


@contextmanager
def guarded(template: nn.Module, differing: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Make the template of a step raise an error when it reads an attribute that differs between particles.

    Args:
        template: The module that computes for all.
        differing: What :func:`differing_attributes` found.

    Raises:
        NotStackable: On reading such an attribute inside.
    """
    changed: list[tuple[nn.Module, type]] = []
    try:
        for path, attributes in differing.items():
            module = template.get_submodule(path)
            changed.append((module, type(module)))
            module.__class__ = _guarded_class(type(module), path, attributes)
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind


_classes: dict[tuple[type, int], type] = {}


def _guarded_class(kind: type, path: str, attributes: Mapping[str, str]) -> type:
    key = (kind, id(attributes))
    if key in _classes and vars(_classes[key])["_guarded_attributes"] is attributes:
        return _classes[key]

    def refuse(name: str) -> NotStackable:
        where = f"self.{path}.{name}" if path else f"self.{name}"
        return NotStackable(f"{where} is read in the step and differs between particles ({attributes[name]})")

    class Hparams(AttributeDict):
        def __getitem__(self, name: str) -> Any:
            if f"hparams.{name}" in attributes:
                raise refuse(f"hparams.{name}")
            return super().__getitem__(name)

        def __getattr__(self, name: str) -> Any:
            return self[name] if name in self else super().__getattr__(name)

        def get(self, name: str, default: Any = None) -> Any:
            try:
                return self[name]
            except KeyError:
                return default

    hides_hparams = any(name.startswith("hparams.") for name in attributes)

    def read(self: Any, name: str) -> Any:
        if name in attributes:
            raise refuse(name)
        value = object.__getattribute__(self, name)
        return Hparams(value) if hides_hparams and name == HPARAMS[0] else value

    guarded_class = type(kind.__name__, (kind,), {"__getattribute__": read, "_guarded_attributes": attributes})
    # Config parsers look for the class of a short name among all subclasses, except those that are local to a function.
    guarded_class.__qualname__ = f"_guarded_class.<locals>.{kind.__name__}"
    if len(_classes) > 256:
        _classes.clear()
    _classes[key] = guarded_class
    return guarded_class


@contextmanager
def unchanged(template: nn.Module, thorough: bool) -> Iterator[None]:
    """Detect and undo changes that a step makes to its module other than in buffers and metrics.

    Args:
        template: The module that computes for all.
        thorough: Check all modules inside, too, not only ``template``.

    Raises:
        NotStackable: At the end, if there were any.
    """
    modules = list(_steps(template)) if thorough else [("", template)]
    before = [{name: (value, _contents(value)) for name, value in _own(module).items()} for _, module in modules]
    written: list[str] = []
    try:
        yield
    finally:
        for (path, module), old in zip(modules, before, strict=True):
            written += [f"self.{path}.{name}" if path else f"self.{name}" for name in _restore(module, old)]
    if written:
        raise NotStackable(f"the step keeps values in {', '.join(written)}; log them, or register a buffer")


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _INTERNAL and name != HPARAMS[0]}


def _contents(value: Any) -> Any:
    """A shallow copy of a container, to detect changes."""
    return value.copy() if type(value) in (list, dict, set, deque) else None


def _restore(module: nn.Module, old: Mapping[str, tuple[Any, Any]]) -> list[str]:
    changed = []
    now = _own(module)
    for name in now.keys() - old.keys():
        changed.append(name)
        del module.__dict__[name]
    for name, (value, contents) in old.items():
        if now.get(name, _ABSENT) is not value:
            changed.append(name)
            module.__dict__[name] = value
        if contents is not None and not _same_contents(value, contents):
            changed.append(name)
            value.clear()
            (value.update if isinstance(value, (dict, set)) else value.extend)(contents)
    return sorted(set(changed))


def _same_contents(value: Any, contents: Any) -> bool:
    if len(value) != len(contents):
        return False
    if isinstance(value, set):
        return bool(value == contents)
    held = [container.values() if isinstance(container, dict) else container for container in (value, contents)]
    return all(a is b for a, b in zip(*held, strict=True))
