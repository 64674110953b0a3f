"""The package's source as data: its modules, what each imports, and its public classes."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import lightning_evo

PACKAGE = Path(lightning_evo.__file__).parent
ROOT = PACKAGE.parent
NAME = PACKAGE.name

ROOMS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("export",),
    ("evolution",),
    ("reporting",),
    ("execution",),
    ("training",),
    ("callbacks",),
    ("swarms",),
    ("models", "data"),
    ("predictors",),
    ("algorithms",),
    ("archive",),
    ("genome",),
    ("functional",),
    ("utils",),
    ("_compat",),
)
"""The rooms from top to bottom; those of one line don't import each other. ``docs/architecture.md`` has the same table."""

WITHOUT_TORCH = ("genome", "algorithms", "archive")


@dataclass(frozen=True)
class Module:
    """A module of the package.

    Args:
        name: Its dotted name.
        path: Its file.
        tree: Its syntax tree.
    """

    name: str
    path: Path
    tree: ast.Module = field(repr=False)

    @property
    def room(self) -> str:
        """The top-level room; empty for the package's own face and ``python -m``."""
        room = self.name.split(".")[1] if "." in self.name else ""
        return "" if room == "__main__" else room

    @property
    def where(self) -> str:
        """Its path within the repository."""
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    """One imported module of the package.

    Args:
        target: The module's name.
        names: What is taken from it; empty for the module itself.
        deferred: Whether it is imported within a function, when that is called.
    """

    target: str
    names: tuple[str, ...]
    deferred: bool


@cache
def modules() -> dict[str, Module]:
    """All modules by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


@cache
def imports_of(module: Module) -> tuple[Import, ...]:
    """What a module imports of the package: at module level, for type checkers, and within functions."""

    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.name in modules():
                        yield Import(alias.name, (), deferred)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module.where}:{child.lineno} imports relatively"
                taken = []
                for alias in child.names:
                    if f"{child.module}.{alias.name}" in modules():
                        yield Import(f"{child.module}.{alias.name}", (), deferred)
                    else:
                        taken.append(alias.name)
                if taken and child.module in modules():
                    yield Import(child.module, tuple(taken), deferred)
            else:
                yield from visit(child, deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    return tuple(visit(module.tree, False))


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in index:
            visit(node)
    return found
