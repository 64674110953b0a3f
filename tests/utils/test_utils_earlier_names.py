"""Names stored before public names were, and the public names they stand for."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import lightning_evo
from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.genome import Gene
from lightning_evo.predictors import CurvePredictor, StoppingPolicy
from lightning_evo.utils.earlier_names import EARLIER_NAMES
from lightning_evo.utils.imports import current_name, import_by_name, public_name


def subclasses(kind):
    for below in kind.__subclasses__():
        yield below
        yield from subclasses(below)


def test_every_class_that_is_stored_has_a_public_name():
    for found in pkgutil.walk_packages(lightning_evo.__path__, "lightning_evo."):
        if not found.name.startswith("lightning_evo.reporting"):
            importlib.import_module(found.name)
    kinds = {
        below
        for kind in (Gene, Algorithm, Predictor, SearchCallback, CurvePredictor, StoppingPolicy)
        for below in subclasses(kind)
        if below.__module__.startswith("lightning_evo.")
        and not below.__name__.startswith("_")
        and not below.__module__.startswith("lightning_evo.reporting.")
    }
    assert len(kinds) > 30
    for kind in kinds - {SearchCallback}:
        assert public_name(kind).count(".") <= 2, f"{kind} is stored under a name that moves with its file: export it"


@pytest.mark.parametrize(("earlier", "name"), EARLIER_NAMES.items())
def test_every_earlier_name_stands_for_a_public_one(earlier, name):
    found = import_by_name(earlier)
    assert found is pkgutil.resolve_name(name)
    assert public_name(found) == name
    assert current_name(earlier) == name
    assert current_name(name) == name


# A package has taken this one's place, and what is in it is the package's to say.
TAKEN = {"lightning_evo.swarms.stack.ParticleStack"}


@pytest.mark.parametrize("earlier", sorted(EARLIER_NAMES.keys() - TAKEN))
def test_a_parser_that_imports_an_earlier_name_itself_finds_the_class(earlier):
    module, _, name = earlier.rpartition(".")
    assert getattr(importlib.import_module(module), name) is pkgutil.resolve_name(EARLIER_NAMES[earlier])


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("lightning_evo.callbacks.never")
    with pytest.raises(AttributeError):
        importlib.import_module("lightning_evo.callbacks.fast_training").Never  # noqa: B018


def test_earlier_names_cost_no_torch():
    code = "import sys, lightning_evo.utils.imports; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
