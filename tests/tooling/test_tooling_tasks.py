"""The commands of ``tasks.py``, and the selection of a fast run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tasks():
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ran(tasks, monkeypatch):
    """The commands that would have run, without the interpreter; nothing is installed."""
    commands = []
    monkeypatch.setattr(tasks, "run", lambda command: commands.append(command))
    monkeypatch.setattr(tasks.Environment, "setup", lambda self, extras="": commands.append([self.folder.name, extras]))
    monkeypatch.setattr(tasks, "provide_browser", lambda environment: None)
    return commands


PYTEST = ["-m", "pytest", "-n", "4", "--dist", "worksteal"]


def test_ci_runs_the_readmes_command():
    (command,) = re.findall(r"&& (python3 tasks\.py test.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if "tasks.py" in line] == [f"exec {command}"]


def test_everything_is_linted_type_checked_and_tested(tasks, ran):
    tasks.main(["test"])
    assert ran[0] == [".venv", "[test]"]
    assert [command[1:] for command in ran[1:]] == [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
        PYTEST,
    ]


def test_a_fast_run_leaves_only_tests_out(tasks, ran):
    tasks.main(["test", "--fast", "-k", "word"])
    assert [command[2] for command in ran[1:]] == ["ruff", "ruff", "mypy", "pytest"]
    assert ran[-1][1:] == [*PYTEST, "--fast", "-k", "word"]


def test_rooms_are_tested_alone(tasks, ran):
    tasks.main(["test", "genome", "utils", "-x"])
    assert [command[1:] for command in ran[1:]] == [[*PYTEST, "tests/genome", "tests/utils", "-x"]]


def test_lowest_versions_have_an_environment_of_their_own(tasks, ran, monkeypatch):
    monkeypatch.setattr(tasks, "find_python", lambda version: f"/python{version}")
    tasks.main(["test", "--lowest"])
    assert ran[0] == [".venv-lowest", "[test]"]
    assert [command[1:] for command in ran[1:]] == [[*PYTEST, "--fast"]]
    assert ran[1][0] == str(ROOT / ".venv-lowest" / "bin" / "python")


def test_another_python_has_an_environment_of_its_own(tasks, ran, monkeypatch):
    monkeypatch.setattr(tasks, "find_python", lambda version: f"/python{version}")
    tasks.main(["test", "--python", "3.13", "archive"])
    assert ran[0] == [".venv-3.13", "[test]"]
    assert [command[1:] for command in ran[1:]] == [[*PYTEST, "--fast", "tests/archive"]]


def test_a_python_that_isnt_installed_is_skipped_with_a_word(tasks, ran, capsys):
    tasks.main(["test", "--python", "3.99"])
    assert ran == []
    assert capsys.readouterr().out == "skipped: Python 3.99 isn't installed here\n"


def test_this_python_is_found(tasks):
    path = tasks.find_python(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert path is not None
    assert Path(path).exists()


def test_the_lowest_series_of_every_requirement_is_asked_for(tasks):
    series = tasks.lowest_series()
    assert {"torch==2.6.*", "lightning==2.5.0.*", "numpy==1.26.*", "pyyaml==6.0.*", "jsonargparse==4.41.*"} <= set(
        series
    )
    assert not any(each.startswith(("ruff", "mypy", "hatchling")) for each in series)


def test_a_fast_run_leaves_out_slow_tests_and_those_that_take_long(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "durations.txt").write_text(
        "   12.0 test_some.py::test_long\n    3.0 test_some.py::TestClass::test_long\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow: takes long\n")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.parametrize('case', ['a', 'b/c'])\ndef test_long(case): ...\n\n"
        "@pytest.mark.slow\ndef test_slow(): ...\n\n"
        "def test_short(): ...\n\n"
        "class TestClass:\n    def test_long(self): ...\n    def test_short(self): ...\n"
    )

    def collected(*options):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return [line for line in done.stdout.splitlines() if "::" in line]

    assert len(collected()) == 6
    assert collected("--fast") == ["test_some.py::test_short", "test_some.py::TestClass::test_short"]
