"""What every test of the documentation gets: a folder in which pages run, and a main module like a script's."""

from __future__ import annotations

import sys
import types

import pytest
from docs_pages import EXAMPLE


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the example's files, in which pages run; what they import is forgotten afterwards."""
    for file in EXAMPLE.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.chdir(tmp_path)
    for folder in (EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(EXAMPLE))):
            del sys.modules[name]


@pytest.fixture
def main_module(workplace, monkeypatch):
    """A main module like that of ``python page.py``, which worker processes import too."""
    module = types.ModuleType("__main__")
    module.__file__ = str(workplace / "page.py")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module
