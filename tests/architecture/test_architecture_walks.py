"""The walks that ``docs/architecture.md`` takes newcomers on lead through files and functions that exist."""

from __future__ import annotations

import ast
import re

import pytest
from architecture_source import PACKAGE, ROOT

SECTION = re.search(r"^## Three walks\n(.*?)^## ", (ROOT / "docs/architecture.md").read_text(), re.M | re.S)
WALKS = re.findall(r"^\*\*(.+)\*\*\n\n((?:\d+\. .*\n(?:   .*\n)*)+)", SECTION[1] if SECTION else "", re.M)
STEPS = [(walk, line) for walk, steps in WALKS for line in steps.splitlines()]


def test_there_are_three_walks():
    assert len(WALKS) == 3


@pytest.mark.parametrize(("walk", "step"), STEPS, ids=lambda text: text.partition(":")[0])
def test_a_step_names_a_file_and_what_is_defined_in_it(walk, step):
    places = re.findall(r"`([\w/]+\.py)` `([\w.]+)`", step)
    assert places
    for file, name in places:
        body = ast.parse((PACKAGE / file).read_text()).body
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} doesn't define {name}"
            body = found[0].body
