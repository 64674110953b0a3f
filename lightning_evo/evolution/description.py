"""Descriptions of objects as JSON: class and constructor arguments. Two searches are the same if theirs are equal."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lightning_evo.utils.imports import current_name, public_name
from lightning_evo.utils.signatures import constructor_parameters

__all__ = ["complete", "describe"]


def describe(thing: Any) -> Any:
    """Describe what ``thing`` was made of, as JSON: public names of classes and constructor arguments, nested.

    A constructor argument is found under its own name among the object's attributes, the convention of every gene,
    algorithm and setting here, or behind an underscore where a method has the name (and ``None`` is not worth a word);
    one that isn't kept doesn't count as a difference.

    >>> from lightning_evo.genome import Boolean
    >>> describe(Boolean())
    {'class_path': 'lightning_evo.genome.Boolean', 'init_args': {'when': {}}}
    """
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [describe(element) for element in thing]
    if isinstance(thing, type) or inspect.isroutine(thing):
        return public_name(thing)
    if is_dataclass(thing):
        return {f.name: describe(getattr(thing, f.name)) for f in fields(thing)}
    return {"class_path": public_name(type(thing)), "init_args": _arguments(thing)}


def complete(stored: Any, thing: Any) -> Any:
    """Complete what was stored of an object by the arguments that its class has taken only since, at their defaults.

    Args:
        stored: What :func:`describe` gave of it, at a time when classes may have had fewer arguments.
        thing: The object as it is now.

    Returns:
        ``stored`` with the arguments that it doesn't name and whose values are their defaults.

    >>> from lightning_evo.genome import Boolean
    >>> complete({"class_path": "lightning_evo.genome.Boolean", "init_args": {}}, Boolean())
    {'class_path': 'lightning_evo.genome.Boolean', 'init_args': {'when': {}}}
    """
    if isinstance(stored, (list, tuple)) and isinstance(thing, (list, tuple)) and len(stored) == len(thing):
        return [complete(*pair) for pair in zip(stored, thing, strict=True)]
    if not isinstance(stored, Mapping):
        return stored
    if isinstance(thing, Mapping):
        return {key: complete(value, thing[key]) if key in thing else value for key, value in stored.items()}
    if is_dataclass(thing) and not isinstance(thing, type):
        defaults = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(thing)}
        return _completed(stored, {name: getattr(thing, name) for name in defaults}, defaults)
    if not isinstance(stored.get("init_args"), Mapping) or not isinstance(stored.get("class_path"), str):
        return stored
    if current_name(stored["class_path"]) != public_name(type(thing)):
        return stored
    parameters = constructor_parameters(type(thing))
    kept = _kept(thing, parameters)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    inherited = set(parameters) - set(inspect.signature(type(thing)).parameters)
    if not inherited & set(stored["init_args"]):
        # Earlier versions didn't follow every ``**kwargs``: of such a class they described its own arguments alone.
        defaults |= {name: kept[name] for name in inherited & set(kept)}
    return {**stored, "init_args": _completed(stored["init_args"], kept, defaults)}


def _completed(stored: Mapping[str, Any], values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as they were stored, and those that weren't where their values are the defaults."""
    known = {name: complete(value, values[name]) if name in values else value for name, value in stored.items()}
    new = {name: describe(value) for name, value in values.items() if name not in stored}
    return known | {
        name: value for name, value in new.items() if name in defaults and _is_default(value, defaults[name])
    }


def _is_default(described: Any, default: Any) -> bool:
    """Whether a described value is a parameter's default; an empty collection is what ``None`` becomes."""
    return described == describe(default) or (default is None and described in ([], {}))


def _arguments(thing: Any) -> dict[str, Any]:
    return {name: describe(value) for name, value in _kept(thing, constructor_parameters(type(thing))).items()}


def _kept(thing: Any, names: Iterable[str]) -> dict[str, Any]:
    """The constructor arguments that an object keeps, by name."""
    # An algorithm keeps its operators together: methods have their names.
    kept = {**getattr(thing, "operators", {}), **vars(thing)}
    for name in names:
        if name not in kept and callable(getattr(thing, name, None)) and vars(thing).get(f"_{name}") is not None:
            kept[name] = vars(thing)[f"_{name}"]
    return {name: kept[name] for name in names if name in kept}
