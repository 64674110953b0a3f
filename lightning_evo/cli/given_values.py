"""Values that a parser would take silently for something else: null, and true or false where a number is due."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.signatures import constructor_parameters

__all__ = ["check_value", "hint_of_elements", "hints_of", "options"]

_NO_VALUE = inspect.Parameter.empty


def check_value(path: str, value: Any, hint: Any, default: Any = _NO_VALUE) -> None:
    """Refuse what isn't of its type, though jsonargparse lets it pass.

    Null passes wherever a setting may be left out; a Boolean is an integer of Python. Settings of classes
    (``class_path`` and ``init_args``), of dataclasses and in lists are looked at as well; what has no type hint isn't.

    Args:
        path: The value's config path.
        value: Plain data.
        hint: The type hint.
        default: What holds where it is left out, if it may be.

    Raises:
        ValueError: If it is refused; the message begins with the path.
    """
    kinds = options(hint)
    if Any in kinds or any(isinstance(kind, typing.TypeVar) for kind in kinds):
        return
    if value is None:
        if not {None, type(None), object} & set(kinds):
            shown = "" if default is _NO_VALUE else f"; leave it out for the default, {default!r}"
            raise ValueError(f"{path}: null is not accepted{shown or f': give {_described(kinds)}'}")
        return
    if isinstance(value, bool):
        if {int, float} & set(kinds) and not {bool, object} & set(kinds):
            raise ValueError(f"{path}: {str(value).lower()} is not a number")
        return
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{path}: nan is not a number")
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        _check_class(path, value)
    elif isinstance(value, Mapping):
        for kind in kinds:
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                _check_arguments(path, kind, value)
            elif typing.get_origin(kind) in (dict, Mapping) and len(typing.get_args(kind)) == 2:
                for key, element in value.items():
                    check_value(f"{path}.{key}", element, typing.get_args(kind)[1])
    elif isinstance(value, list):
        inner = hint_of_elements(hint)
        for i, element in enumerate(value):
            check_value(f"{path}[{i}]", element, inner)


_LISTS = (list, tuple, typing.get_origin(typing.Sequence[int]))


def hint_of_elements(hint: Any) -> Any:
    """The type hint of a list's elements; ``Any`` where there is none, or several."""
    inner = [typing.get_args(kind)[0] for kind in options(hint) if typing.get_origin(kind) in _LISTS]
    return inner[0] if len(inner) == 1 else Any


def hints_of(kind: type) -> dict[str, tuple[Any, Any]]:
    """A constructor's parameters -> type hint and default; without those whose hints can't be resolved."""
    found: dict[str, tuple[Any, Any]] = {}
    try:
        parameters = constructor_parameters(kind)
    except (TypeError, ValueError):
        return found  # a class without a signature
    for base in reversed(kind.__mro__):
        function = inspect.unwrap(vars(base).get("__init__", object.__init__))
        for name, hint in getattr(function, "__annotations__", {}).items():
            if name not in parameters:
                continue
            try:
                # One by one: a name that only type checkers see spoils no other.
                hint = eval(hint, function.__globals__) if isinstance(hint, str) else hint
            except Exception:
                continue
            found[name] = hint, parameters[name].default
    return found


def _check_class(path: str, value: Mapping[str, Any]) -> None:
    try:
        kind = import_by_name(value["class_path"])
    except (ImportError, ValueError, AttributeError):
        return  # the parser says it better
    arguments = value.get("init_args")
    if isinstance(kind, type) and isinstance(arguments, Mapping):
        _check_arguments(path, kind, arguments)


def _check_arguments(path: str, kind: type, arguments: Mapping[str, Any]) -> None:
    hints = hints_of(kind)
    for name, value in arguments.items():
        if name in hints:
            check_value(f"{path}.{name}", value, *hints[name])


def options(hint: Any) -> list[Any]:
    """Return the members of a union; the kinds of a literal's values."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return [option for member in typing.get_args(hint) for option in options(member)]
    if origin is Literal:
        return [type(value) for value in typing.get_args(hint)]
    if origin is typing.Annotated:
        return options(typing.get_args(hint)[0])
    return [hint]


def _described(kinds: list[Any]) -> str:
    return " or ".join(getattr(option, "__name__", str(option)) for option in kinds)
