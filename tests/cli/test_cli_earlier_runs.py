"""Searches begun before public names were stored: continued from the same config files, and their winners opened."""

from __future__ import annotations

import inspect
import shutil
import sys
from pathlib import Path

import pytest
import warm
from commands import CONFIG, run
from lightning.pytorch import Trainer

from lightning_evo import Archive
from lightning_evo.archive import ArchiveWriter
from lightning_evo.training import Blueprint

BEGUN = Path(__file__).parents[1] / "archive" / "samples" / "begun"


@pytest.fixture
def begun(tmp_path):
    """The kept runs, without arguments of the Trainer that this version of Lightning doesn't take (yet)."""
    directory = tmp_path / "begun"
    shutil.copytree(BEGUN, directory)
    known = Blueprint().resolve({"model": CONFIG["model"]})["trainer"]
    for name in ("weights", "population"):
        search = Archive(directory / name).meta["search"]
        trainer = search["config"]["trainer"]
        if not trainer.keys() <= known.keys():
            search["config"]["trainer"] = {key: value for key, value in trainer.items() if key in known}
            with ArchiveWriter(directory / name) as writer:
                writer.set_meta("search", search)
    return directory


def everything(directory):
    with Archive(directory) as archive:
        return {
            candidate.id: (vars(candidate), {**result.to_dict(), "checkpoint": None, "checkpoint_bytes": None})
            for candidate, result in archive.events()
            if result is not None
        }


@pytest.mark.parametrize(("name", "before", "after"), [("weights", 14, 17), ("population", 6, 8)])
def test_a_search_begun_before_continues_and_trains_nothing_again(begun, name, before, after):
    finished = everything(begun / name)
    assert len(finished) == before
    done = run(
        *("fit", "--config", "config.yaml", "--config", f"{name}.yaml", f"--evolution.budget.candidates={after}"),
        cwd=begun,
    )
    assert done.returncode == 0, done.stderr
    assert f"continuing: {before} candidates" in done.stdout + done.stderr
    continued = everything(begun / name)
    assert len(continued) == after
    assert {id: continued[id] for id in finished} == finished
    new = [continued[id] for id in continued if id not in finished]
    assert all(result["status"] in ("completed", "stopped") for _, result in new)
    assert any(candidate["inherits"] in finished for candidate, _ in new), (
        "new ones start from the weights of earlier ones"
    )


def test_a_search_that_is_another_one_is_still_refused(begun):
    done = run(
        *("fit", "--config", "config.yaml", "--config", "population.yaml", "--evolution.algorithm.population_size=3"),
        cwd=begun,
    )
    assert done.returncode == 2
    assert "holds a different search" in done.stderr
    differing = [line.strip() for line in done.stderr.splitlines() if " in the archive, " in line]
    assert differing == ["evolution.algorithm.init_args.population_size: 2 in the archive, 3 given"]


needs_lightning_2_6 = pytest.mark.skipif(
    "enable_autolog_hparams" not in inspect.signature(Trainer).parameters,
    reason="the runs were begun with Lightning 2.6, whose configs earlier ones don't read",
)


@needs_lightning_2_6
def test_the_schedule_of_an_earlier_population_is_followed(begun):
    done = run(
        *("fit", "--config", "population/final/config.yaml", "--config", "population/final/replay.yaml"),
        cwd=begun,
    )
    assert done.returncode == 0, done.stderr


@needs_lightning_2_6
def test_an_earlier_winner_is_opened_by_stock_lightning(begun):
    (begun / "stock.py").write_text("from lightning.pytorch.cli import LightningCLI\nLightningCLI()\n")
    done = warm.run(
        [
            sys.executable,
            "stock.py",
            "test",
            "--config",
            "weights/final/config.yaml",
            "--ckpt_path",
            "weights/final/model.ckpt",
        ],
        cwd=begun,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "0.921875" in done.stdout
