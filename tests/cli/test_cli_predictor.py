"""`lightning-evo predictor`, as a user types it."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from commands import run

from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import GenerationalEvolution, Prescreen, RandomSearch
from lightning_evo.archive import ArchiveWriter
from lightning_evo.cli import main
from lightning_evo.genome import LogUniform, Uniform
from lightning_evo.predictors import ForestPredictor
from toys import sphere

SPACE = {"x": Uniform(-1, 1), "y": Uniform(-1, 1)}


def search(directory: Path, candidates: int = 60, **changes) -> str:
    """A search over a sphere, in threads."""
    settings = {"space": SPACE, "algorithm": RandomSearch(), "objectives": [Objective("value")], "seed": 1} | changes
    with ThreadPoolExecutor(2) as threads:
        Evolution(
            function=sphere,
            budget=Budget(candidates=candidates),
            workers=Workers(slots=2),
            directory=directory,
            executor=threads,
            progress=False,
            **settings,
        ).run()
    return str(directory)


@pytest.fixture(scope="module")
def harvest(tmp_path_factory):
    return search(tmp_path_factory.mktemp("harvest") / "run")


@pytest.fixture(scope="module")
def screened(harvest, tmp_path_factory):
    """A search that began with what the harvest taught its predictor."""
    prescreen = Prescreen(ForestPredictor(trees=20), pool=5, archives=[harvest])
    algorithm = GenerationalEvolution(population_size=8, prescreen=prescreen)
    return search(tmp_path_factory.mktemp("screened") / "run", 40, algorithm=algorithm, seed=2)


def test_it_prints_a_table_and_writes_numbers_and_a_plot(harvest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = ["--at", "25", "50", "--json", "told.json", "--plot", "plot.html"]
    main(["predictor", harvest, "--predictor", "forest", *numbers])
    printed = capsys.readouterr().out
    assert f"{harvest}: value of 60 results" in printed.replace("\n", "")
    assert "forest" in printed
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["archives"] == {harvest: 60}
    points = told["predictors"]["forest"]["points"]
    assert [point["size"] for point in points] == [25, 50] * 5
    assert sum(point["r2"] for point in points if point["size"] == 50) / 5 > 0.6
    assert "plotly" in (tmp_path / "plot.html").read_text()


def test_a_search_that_still_runs_can_be_looked_at_and_is_not_kept_waiting(harvest, capsys):
    with ArchiveWriter(harvest) as writer:  # holds the lock, as a search does
        main(["predictor", harvest, "--predictor", "forest", "--repeats", "1"])
        writer.set_meta("still", "writing")
    assert "value of 60 results" in capsys.readouterr().out


def test_many_searches_are_learned_from_and_each_prescreen_is_judged(harvest, screened, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    main(["predictor", harvest, screened, "--predictor", "forest", "--repeats", "1"])
    said = capsys.readouterr().out
    assert "2 searches: value of 100 results" in said
    assert f"{screened}: predictor of the prescreen, cross-validated during the search" in said.replace("\n", " ")
    chosen = next(line.split() for line in said.splitlines() if "chosen by the predictor" in line)
    unfiltered = next(line.split() for line in said.splitlines() if "trained unfiltered" in line)
    assert int(chosen[-3]) + int(unfiltered[-3]) == 40  # the harvest had taught it before the first candidate
    assert f"{harvest}: predictor of the prescreen" not in said.replace("\n", " ")


def test_a_predictor_in_the_folder_it_is_called_in_is_found(harvest, tmp_path):
    (tmp_path / "own.py").write_text(
        "from lightning_evo.predictors import ForestPredictor\n\nclass Quick(ForestPredictor):\n"
        "    def __init__(self):\n        super().__init__(trees=5)\n"
    )
    done = run("predictor", harvest, "--predictor", "own.Quick", "--repeats", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "own.Quick" in done.stdout


@pytest.mark.slow
def test_a_harvest_of_templates_is_learned_from(tmp_path, monkeypatch):
    config = {
        "model": {"class_path": "TemplateNet", "init_args": {"input_shape": [1, 8, 8]}},
        "data": {"class_path": "Digits", "init_args": {"limit_train": 128}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "evolution": {
            "space": {
                "model.init_args.layers": {
                    "class_path": "Layers",
                    "init_args": {"input_shape": [1, 8, 8], "num_classes": 10, "max_conv": 2, "channels": [4, 8]},
                }
            },
            "algorithm": {"class_path": "RandomSearch"},
            "objectives": [{"monitor": "val_acc", "mode": "max"}],
            "budget": {"candidates": 35},
            "workers": {"slots": 2},
            "keep_checkpoints": 0,
            "final": None,
            "directory": "run",
            "seed": 1,
        },
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", "search.yaml"])
    main(["predictor", "run", "--repeats", "1", "--json", "told.json"])
    told = json.loads((tmp_path / "told.json").read_text())
    assert set(told["tau_of_sizes"]) == {"params", "flops"}
    assert [len(told["predictors"][name]["points"]) for name in ("size", "forest", "lstm", "ensemble")] == [1] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no archive here"),
        (["{harvest}", "{other}"], "{other} and {harvest} have different search spaces: only one of them has lr, x, y"),
        (["{harvest}", "{loss}"], "{loss} has the objectives value (min), {harvest} has value (max)"),
        (["{harvest}", "--monitor", "val_acc"], "monitor: {harvest} has no objective 'val_acc'"),
        (
            ["{harvest}", "--at", "500"],
            "there are only 60 of the required 510 finished results: 500 for training and 10",
        ),
        (["{harvest}", "--predictor", "lstm"], "predictor lstm: LSTMPredictor reads a gene that is a sequence"),
        (["{harvest}", "--predictor", "own.Gone"], "predictor own.Gone: can't be imported (No module named 'own')"),
        (["{harvest}", "--plot", "plot.gif"], "plot: plot.gif does not end in one of .html, .png, .svg, .pdf"),
        (["{harvest}", "--repeats", "0"], "repeats: 0 is not at least 1"),
        (["{harvest}", "--json", "nowhere/told.json"], "--json nowhere/told.json: the directory "),
    ],
)
def test_bad_input_gets_one_clear_error(arguments, message, harvest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"harvest": harvest, "other": str(tmp_path / "other"), "loss": str(tmp_path / "loss")}
    if "{other}" in arguments:
        search(tmp_path / "other", 12, space={"lr": LogUniform(0.1, 1.0)})
    if "{loss}" in arguments:
        search(tmp_path / "loss", 12, objectives=[Objective("value", "min")])
    with pytest.raises(SystemExit) as stop:
        main(["predictor", *(argument.format(**places) for argument in arguments)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message.format(**places) in said
    assert said.count("lightning-evo: error:") == 1
    assert "Traceback" not in said


def test_nothing_is_written_unless_asked_for(harvest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    main(["predictor", harvest, "--predictor", "forest", "--repeats", "1"])
    assert list(tmp_path.iterdir()) == []
