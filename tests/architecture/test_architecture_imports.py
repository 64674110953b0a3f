"""Rooms import downwards only, and neither rooms nor files import in circles."""

from __future__ import annotations

import subprocess
import sys

import pytest
from architecture_source import NAME, PACKAGE, ROOMS, WITHOUT_TORCH, circles, imports_of, modules

LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def test_the_table_names_the_rooms_that_there_are():
    assert set(LEVEL) == {module.room for module in modules().values()} - {""}


def test_each_room_has_a_page_that_leads_through_it():
    folders = [PACKAGE / room for room in LEVEL if (PACKAGE / room).is_dir()]
    assert len(folders) > 12
    missing = [folder.name for folder in folders if not (folder / "README.md").is_file()]
    assert missing == []


def test_imports_point_downwards():
    upwards = [
        f"{module.where} imports {each.target}"
        for module in modules().values()
        for each in imports_of(module)
        if module.room
        if each.target == NAME
        or ((other := modules()[each.target].room) != module.room and LEVEL[other] <= LEVEL[module.room])
    ]
    assert upwards == []


def test_files_import_in_no_circle():
    """At module level, for type checkers and within functions; a face (``__init__.py``) is a file like any other."""
    graph = {name: {each.target for each in imports_of(module)} - {name} for name, module in modules().items()}
    assert circles(graph) == []


def test_rooms_import_in_no_circle_not_even_within_functions():
    graph: dict[str, set[str]] = {room: set() for room in LEVEL}
    for module in modules().values():
        if module.room:
            graph[module.room] |= {modules()[each.target].room for each in imports_of(module)} - {module.room, ""}
    assert circles(graph) == []


@pytest.mark.parametrize("room", [*WITHOUT_TORCH, "cli.main", "cli.leaderboard"])
def test_genetics_and_reading_an_archive_import_neither_torch_nor_lightning(room):
    code = f"import {NAME}.{room}, sys; print([name for name in ('torch', 'lightning') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_circle_is_found():
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
