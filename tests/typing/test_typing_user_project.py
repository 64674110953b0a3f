"""The package is typed for whoever uses it: a user's project passes ``mypy --strict``, and no public name is ``Any``."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_evo

ROOT = Path(lightning_evo.__file__).parent.parent
PROJECT = Path(__file__).parent / "project"
FACES = [
    "lightning_evo",
    "lightning_evo.algorithms",
    "lightning_evo.archive",
    "lightning_evo.callbacks",
    "lightning_evo.data",
    "lightning_evo.evolution",
    "lightning_evo.execution",
    "lightning_evo.functional",
    "lightning_evo.genome",
    "lightning_evo.models",
    "lightning_evo.predictors",
    "lightning_evo.reporting.tensorboard",
    "lightning_evo.reporting.wandb",
    "lightning_evo.swarms",
    "lightning_evo.training",
]
MEANT = ["lightning_evo.genome.Value"]
"""What is ``Any`` on purpose: a gene's value is whatever the gene's class says."""


def mypy(*files: Path, cwd: Path, cache: Path) -> tuple[int, str]:
    """Check files as a user does who has installed the package, whose types count because of its ``py.typed``."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            str(cache),
            *map(str, files),
        ],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_users_project_is_checked_strictly_and_every_public_name_has_a_type(tmp_path, request):
    """One run of mypy, as reading the types of torch takes most of its time: a minute, and seconds with pytest's cache."""
    cache = request.config.cache.mkdir("mypy")
    names = [(face, name) for face in FACES for name in importlib.import_module(face).__all__]
    assert len(names) > 150
    every = tmp_path / "every_name.py"
    lines = [f"import {face}" for face in FACES] + [f"reveal_type({face}.{name})" for face, name in names]
    every.write_text("\n".join(lines))
    wrong = tmp_path / "misuse.py"
    wrong.write_text(
        "from lightning_evo.genome import Integer\nfrom lightning_evo.callbacks import Nothing\nInteger('low', 3)\n"
    )

    code, output = mypy(*sorted(PROJECT.glob("*.py")), every, wrong, cwd=tmp_path, cache=cache)

    revealed = re.findall(r'every_name\.py:(\d+): note: Revealed type is "(.*)"', output)
    assert len(revealed) == len(names)
    untyped = [".".join(names[int(line) - 1 - len(FACES)]) for line, kind in revealed if kind == "Any"]
    assert untyped == MEANT
    errors = [line for line in output.splitlines() if ": error: " in line]
    assert [line for line in errors if not line.startswith("misuse.py")] == []
    # The checks do see types: what is wrong is found.
    assert code == 1
    assert [line.rpartition("[")[2].rstrip("]") for line in errors] == ["attr-defined", "arg-type"]
