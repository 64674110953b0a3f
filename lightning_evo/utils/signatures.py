"""The parameters of a constructor, as a caller sees them, and errors that name them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable

__all__ = ["at_argument", "constructor_parameters"]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter]:
    """A constructor's parameters by name, those of the base class in place of ``**kwargs``, whatever its name.

    A constructor that takes ``**kwargs`` is taken to pass them on to its base class, and so takes that class's parameters
    as well.

    >>> class Base:
    ...     def __init__(self, size: int = 3, seed: int = 0) -> None: ...
    >>> class Derived(Base):
    ...     def __init__(self, size: int = 5, **kwargs) -> None: ...
    >>> {name: parameter.default for name, parameter in constructor_parameters(Derived).items()}
    {'size': 5, 'seed': 0}
    """
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        if base is object:
            break
        own = inspect.signature(vars(base)["__init__"]).parameters.values()
        found |= {each.name: each for each in own if each.name not in found and each.kind not in _VARIADIC}
        if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own):
            break
    found.pop("self", None)
    return found


def at_argument(path: str, message: str, names: Iterable[str]) -> str:
    """Return a constructor's message behind the config path of what is built; an argument it begins with continues the path.

    Args:
        path: The config path.
        message: What the constructor says.
        names: Names of its arguments.

    >>> at_argument("evolution.space.model.depth", "low: 3 is not below high 2", ["low", "high"])
    'evolution.space.model.depth.low: 3 is not below high 2'
    >>> at_argument("evolution.space.model.depth", "nothing is between 3 and 2", ["low", "high"])
    'evolution.space.model.depth: nothing is between 3 and 2'
    """
    first = re.match(r"(\w+)[\w.\[\]]*: ", message)
    return f"{path}{'.' if first and first[1] in names else ': '}{message}"
