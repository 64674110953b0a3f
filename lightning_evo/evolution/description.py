"""Descriptions of objects as JSON: class and constructor arguments. Two searches are the same if theirs are equal."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from lightning_evo.utils.imports import public_name
from lightning_evo.utils.signatures import constructor_parameters

__all__ = ["describe"]


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
    names = list(constructor_parameters(type(thing)))
    # An algorithm keeps its operators together: methods have their names.
    kept = {**getattr(thing, "operators", {}), **vars(thing)}
    for name in names:
        if name not in kept and callable(getattr(thing, name, None)) and vars(thing).get(f"_{name}") is not None:
            kept[name] = vars(thing)[f"_{name}"]
    arguments = {name: describe(kept[name]) for name in names if name in kept}
    return {"class_path": public_name(type(thing)), "init_args": arguments}
