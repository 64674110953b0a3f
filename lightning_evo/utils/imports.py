"""Classes and functions by their import paths, and the public name of each, under which it is stored."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from pkgutil import resolve_name
from types import FunctionType
from typing import Any

from lightning_evo.utils.earlier_names import EARLIER_NAMES

__all__ = ["current_name", "import_by_name", "in_session", "named", "public_name"]

_PACKAGE = __name__.partition(".")[0]


def import_by_name(path: str) -> Any:
    """Import what a dotted path names: a module, or a class or function in one, also a nested class.

    Args:
        path: For example ``torch.optim.Adam``. A name that an earlier version stored stands for what it named.

    Raises:
        ImportError: If there is no such thing, or a module on the way to it can't be imported; the message says which.

    >>> import_by_name("collections.OrderedDict.fromkeys")
    <built-in method fromkeys of type object at ...>
    """
    try:
        return resolve_name(current_name(path))
    except ValueError:
        raise ImportError(f"{path!r} is not an import path") from None
    except AttributeError as error:
        # A module whose own imports fail looks to resolve_name like one that doesn't exist.
        _raise_import_error(path)
        raise ImportError(str(error)) from None


def public_name(thing: type | FunctionType | Any) -> str:
    """The import path under which a class or function is public, which outlives a move to another file.

    What a room of this package exports (``__all__``) is named by the room; anything else by the module that defines it.

    >>> from lightning_evo.genome.genes import Integer
    >>> public_name(Integer)
    'lightning_evo.genome.Integer'
    >>> import fractions
    >>> public_name(fractions.Fraction)
    'fractions.Fraction'
    """
    module, name = thing.__module__, getattr(thing, "__qualname__", repr(thing))
    parts = module.split(".")
    if parts[0] == _PACKAGE and "." not in name:
        # The room before the rooms within it; the package's own face repeats some names of theirs.
        for length in range(2, len(parts)):
            package = sys.modules.get(".".join(parts[:length]))
            if name in getattr(package, "__all__", ()) and getattr(package, name) is thing:
                return f"{'.'.join(parts[:length])}.{name}"
    return f"{module}.{name}"


def named(value: Any) -> Any:
    """Plain data in which classes and functions are given as objects, with their import paths in their places.

    Raises:
        ValueError: If one can't be imported: a lambda, what a function has defined, and what a session has.

    >>> import collections
    >>> named({"class_path": collections.OrderedDict, "init_args": {"sizes": [1, 2]}})
    {'class_path': 'collections.OrderedDict', 'init_args': {'sizes': [1, 2]}}
    """
    if isinstance(value, Mapping):
        return {key: named(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [named(held) for held in value]
    if not isinstance(value, type) and not inspect.isroutine(value):
        return value
    name = public_name(value)
    if "<" in name:
        raise ValueError(f"{name} can't be imported by workers: define it at the top level of a module")
    if in_session(value):
        raise ValueError(f"{name} can't be imported by workers: move it from the session to a file")
    return name


def in_session(thing: Any) -> bool:
    """Whether something is defined in a main module without a file: a notebook, a prompt, ``python -c``."""
    return getattr(thing, "__module__", "") == "__main__" and not hasattr(sys.modules["__main__"], "__file__")


def current_name(path: str) -> str:
    """Return the public name of what ``path`` named in an earlier version; ``path`` itself if it isn't one of those names.

    >>> current_name("lightning_evo.genome.genes.Integer"), current_name("my_package.genes.Angle")
    ('lightning_evo.genome.Integer', 'my_package.genes.Angle')
    """
    return EARLIER_NAMES.get(path, path)


def _raise_import_error(path: str) -> None:
    """Import the modules of a path, and let through why one that exists fails."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        module = ".".join(parts[:length])
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module:
                return
            raise
