"""Names that a package offers without importing their modules before one is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily", "load_all"]


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``, for names that live in its modules.

    Args:
        package: The package's ``__name__``.
        homes: Name -> the module within the package that has it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    def names() -> list[str]:
        return sorted([*vars(sys.modules[package]), *homes])

    return get, names


def load_all(*packages: str) -> None:
    """Import whatever these packages offer by name: config parsers know only the classes that are imported.

    Args:
        packages: Names of packages with an ``__all__``.
    """
    for package in packages:
        module = import_module(package)
        for name in module.__all__:
            getattr(module, name)
