"""Building a module anew with other hyperparameters, and taking over what differs into a module in training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from inspect import Parameter, signature
from types import BuiltinFunctionType, FunctionType
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_evo._compat.lightning import INSTANTIATOR_KEY
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["NotApplicable", "adopt", "build_from", "check_alike", "rebuild", "with_values"]

_INTERNAL = frozenset(vars(LightningModule())) | frozenset(vars(nn.Module()))
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


class NotApplicable(ValueError):
    """A hyperparameter's value that a module in training can't take on; the message says why."""


def with_values(hparams: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """A copy of hyperparameters with other values.

    Args:
        hparams: As ``save_hyperparameters`` keeps them.
        values: Where -> value; a place is a sequence of keys.

    Raises:
        NotApplicable: If a place leads through something that isn't a mapping.

    >>> with_values({"lr": 0.1, "head": {"init_args": {"p": 0.5}}}, {("head", "init_args", "p"): 0.0})
    {'lr': 0.1, 'head': {'init_args': {'p': 0.0}}}
    """
    changed = copy.deepcopy(dict(hparams))
    for keys, value in values.items():
        at: Any = changed
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, Mapping) else None
        if not isinstance(at, dict):
            raise NotApplicable(f"{'.'.join(keys[:-1])} is an object, not what it was made from")
        at[keys[-1]] = copy.deepcopy(value)
    return changed


def rebuild(module: LightningModule, hparams: Mapping[str, Any]) -> LightningModule:
    """Another module of the same class, made from ``hparams`` as a checkpoint's are; no random state changes."""
    return build_from(type(module), hparams)


def build_from(kind: type[LightningModule], hparams: Mapping[str, Any], name: str = "") -> LightningModule:
    """A module of a class, made from hyperparameters as a checkpoint's are; no random state changes.

    Args:
        kind: The class.
        hparams: As ``save_hyperparameters`` keeps them.
        name: Under which name the class takes them together, if it does: what a checkpoint has as ``hparams_name``.
    """
    arguments = dict(hparams)
    path = arguments.pop(INSTANTIATOR_KEY, None)
    with isolated_random_state(seed=0):  # so that two that are compared differ only by their hyperparameters
        if path is not None:
            # LightningCLI's: hyperparameters are those of the config, classes by their path.
            made = import_by_name(path)(kind, arguments)
        else:
            parameters = signature(kind.__init__).parameters
            if name in parameters and parameters[name].kind is not Parameter.VAR_KEYWORD:
                arguments = {name: arguments}
            if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                arguments = {name: value for name, value in arguments.items() if name in parameters}
            made = kind(**arguments)
        made.configure_model()
    return cast(LightningModule, made)


def check_alike(before: nn.Module, after: nn.Module) -> None:
    """Raise :class:`NotApplicable` if two modules can't have the same parameters and buffers."""
    one, other = _shapes(before), _shapes(after)
    differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        first = differing[0]
        was, now = _shape_text(one.get(first)), _shape_text(other.get(first))
        raise NotApplicable(
            f"changes the structure: {first}{more} ({was} before, {now} after); a network in training keeps its shape"
        )
    names = {name for name, _ in before.named_modules()} ^ {name for name, _ in after.named_modules()}
    if names:
        raise NotApplicable(f"changes the structure: {min(names)} exists in only one of the two networks")
    for name, new in after.named_modules():
        if type(new) is not type(before.get_submodule(name)) and (_shapes(new) or not name):
            raise NotApplicable(f"changes the class of {name or 'the module'}, which has parameters")


def adopt(module: nn.Module, before: nn.Module, after: nn.Module) -> None:
    """Have ``module`` take over what differs between two others: attributes, and submodules without parameters.

    Parameters, buffers and whatever the module has come to hold besides stay. Looked at are plain values, tensors that are
    no buffers, functions, and the attributes of other objects; a closure is not seen through.

    Args:
        module: In training.
        before: Built with the hyperparameters it was built with.
        after: Built with those it is to have.

    Raises:
        NotApplicable: If the two differ in structure.
    """
    check_alike(before, after)
    for name, new in list(after.named_modules()):
        old = before.get_submodule(name)
        if type(old) is not type(new):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, new.train(module.get_submodule(name).training))
        else:
            _adopt_attributes(module.get_submodule(name), old, new, set())


def _adopt_attributes(target: Any, old: Any, new: Any, seen: set[int]) -> None:
    if id(new) in seen:
        return
    seen.add(id(new))
    for name, value in vars(new).items():
        if name in _INTERNAL or name not in vars(old) or name not in vars(target):
            continue
        was, has = vars(old)[name], vars(target)[name]
        if isinstance(value, Tensor):
            if not (isinstance(was, Tensor) and torch.equal(was, value)):
                device = has.device if isinstance(has, Tensor) else value.device
                setattr(target, name, value.to(device))
        elif _plain(value) or _plain(was) or isinstance(value, (partial, *_FUNCTIONS)):
            if not _equal(was, value):
                setattr(target, name, value)
        elif type(value) is type(was) is type(has) and hasattr(value, "__dict__") and not isinstance(value, nn.Module):
            _adopt_attributes(has, was, value, seen)


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_plain(one) for one in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(_plain(one) for one in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.device))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return _equal(one.func, other.func) and one.args == other.args and one.keywords == other.keywords
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        return one.__code__ is other.__code__  # a local function is another object each time it is made
    return type(one) is type(other) and bool(one == other)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(value.shape) if isinstance(value, Tensor) and not nn.parameter.is_lazy(value) else ()
        for name, value in module.state_dict().items()
    }


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"
