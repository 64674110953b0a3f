"""The package is typed for whoever uses it: a user's project passes ``mypy --strict``, and no public name is ``Any``."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
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


STRICT = """
[mypy-own_search,every_name,misuse]
disallow_any_generics = True
disallow_subclassing_any = True
disallow_untyped_calls = True
disallow_untyped_defs = True
disallow_incomplete_defs = True
disallow_untyped_decorators = True
warn_return_any = True
strict_equality = True
extra_checks = True
"""
"""What ``--strict`` means for a user's own modules, as far as it can be said of some modules alone."""


def mypy(*files: Path, cwd: Path) -> tuple[int, str]:
    """Check files as a user does who has installed the package, whose types count because of its ``py.typed``.

    With the settings and the cache of this project's own check, which has read the types of torch: half a minute of work.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)["tool"]["mypy"]
    ours = "".join(f"{name} = {settings[name]}\n" for name in settings if name not in ("packages", "overrides"))
    again = "".join(
        f"[mypy-{one.pop('module')}]\n" + "".join(f"{name} = {value}\n" for name, value in one.items())
        for one in settings["overrides"]
    )
    (cwd / "mypy.ini").write_text(f"[mypy]\n{ours}{again}{STRICT}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir", ROOT / ".mypy_cache", *map(str, files)],
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
def test_a_users_project_is_checked_strictly_and_every_public_name_has_a_type(tmp_path):
    """One run of mypy, as reading the types of torch takes most of its time."""
    names = [(face, name) for face in FACES for name in importlib.import_module(face).__all__]
    assert len(names) > 150
    every = tmp_path / "every_name.py"
    lines = [f"import {face}" for face in FACES] + [f"reveal_type({face}.{name})" for face, name in names]
    every.write_text("\n".join(lines))
    wrong = tmp_path / "misuse.py"
    lines = ["from lightning_evo.genome import Integer", "from lightning_evo.callbacks import Nothing"]
    wrong.write_text("\n".join([*lines, "Integer('low', 3)", "def untyped(x): ..."]))

    code, output = mypy(*sorted(PROJECT.glob("*.py")), every, wrong, cwd=tmp_path)

    revealed = re.findall(r'every_name\.py:(\d+): note: Revealed type is "(.*)"', output)
    assert len(revealed) == len(names)
    untyped = [".".join(names[int(line) - 1 - len(FACES)]) for line, kind in revealed if kind == "Any"]
    assert untyped == MEANT
    errors = [line for line in output.splitlines() if ": error: " in line]
    assert [line for line in errors if not line.startswith("misuse.py")] == []
    # The checks do see types: what is wrong is found.
    assert code == 1
    assert [line.rpartition("[")[2].rstrip("]") for line in errors] == ["attr-defined", "arg-type", "no-untyped-def"]
