"""One format for settings that are refused: ``NAME: VALUE is not ...``, in source and as constructors raise it."""

from __future__ import annotations

import ast
import inspect
import re
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from architecture_source import modules

import lightning_evo.algorithms
import lightning_evo.callbacks
import lightning_evo.callbacks.growth.triggers
import lightning_evo.data
import lightning_evo.evolution.settings
import lightning_evo.genome
import lightning_evo.models
import lightning_evo.predictors
import lightning_evo.predictors.curves.policies
import lightning_evo.swarms
from lightning_evo.utils.signatures import constructor_parameters

FACES = (
    lightning_evo.algorithms,
    lightning_evo.callbacks,
    lightning_evo.callbacks.growth.triggers,
    lightning_evo.data,
    lightning_evo.evolution.settings,
    lightning_evo.genome,
    lightning_evo.models,
    lightning_evo.predictors,
    lightning_evo.predictors.curves.policies,
    lightning_evo.swarms,
)

NEEDED = {
    "Bitstring": {"length": 8},
    "Budget": {"candidates": 3},
    "Categorical": {"choices": ["a", "b"]},
    "FitnessRecorder": {"monitor": "val_acc"},
    "Integer": {"low": 2, "high": 9},
    "LogUniform": {"low": 0.1, "high": 1.0},
    "Objective": {"monitor": "val_acc"},
    "Operator": {"name": "per_gene"},
    "Ordinal": {"choices": [1, 2]},
    "TensorImages": None,  # holds the images themselves
    "Uniform": {"low": 0.1, "high": 1.0},
}
"""What constructors need at least; ``None``: not settings."""

BAD = {int: (-(10**6), 0), float: (float("nan"), -1e6, 2.0**40), Literal: ("no such thing",)}
"""Values by a parameter's type that few settings accept."""


def public_classes():
    found = {name: getattr(face, name) for face in FACES for name in getattr(face, "__all__", ())}
    return {
        name: kind for name, kind in sorted(found.items()) if inspect.isclass(kind) and not inspect.isabstract(kind)
    }


def bad_values(kind):
    """(argument, bad value) for each parameter of a constructor whose type says what it may be."""
    hints = {}
    for base in reversed(kind.__mro__):
        try:
            hints |= get_type_hints(vars(base).get("__init__", object.__init__))
        except (NameError, TypeError):  # an annotation for type checkers alone
            continue
    for name in constructor_parameters(kind):
        hint = hints.get(name)
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for part in parts:
            yield from ((name, value) for value in BAD.get(get_origin(part) or part, ()))


def rows():
    for name, kind in public_classes().items():
        needed = NEEDED.get(name, {})
        required = [
            each.name for each in constructor_parameters(kind).values() if each.default is inspect.Parameter.empty
        ]
        if needed is not None and set(required) <= set(needed):
            for argument, value in bad_values(kind):
                yield pytest.param(kind, {**needed, argument: value}, argument, value, id=f"{name}-{argument}-{value}")


ROWS = list(rows())


def refusal(kind, arguments):
    try:
        kind(**arguments)
    except Exception as error:
        return error
    return None


def test_there_are_many_rows():
    kinds = {row.values[0] for row in ROWS}
    refused = [row for row in ROWS if refusal(*row.values[:2]) is not None]
    assert len(kinds) > 40
    assert len(refused) > 100


@pytest.mark.parametrize(("kind", "arguments", "argument", "value"), ROWS)
def test_a_refused_value_stands_behind_its_argument(kind, arguments, argument, value):
    error = refusal(kind, arguments)
    if error is None:
        return  # not every such value is bad
    assert isinstance(error, (ValueError, TypeError))
    assert re.match(r"[\w.\[\]]+: \S.* \S", str(error)), error
    told = str(error).partition(":")[0]
    # Two settings may contradict each other: then either is named.
    assert told.partition("[")[0] in constructor_parameters(kind), error
    assert "\n" not in str(error)


UNIDIOMATIC = re.compile(
    r" is none of | is neither '| is refused: |\w \x00 is not (at least|above|below|in|one of|from|between)\b"
)


def test_no_message_names_a_setting_without_a_colon():
    """It is ``lr: 0.0 is not above 0``."""
    found = []
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "\x00" for part in node.values)
                if UNIDIOMATIC.search(text) and not text.startswith(("candidate", "--")):
                    found.append(f"{module.where}:{node.lineno}: {text}")
    assert found == []
