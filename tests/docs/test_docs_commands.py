"""The commands on all pages that only read a search are run, each on the archive of a small search over a function."""

from __future__ import annotations

import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT, blocks_of
from sessions import shell_lines_of

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import GenerationalEvolution
from lightning_evo.cli import main
from lightning_evo.genome import Categorical, Integer, LogUniform

READING = re.compile(r"lightning-evo (leaderboard|predictor|report|plot|export)\b")
# A candidate's config and checkpoint need a trained one (`test_docs_sessions.py`); what serves never ends by itself.
ELSEWHERE = re.compile(r"lightning-evo (export .*--to|report .*--watch)")
CANDIDATES = 280
"""As many as the largest ``--at`` of a page needs."""


def evaluate(genome, seed, directory):
    """Something to rank, at once."""
    accuracy = (
        0.9 - abs(genome["model.lr"] - 0.01) + 0.01 * genome["model.depth"] + 0.02 * (genome["model.act"] == "GELU")
    )
    return {"val_acc": accuracy, "val_loss": 1 - accuracy, "params": 100 * genome["model.depth"]}


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """The directory of a finished search."""
    directory = tmp_path_factory.mktemp("searched") / "run"
    with ThreadPoolExecutor(1) as threads:
        Evolution(
            function=evaluate,
            space={
                "model.lr": LogUniform(1e-4, 1e-1),
                "model.depth": Integer(1, 8),
                "model.act": Categorical(["ReLU", "GELU"]),
            },
            algorithm=GenerationalEvolution(population_size=20),
            objectives=[Objective("val_acc", "max"), Objective("val_loss", "min")],
            budget=Budget(candidates=CANDIDATES),
            workers=Workers(slots=1),
            executor=threads,
            directory=directory,
            seed=1,
        ).run()
    return directory


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks_of(page, "bash") for line in shell_lines_of(block.text)]
    return sorted({line for line in lines if READING.match(line) and not ELSEWHERE.match(line)})


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_a_command_that_reads_a_search_works(line, searched, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_project.py").write_text("from lightning_evo.predictors import ForestPredictor as Mine\n")
    words = shlex.split(line)[1:]
    for run in {word for word in words if re.fullmatch(r"runs/\w+", word)}:
        shutil.copytree(searched, tmp_path / run)
    main(words)
    written = re.findall(r"--(?:to|plot|json|csv|optuna) (\S+)", line)
    assert capsys.readouterr().out.strip() or written or "--errors" in line
    for path in written:
        there = tmp_path / path
        assert (any(there.iterdir()) if there.is_dir() else there.stat().st_size) > 0


def fitted_configs() -> set[str]:
    lines = [line for page in PAGES for block in blocks_of(page, "bash") for line in shell_lines_of(block.text)]
    return {name for line in lines for name in re.findall(r"--config[ =](configs/\S+)", line)}


def test_the_configs_that_pages_run_are_those_that_ship():
    assert fitted_configs()
    assert [name for name in sorted(fitted_configs()) if not (ROOT / name).is_file()] == []
