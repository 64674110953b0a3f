"""``lightning-evo hydra``: the example project, searched as it is and opened by itself; refusals in one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import warm
from sessions import shell_lines

from lightning_evo import Archive
from lightning_evo.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "hydra"
HYDRA = ["hydra", "--config-path", "configs", "--config-name", "train", "--import", "train", "search.yaml"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the example's folder, in which its modules are forgotten afterwards."""
    folder = Path(shutil.copytree(EXAMPLE, tmp_path / "hydra", ignore=shutil.ignore_patterns("__pycache__", "runs")))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PROJECT_ROOT", str(folder))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name == "train" or name.partition(".")[0] == "src":
            del sys.modules[name]


def rows(directory: str, capsys) -> list[dict[str, object]]:
    capsys.readouterr()
    main(["leaderboard", directory, "--format", "json", "--top", "0"])
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_hydra_project_is_searched_as_it_is_and_opens_what_is_exported(project, capsys):
    # Three epochs are what a prediction needs besides the one that it predicts.
    command = [*HYDRA, "trainer.max_epochs=4", "--evolution.budget.candidates", "5"]
    before = {path for path in project.rglob("*") if "__pycache__" not in path.parts}
    main(command)
    found = rows("runs/hydra", capsys)
    assert len(found) == 5
    assert {row["status"] for row in found} <= {"completed", "stopped"}
    made = {path.relative_to(project).parts[0] for path in project.rglob("*") if "__pycache__" not in path.parts} - {
        path.relative_to(project).parts[0] for path in before
    }
    assert made == {"runs"}  # Hydra's outputs and multiruns are not touched

    main(command)
    assert rows("runs/hydra", capsys) == found

    main(["export", "runs/hydra", "--to", "best", "--torch-export"])
    assert (project / "best" / "model.pt2").exists()
    opened = warm.run(
        [sys.executable, "train.py", "--config-path", "best", "--config-name", "config", "ckpt_path=best/model.ckpt"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert opened.returncode == 0, (opened.stderr, (project / "best" / "config.yaml").read_text())
    tested = Archive("runs/hydra").meta["final"]["metrics"]["test/acc"]
    shown = re.search(r"test/acc\D+([\d.]+)", opened.stdout)
    assert shown
    assert float(shown[1]) == pytest.approx(tested, abs=1e-4)


def test_the_page_shows_the_examples_search_and_commands():
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "hydra.md").read_text()
    assert (EXAMPLE / "search.yaml").read_text().partition("\n")[2] in page
    commands = shell_lines(EXAMPLE / "README.md")
    assert " ".join(["lightning-evo", *HYDRA]) in commands
    assert set(commands) - {"python train.py"} < set(shell_lines(EXAMPLE.parents[1] / "docs" / "how-to" / "hydra.md"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope=3"], r"hydra: .*nope"),
        (["trainer=nope"], r"hydra: .*'trainer/nope'; choose from cpu"),
        (["--config-name", "nope"], r"hydra: .*primary config 'nope'"),
        (["--config-path", "nope"], r"--config-path: nope is no directory"),
        (["--import", "nope"], r"hydra: --import: there is no module 'nope'"),
        (["--model", "net"], r"hydra: .* no 'net'.*--model"),
        (["--nope"], r"unknown option --nope"),
        (["--evolution.budget.candidates", "x"], r"evolution.budget.candidates: .*x"),
        (
            ["--evolution.space", '{"model.nope": [1, 2]}'],
            r"evolution.space.model.nope: 1 is not accepted: .*model.nope",
        ),
        (["--evolution.space", "null"], r"evolution.space: "),
    ],
)
def test_what_is_refused_is_said_in_one_line(project, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*HYDRA, *words])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err.strip().splitlines()[-1])
    assert not (project / "runs").exists()
