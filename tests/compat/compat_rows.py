"""The rows of the tables: one for each private name of a library that ``lightning_evo._compat`` uses."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

import lightning_evo._compat

FOLDER = Path(lightning_evo._compat.__file__).parent


@dataclass(frozen=True)
class Row:
    """One private name.

    Args:
        name: The name as it stands in the code, for example ``_parameters``.
        without_it: What of this package breaks where the name is gone or behaves otherwise.
        check: Uses it as the package does; raises if it doesn't exist or behaves otherwise.
        since: A library and the version that has brought it, for example ``lightning 2.6``: earlier ones work without.
    """

    name: str
    without_it: str
    check: Callable[[], None]
    since: str = ""

    def run(self) -> None:
        """Check it; a failure tells what breaks."""
        if self.since:
            library, least = self.since.split()
            if Version(version(library)) < Version(least):
                pytest.skip(f"{self.name} came with {self.since}, and isn't needed before")
        try:
            self.check()
        except Exception as error:
            raise AssertionError(
                f"{self.name} is gone or behaves otherwise ({type(error).__name__}: {error}). Without it: {self.without_it}"
            ) from error


def is_private(name: str) -> bool:
    """Whether a name is underscored, and no special method.

    >>> is_private("_C"), is_private("__init__"), is_private("torch"), is_private("_")
    (True, False, False, False)
    """
    return name.startswith("_") and name.strip("_") != "" and not (name.startswith("__") and name.endswith("__"))


def private_names(module: str) -> set[str]:
    """All private names in the source of a module of ``_compat``, but those that it defines itself."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text())
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("lightning_evo"):
            found |= {*node.module.split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.FunctionDef) and node not in tree.body:
            found.add(node.name)
    return {name for name in found - own if is_private(name)}
