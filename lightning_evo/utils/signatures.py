"""The parameters of a constructor, as a caller sees them."""

from __future__ import annotations

import inspect

__all__ = ["constructor_parameters"]


def constructor_parameters(kind: type) -> dict[str, inspect.Parameter]:
    """A constructor's parameters by name, those of the base class in place of a ``**shared``.

    A constructor that passes ``**shared`` on to its base class takes that class's parameters as well; any other name for
    ``**`` isn't followed.

    >>> class Base:
    ...     def __init__(self, size: int = 3, seed: int = 0) -> None: ...
    >>> class Derived(Base):
    ...     def __init__(self, size: int = 5, **shared) -> None: ...
    >>> {name: parameter.default for name, parameter in constructor_parameters(Derived).items()}
    {'size': 5, 'seed': 0}
    """
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        own = inspect.signature(vars(base)["__init__"]).parameters
        found |= {name: parameter for name, parameter in own.items() if name not in found}
        shared = found.get("shared")
        if shared is None or shared.kind is not inspect.Parameter.VAR_KEYWORD:
            break
        del found["shared"]
    found.pop("self", None)
    return found
