"""Every example is run as its README says, in a copy of its folder: what it promises comes out.

``wandb_sweep`` is run by ``test_cli_wandb.py``, ``hydra`` by ``test_cli_hydra.py``.
"""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import pytest
import warm
import yaml
from sessions import run_here, shell_lines, shortened

from lightning_evo import Archive

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if (path / "config.yaml").exists())

# What can't be seen on the smallest budget: a prediction needs three epochs; a swarm is trained whole, and averaged every
# other epoch.
EPOCHS = {"own_callback": 6, "swarm": 4}
CANDIDATES = {"multi_objective": 6, "swarm": 12}


def copied(name: str, to: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "runs")))


@pytest.fixture
def example(request, tmp_path):
    """A copy of an example's folder in which the commands of its README have been run, on a small budget."""
    name = request.param
    folder = copied(name, tmp_path)
    lines = shell_lines(folder / "README.md")
    assert any("--config search.yaml" in line for line in lines)
    for line in lines:
        run_here(shortened(line, folder, EPOCHS.get(name, 1), CANDIDATES.get(name, 4)), folder)
    return folder


def archive_of(folder: Path) -> Archive:
    search = yaml.safe_load((folder / "search.yaml").read_text())
    archive = Archive(folder / search["evolution"]["directory"])
    failed = archive.candidates(status="failed")
    assert not failed, [archive.result(row["id"]).error for row in failed]
    assert archive.counts()["pending"] == 0
    assert math.isfinite(archive.meta["final"]["metrics"]["test_acc"])
    return archive


def python(code: str, folder: Path) -> str:
    """What code prints that needs no more than Lightning, in a new process."""
    return warm.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_model"], indirect=True)
def test_own_model_gives_a_winner_that_opens_without_this_package(example):
    archive = archive_of(example)
    assert sum(archive.counts().values()) == 4
    best = archive.best(1)[0]
    code = 'import sys; from own_model import Net; net = Net.load_from_checkpoint("best/model.ckpt")'
    width = python(f'{code}; assert "lightning_evo" not in sys.modules; print(net.hparams.width)', example)
    assert int(width) == best["model.init_args.width"]


@pytest.mark.slow
@pytest.mark.parametrize("example", ["own_callback"], indirect=True)
def test_own_callback_decides_in_the_search(example):
    decided = archive_of(example).extras("early_fitness")
    assert len(decided) == 4
    assert all(record["delta"] == 0.1 and record["decisions"] for record in decided.values())


@pytest.mark.slow
@pytest.mark.parametrize("example", ["multi_objective"], indirect=True)
def test_multi_objective_measures_latency_and_exports_the_whole_front(example):
    archive = archive_of(example)
    rows = {row["id"]: row for row in archive.candidates()}
    assert all(0 < row["latency_ms"] < 1000 for row in rows.values())
    front = archive.pareto()
    assert {path.name for path in (example / "front").iterdir()} == {str(id) for id in front}
    for id in front:
        model = yaml.safe_load((example / "front" / str(id) / "config.yaml").read_text())["model"]["init_args"]
        assert model["lr"] == pytest.approx(rows[id]["model.init_args.lr"])
        assert (example / "front" / str(id) / "model.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("example", ["swarm"], indirect=True)
def test_swarm_trains_swarms_and_leaves_a_soup_that_opens_without_this_package(example):
    archive = archive_of(example)
    swarms: dict[int, set[int]] = {}
    for row in archive.candidates():
        swarms.setdefault(row["generation"], set()).add(row["model.init_args.width"])
    assert [len(widths) for widths in swarms.values()] == [1, 1]  # shared within a swarm
    assert len({row["model.init_args.lr"] for row in archive.candidates()}) == 12  # each particle's own
    assert len(archive.extras("averaging")) == 12
    code = 'import sys; from noisy_digits import Net; net = Net.load_from_checkpoint("soup.ckpt")'
    assert python(f'{code}; assert "lightning_evo" not in sys.modules; print(net.hparams.width)', example) == "64\n"


def test_every_example_is_a_project_to_copy():
    assert set(NAMES) == {"own_model", "own_callback", "multi_objective", "swarm", "wandb_sweep"}
    for name in NAMES:
        assert {"README.md", "config.yaml", "search.yaml"} <= {path.name for path in (EXAMPLES / name).iterdir()}
        assert "evolution" not in yaml.safe_load((EXAMPLES / name / "config.yaml").read_text())


def test_the_callback_of_ones_own_waits_until_the_prediction_has_said_so_twice(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "own_callback")
    from surer import SurerPrediction

    curve = [0.5 - 0.4 / (epoch + 1) ** 2 for epoch in range(20)]

    def first_stop(in_a_row: int) -> int:
        callback = SurerPrediction(in_a_row=in_a_row, monitor="val_acc", bar=0.9)
        stops = [n for n in range(1, 20) if callback.should_stop({"val_acc": curve[:n]}, 20, []).stop]
        assert stops
        return stops[0]

    assert first_stop(2) == first_stop(1) + 1
    assert first_stop(4) == first_stop(1) + 3
    with pytest.raises(ValueError, match="in_a_row: 0 is not at least 1"):
        SurerPrediction(in_a_row=0)
