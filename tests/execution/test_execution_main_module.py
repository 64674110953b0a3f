"""A main module that starts a search whenever it is imported is refused; one that can be imported isn't."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import warm

TESTS = Path(__file__).parents[1]

HEAD = """
import sys
from lightning_evo import Budget, Evolution, EvolutionCLI, Objective
from lightning_evo.genome import Uniform
from toys import ToyData, ToyNet, sphere

def main():
    settings = {"space": {"x": Uniform(0, 1)}, "objectives": [Objective("value")], "budget": Budget(candidates=1)}
    Evolution(function=sphere, directory="run", **settings).run()

"""
CLI = """EvolutionCLI(
    ToyNet, ToyData, args=["fit", "--config", "search.yaml"]
)"""
SEARCH = """
evolution: {space: {model.lr: [0.1, 0.2]}, objectives: [{monitor: val_acc}], budget: {candidates: 1}, directory: run}
trainer: {max_epochs: 1, accelerator: cpu}
"""


def run(folder, text, *command, name="script.py"):
    (folder / name).write_text(HEAD + text)
    (folder / "search.yaml").write_text(SEARCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS), str(TESTS.parent)])}
    return warm.run(
        [sys.executable, *(command or [str(folder / name)])],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "text",
    ["main()\n", "try:\n    main()\nfinally:\n    pass\n", "if len(sys.argv) == 1:\n    main()\n", CLI],
)
def test_a_search_that_importing_starts_again_is_refused_in_one_line_before_anything_is_made(text, tmp_path):
    done = run(tmp_path, text)
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert (
        f"{tmp_path / 'script.py'}, line {HEAD.count(chr(10)) + 1 + ('    main' in text)}: worker processes import"
        in told
    )
    assert 'put what the program does under `if __name__ == "__main__":`' in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        'if "__main__" == __name__ and main:\n    main()\n',
        'if __name__ != "__main__":\n    main = print\nmain()\n',
        'import multiprocessing\nif multiprocessing.current_process().name == "MainProcess":\n    main()\n',
        f'if __name__ == "__main__":\n    {CLI}\n',
    ],
)
def test_what_can_be_imported_is_searched(text, tmp_path):
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "archive.sqlite").exists()


def test_the_main_module_of_a_package_needs_no_guard(tmp_path):
    (tmp_path / "package").mkdir()
    as_main = "import runpy; runpy.run_module('package', run_name='__main__', alter_sys=True)"  # python -m package
    done = run(tmp_path, "main()\n", "-c", as_main, name="package/__main__.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "archive.sqlite").exists()
