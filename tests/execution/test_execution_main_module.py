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


def run(folder, text):
    (folder / "script.py").write_text(HEAD + text)
    (folder / "search.yaml").write_text(SEARCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return warm.run(
        [sys.executable, str(folder / "script.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("text", ["main()\n", "try:\n    main()\nfinally:\n    pass\n", CLI])
def test_a_search_at_the_top_level_is_refused_before_anything_is_made(text, tmp_path):
    done = run(tmp_path, text)
    assert done.returncode != 0
    line = HEAD.count("\n") + 1
    told = [each for each in done.stderr.splitlines() if 'put what starts it under if __name__ == "__main__":' in each]
    assert len(told) == 1
    assert f"{tmp_path / 'script.py'}:{line}: worker processes import this file" in told[0]
    assert ("Traceback" in done.stderr) == (text != CLI)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    [
        'if __name__ == "__main__":\n    main()\n',
        'if __name__ != "__main__":\n    main = print\nmain()\n',
        f'if __name__ == "__main__":\n    {CLI}\n',
    ],
)
def test_what_can_be_imported_is_searched(text, tmp_path):
    done = run(tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "archive.sqlite").exists()
