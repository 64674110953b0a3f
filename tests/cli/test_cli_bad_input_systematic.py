"""A sample of the bad input that ``benchmarks/faults.py --kinds`` tries in full: code 0 or 2, one line, no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from _faults import bad_commands, bad_input, sharing


@pytest.fixture(scope="module", autouse=True)
def _shared():
    with sharing():
        yield
        bad_commands.searches.cache_clear()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings_of_the_section_take_any_value_or_say_why_not(place):
    faults = {}
    for number, variation in enumerate(bad_input.variations()[:40]):
        folder = place / str(number)
        folder.mkdir()
        faults[variation.name] = bad_input.outcome(bad_input.write(folder, variation)).fault(variation.path)
    assert {name: fault for name, fault in faults.items() if fault} == {}


def test_every_setting_of_the_section_is_found():
    found = {path for path, _, _ in bad_input.places()}
    assert {"evolution.budget.wall_time", "evolution.workers.slots", "evolution.final.overrides"} <= found
    assert any(path.endswith("(LogUniform.low)") for path in found)
    assert len(found) > 150
    assert len(bad_input.variations()) <= bad_input.VARIATIONS


@pytest.mark.parametrize("name", list(bad_commands.FILES)[::5])
def test_a_file_that_is_no_config_is_refused(name, place):
    (place / "file").write_bytes(bad_commands.FILES[name])
    assert bad_input.outcome(["fit", "--config", "file", "--trainer.limit_train_batches", "1"]).fault() == ""


def test_commands_refuse_what_is_no_search_and_no_argument(place):
    faults = {}
    for number, command in enumerate(bad_commands.command_lines()[:40]):
        faults[command] = bad_commands.fault_of(command, place / str(number))
    assert {command: fault for command, fault in faults.items() if fault} == {}
