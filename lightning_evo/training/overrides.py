"""A gene's value in a config: dotted paths through mappings, and through lists by index or class name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["apply_genome", "changes_class", "look_up", "value_at"]


def apply_genome(config: Mapping[str, Any], genome: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``config`` with every value of ``genome`` at its path.

    A path's parts are keys; in a list (such as ``trainer.callbacks``) a part is an index from 0 or the class name of the
    element that is meant: ``trainer.callbacks.EarlyStopping.init_args.patience``. Missing mappings are made on the way:
    whether the path makes sense is the parser's to say.

    Raises:
        KeyError: If a part names no element of a list, or leads into a plain value. The message says which.

    >>> apply_genome({"model": {"init_args": {"lr": 0.1}}}, {"model.init_args.lr": 0.2, "trainer.max_epochs": 3})
    {'model': {'init_args': {'lr': 0.2}}, 'trainer': {'max_epochs': 3}}
    """
    changed = copy.deepcopy(dict(config))
    # A section comes before what is in it, and a class before its arguments, whatever the order of the genes.
    for path in sorted(genome, key=lambda path: path.count(".")):
        _put(changed, path, genome[path])
    return changed


def look_up(config: Any, path: str, default: Any = None) -> Any:
    """What a config, parsed or plain, has at a path as :func:`apply_genome` understands it; ``default`` if nothing.

    >>> look_up({"trainer": {"callbacks": [{"class_path": "EarlyStopping"}]}}, "trainer.callbacks.EarlyStopping.class_path")
    'EarlyStopping'
    """
    at = config
    for part in path.split("."):
        if isinstance(at, (list, tuple)):
            try:
                at = at[_element(at, part, path)]
            except KeyError:
                return default
            continue
        # A parser's Namespace has methods that are no settings.
        settings = at if isinstance(at, Mapping) else vars(at) if hasattr(at, "__dict__") else {}
        if part not in settings:
            return default
        at = settings[part]
    return at


def changes_class(path: str) -> bool:
    """Whether a gene at ``path`` chooses a class, so that the arguments beside it may no longer fit."""
    return path.rpartition(".")[2] == "class_path"


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a path of a config, which is written as for :func:`apply_genome`.

    Raises:
        KeyError: If there is none.

    >>> value_at({"trainer": {"callbacks": [{"class_path": "EarlyStopping"}]}}, "trainer.callbacks.EarlyStopping.class_path")
    'EarlyStopping'
    """
    at: Any = config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        if isinstance(at, list):
            at = at[_element(at, part, ".".join(parts[:depth]))]
        elif isinstance(at, Mapping) and part in at:
            at = at[part]
        else:
            have = f"; there are {', '.join(map(str, at))}" if isinstance(at, Mapping) and at else ""
            raise KeyError(f"there is no {'.'.join(parts[: depth + 1])}{have}")
    return at


_LISTS = ("trainer.callbacks",)
"""What is a list where it isn't there yet, so that a class that isn't in it is missed by its name."""


def _put(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    at: Any = config
    for depth, part in enumerate(parents):
        place = ".".join(parents[: depth + 1])
        if isinstance(at, list):
            at = at[_element(at, part, place)]
        else:
            if at.get(part) is None:
                at[part] = [] if place in _LISTS else {}
            at = at[part]
        if not isinstance(at, (dict, list)):
            raise KeyError(f"{place} is {at!r}, which has no {path[len(place) + 1 :]!r} in it")
    if isinstance(at, list):
        at[_element(at, last, path)] = copy.deepcopy(value)
        return
    if last == "class_path" and at.get("class_path") != value:
        # The old class's arguments are not the new one's.
        at.pop("init_args", None)
        at.pop("dict_kwargs", None)
    at[last] = copy.deepcopy(value)


def _element(elements: Sequence[Any], part: str, place: str) -> int:
    """The index that ``part`` means in a list: a number, or the class name of one element."""
    if part.isdigit():
        if int(part) < len(elements):
            return int(part)
        raise KeyError(f"{place}: the list has {len(elements)} elements, counted from 0")
    names = [str(e.get("class_path", "")) if hasattr(e, "get") else str(e) for e in elements]
    found = [i for i, name in enumerate(names) if part in (name, name.rpartition(".")[2])]
    if len(found) == 1:
        return found[0]
    have = ", ".join(name.rpartition(".")[2] for name in names) or "nothing"
    raise KeyError(
        f"{place}: {part!r} names {'no' if not found else 'more than one'} element of the list, which has {have}"
    )
