"""Private names of other libraries are used in ``_compat`` and nowhere else."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Iterator

from architecture_source import NAME, Module, modules

ROOM = "_compat"
DOCUMENTED = {"_replace", "_fields", "_asdict", "_exit", "_repr_html_"}
"""Underscored, and yet public: named tuples', ``os._exit``, notebooks'."""


def is_private(name: str) -> bool:
    return name.startswith("_") and name.strip("_") != "" and not (name.startswith("__") and name.endswith("__"))


def others() -> list[Module]:
    return [module for module in modules().values() if module.room != ROOM]


def defined() -> set[str]:
    """The private names that the package itself defines: functions, classes, variables and attributes."""
    found = set()
    for module in others():
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                found.add(node.attr)
    return {name for name in found if is_private(name)}


def of_libraries() -> set[str]:
    """The private names that ``_compat`` uses."""
    found = set()
    for module in modules().values():
        if module.room != ROOM:
            continue
        own = {node.name for node in ast.walk(module.tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
                found.add(node.value)
            elif isinstance(node, ast.ImportFrom) and not str(node.module).startswith(NAME):
                found |= {alias.name for alias in node.names}
        found -= {name for name in own if not is_private(name)}
    return {name for name in found if is_private(name)}


def _is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def test_nothing_private_is_imported():
    def imported(module: Module) -> Iterator[str]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                if not str(node.module).startswith(NAME):
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    found = [
        f"{module.where} imports {name}"
        for module in others()
        for name in imported(module)
        if any(map(is_private, name.split(".")))
    ]
    assert found == []


def test_no_private_attribute_is_used_that_isnt_our_own():
    own, foreign = defined() | DOCUMENTED, of_libraries()
    assert {"_parameters", "_checkpoint_connector", "_upsert_sweep"} <= foreign
    found = []
    for module in others():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                if node.attr not in own or (node.attr in foreign and not _is_self(node.value)):
                    found.append(f"{module.where}:{node.lineno} {ast.unparse(node)}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in foreign - own:
                found.append(f"{module.where}:{node.lineno} {node.value!r}")
    assert found == []


def test_no_private_method_of_a_library_is_overridden():
    found = []
    for name in modules():
        importlib.import_module(name)
    for module in others():
        for kind in vars(sys.modules[module.name]).values():
            if not inspect.isclass(kind) or kind.__module__ != module.name:
                continue
            for base in kind.__mro__[1:]:
                if base.__module__.startswith(NAME):
                    continue
                common = {
                    method
                    for method, value in vars(kind).items()
                    if is_private(method) and inspect.isfunction(value) and method in vars(base)
                }
                found += [f"{module.name}.{kind.__qualname__}.{method} of {base.__qualname__}" for method in common]
    assert found == []
