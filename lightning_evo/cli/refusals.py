"""The config path of what a constructor refuses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_evo._compat.jsonargparse import instantiate
from lightning_evo.cli.given_values import hint_of_elements, hints_of, options
from lightning_evo.training.blueprint import error_summary, root_of
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.signatures import at_argument, constructor_parameters

__all__ = ["find_refused"]


def find_refused(path: str, value: Any, hint: Any) -> str | None:
    """Return the message of the innermost constructor that refuses its arguments, with the whole config path.

    Each class in the value is built alone, those inside others first. So the path is exact wherever the class stands, and
    whatever the parser made of the error. It is meant for a value that was refused: constructors run again.

    Args:
        path: The value's config path.
        value: Plain data, classes as ``class_path`` and ``init_args``.
        hint: The type hint.

    Returns:
        ``PATH.ARGUMENT: VALUE is not ...``; ``None`` if every constructor accepts its arguments.
    """
    for where, kind, arguments in _components(path, value, hint):
        parser = ArgumentParser(exit_on_error=False)
        try:
            parser.add_class_arguments(kind, _KEY)
            instantiate(parser, parser.parse_object({_KEY: copy.deepcopy(dict(arguments))}))
        except (ArgumentError, ValueError, TypeError, MisconfigurationException) as error:
            message = error_summary(root_of(error)).removeprefix(_KEY).lstrip(":. ")
            return at_argument(where, message, constructor_parameters(kind))
    return None


_KEY = "refused"
"""The parser's name for the class."""


def _components(path: str, value: Any, hint: Any) -> Iterator[tuple[str, type, Mapping[str, Any]]]:
    """Yield the config path, class and arguments of each class in a value, those inside others first."""
    if isinstance(value, list):
        inner = hint_of_elements(hint)
        for i, element in enumerate(value):
            yield from _components(f"{path}[{i}]", element, inner)
    if not isinstance(value, Mapping):
        return
    if isinstance(value.get("class_path"), str):
        try:
            kind = import_by_name(value["class_path"])
        except (ImportError, ValueError, AttributeError):
            return  # the parser says it better
        arguments = value.get("init_args") or {}
    else:
        kind = next((kind for kind in options(hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
        arguments = value
    if not isinstance(kind, type) or not isinstance(arguments, Mapping):
        return
    hints = hints_of(kind)
    for name, argument in arguments.items():
        yield from _components(f"{path}.{name}", argument, hints.get(name, (Any,))[0])
    yield path, kind, arguments
