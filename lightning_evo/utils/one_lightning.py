"""One Lightning in a process: ``pytorch_lightning`` is another name of ``lightning.pytorch``.

The two packages have the same content but different classes: a LightningModule of the one is none to the other's Trainer. So
imports of the one find the modules of the other, wherever lightning_evo was imported before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["imported_before", "install_one_lightning"]

_PACKAGES = {"pytorch_lightning": "lightning.pytorch", "lightning_fabric": "lightning.fabric"}


def install_one_lightning() -> None:
    """Have imports of ``pytorch_lightning`` and of ``lightning_fabric`` find Lightning's modules; imports none of them.

    A package that was imported before stays what it is.
    """
    if not any(isinstance(finder, _OneLightning) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OneLightning())  # before the finder of what is installed


def imported_before() -> bool:
    """Whether ``pytorch_lightning`` was imported before lightning_evo, so that it has classes of its own."""
    module = sys.modules.get("pytorch_lightning")
    return module is not None and module is not sys.modules.get("lightning.pytorch")


class _OneLightning(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, dot, below = fullname.partition(".")
        if package not in _PACKAGES:
            return None
        name = _PACKAGES[package] + dot + below
        # Below a package that was imported before, modules are its own. What is asked for may not exist.
        if dot and (sys.modules[package] is not sys.modules.get(_PACKAGES[package]) or find_spec(name) is None):
            return None
        return ModuleSpec(fullname, _OtherName(name))


class _OtherName(Loader):
    """Gives a module that has another name already."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # Python has set the other name's
