"""Modules as they are imported: which were executed, and what surrounds the execution of the outermost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["ImportWatch"]


class ImportWatch:
    """The first finder of ``sys.meta_path``: finds what the others find, and watches it being executed.

    Args:
        before: Called before a module is executed that no other one imports, with its name.
        after: Called afterwards, with its name and what ``before`` returned.
    """

    def __init__(self, before: Callable[[str], Any], after: Callable[[str, Any], object]) -> None:
        self.executed: list[ModuleType] = []
        """The modules executed so far; to be emptied by whoever reads it."""
        self._before, self._after = before, after
        self._thread = threading.get_ident()  # what other threads import meanwhile is noted, no more
        self._nested = False

    def install(self) -> None:
        """Become the first finder."""
        finders: list[Any] = sys.meta_path
        finders.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the first of the other finders finds that finds anything."""
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if not isinstance(spec.loader, type) and spec.loader is not finder:
                    self._watch(spec.loader)
                return spec
        return None

    def invalidate_caches(self) -> None:
        """Nothing is cached here."""

    def _watch(self, loader: Any) -> None:
        """Have this one loader, which is made for one module, say when it executes it."""
        execute = getattr(loader, "exec_module", None)
        if execute is None or "exec_module" in getattr(loader, "__dict__", {"exec_module"}):
            return

        def exec_module(module: ModuleType) -> None:
            with suppress(AttributeError):
                del loader.exec_module
            self._execute(execute, module)

        loader.exec_module = exec_module

    def _execute(self, execute: Callable[[ModuleType], object], module: ModuleType) -> None:
        if self._nested or threading.get_ident() != self._thread:
            execute(module)
            self.executed.append(module)
            return
        known = self._before(module.__name__)
        self._nested = True
        try:
            execute(module)
        finally:
            self._nested = False
        self.executed.append(module)
        self._after(module.__name__, known)
