"""Import by name, and the names under which things are public."""

from __future__ import annotations

import collections
import math
import sys

import pytest

from lightning_evo.genome.genes import Integer
from lightning_evo.genome.space import SearchSpace
from lightning_evo.utils.imports import import_by_name, public_name


class Outer:
    """Holds a nested class."""

    class Inner:
        """Nested."""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("math", math),
        ("math.floor", math.floor),
        ("collections.OrderedDict", collections.OrderedDict),
        ("collections.OrderedDict.fromkeys", collections.OrderedDict.fromkeys),
        ("lightning_evo.genome.Integer", Integer),
        ("lightning_evo.SearchSpace", SearchSpace),
        (f"{__name__}.Outer.Inner", Outer.Inner),
    ],
)
def test_modules_classes_functions_and_nested_classes_are_found(path, found):
    assert import_by_name(path) == found


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_at_all.Net", "No module named 'nowhere_at_all'"),
        ("math.nothing", "module 'math' has no attribute 'nothing'"),
        ("collections.missing.Net", "module 'collections' has no attribute 'missing'"),
        ("collections.OrderedDict.nothing", "has no attribute 'nothing'"),
        ("", "'' is not an import path"),
        (".Net", "'.Net' is not an import path"),
        ("a.b.<locals>.Net", "'a.b.<locals>.Net' is not an import path"),
    ],
)
def test_what_is_not_there_is_an_import_error_that_names_it(path, message):
    with pytest.raises(ImportError) as error:
        import_by_name(path)
    assert message in str(error.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with modules that fail while they are imported."""
    folder = tmp_path / "imported_by_name"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "needs.py").write_text("import a_library_that_is_missing\nclass Net: ...\n")
    (folder / "fails.py").write_text("raise RuntimeError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_module_that_fails_gives_its_own_reason(package):
    with pytest.raises(ImportError, match="No module named 'a_library_that_is_missing'"):
        import_by_name(f"{package}.needs.Net")
    with pytest.raises(RuntimeError, match="at import"):
        import_by_name(f"{package}.fails.Net")


def test_what_a_room_exports_is_named_by_the_room():
    from lightning_evo.predictors import BayesianCurve

    assert public_name(Integer) == "lightning_evo.genome.Integer"
    assert public_name(SearchSpace) == "lightning_evo.genome.SearchSpace"
    assert public_name(BayesianCurve) == "lightning_evo.predictors.BayesianCurve"
    assert public_name(public_name) == "lightning_evo.utils.imports.public_name"


def test_what_isnt_ours_is_named_by_the_module_that_defines_it():
    assert public_name(Outer.Inner) == f"{__name__}.Outer.Inner"
    assert public_name(collections.OrderedDict) == "collections.OrderedDict"


def test_every_exported_name_can_be_imported_again():
    import lightning_evo.algorithms as algorithms
    import lightning_evo.genome as genome

    for room in (algorithms, genome):
        for name in room.__all__:
            thing = getattr(room, name)
            if isinstance(thing, type):
                assert import_by_name(public_name(thing)) is thing
