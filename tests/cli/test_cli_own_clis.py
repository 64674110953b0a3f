"""Searches with the user's own LightningCLI, or somebody else's: no line of it is changed."""

from __future__ import annotations

import warnings

import pytest
import yaml
from commands import write
from their_cli import TheirCLI

from lightning_evo import Archive, EvolutionCLI
from lightning_evo.cli import main
from toys import ToyData, ToyNet

SECTION = {
    "space": {"routine.lr": {"class_path": "LogUniform", "init_args": {"low": 1e-3, "high": 1.0}}},
    "algorithm": {"class_path": "RandomSearch"},
    "objectives": [{"monitor": "val_acc", "mode": "max"}],
    "budget": {"candidates": 2},
    "workers": {"slots": 1, "stack": 2},
    "final": None,
}


@pytest.fixture
def search(tmp_path):
    """A search of two candidates; the function writes it, changed, and gives the file's name."""

    def made(**changes):
        section = {**SECTION, "directory": str(tmp_path / "run"), **changes}
        (tmp_path / "search.yaml").write_text(yaml.safe_dump({"evolution": section}))
        return str(tmp_path / "search.yaml")

    return made


def test_somebody_elses_cli_searches_in_stacks_as_it_is(search, tmp_path):
    main(["fit", "--cli", "their_cli:main", "--config", search(), "--points.batch_size=16"])
    with Archive(tmp_path / "run") as archive:
        rows = list(archive.candidates())
        assert [row["status"] for row in rows] == ["completed"] * 2
        assert archive.meta["seed"] == 3
        assert archive.meta["search"]["cli"] == "their_cli.TheirCLI"
    log = (tmp_path / "run" / "candidates" / "stacks").rglob("output.log")
    assert any("hello" in file.read_text() for file in (*log, *(tmp_path / "run").rglob("output.log")))
    config = yaml.safe_load((tmp_path / "run" / "candidates" / "000000" / "config.yaml").read_text())
    assert config["points"]["batch_size"] == 16
    assert "width" not in config["routine"]  # linked


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--cli", "their_cli:nothing"], "--cli their_cli:nothing: "),
        (["--cli"], "--cli: names nothing"),
        (["--import", "no_such_package"], "--import No module named 'no_such_package'"),
    ],
)
def test_a_program_or_package_that_isnt_there_is_named(options, expected, search, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", search(), *options])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_a_config_of_a_cli_with_fixed_classes_says_what_is_missing(search, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: {width: 4}\ndata: {batch_size: 16}\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(tmp_path / "config.yaml"), "--config", search()])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "model: names no class_path" in said
    assert "--cli" in said


def test_a_cli_that_doesnt_run_says_that_it_cant_search(search, capsys):
    with pytest.raises(SystemExit):
        EvolutionCLI(ToyNet, ToyData, run=False, args=["--config", search()])
    assert "EvolutionCLI(run=False) can't search" in capsys.readouterr().err
    cli = EvolutionCLI(ToyNet, ToyData, run=False, args=["--trainer.accelerator=cpu", "--trainer.logger=false"])
    assert isinstance(cli.model, ToyNet)
    assert isinstance(cli, EvolutionCLI)


def test_an_imported_package_gives_short_names(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_evo.evolution.Evolution.run", lambda evolution: seen.append(evolution))
    seen = []
    (tmp_path / "short_named.py").write_text("from toys import ToyNet\nclass OnlyShortNamed(ToyNet): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    main([*write(tmp_path), "--import", "short_named", "--model=OnlyShortNamed"])
    assert seen[0].trainable.config["model"]["class_path"] == "short_named.OnlyShortNamed"
    assert seen[0].trainable.blueprint.imports == ("short_named",)


class Ours(EvolutionCLI, TheirCLI):
    """One's own, of theirs."""


def test_a_class_that_mixes_both_knows_its_search(search, monkeypatch):
    seen = []
    monkeypatch.setattr("lightning_evo.evolution.Evolution.run", lambda evolution: seen.append(evolution))
    Ours("hi", ToyNet, ToyData, args=["fit", "--config", search(workers={"slots": 1})])
    made = seen[0].trainable.blueprint
    assert made.cli_class is Ours
    assert made.attributes["greeting"] == "hi"
    assert made.build(seen[0].trainable.resolve({"routine.lr": 0.5}), {"logger": False}).model.lr == 0.5


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ({"default_env": True}, {"PL_FIT__CONFIG": "base.yaml"}),
        ({"default_env": True}, {"PL_CONFIG": "all.yaml"}),
        ({"fit": {"default_config_files": ["base.yaml"]}}, {}),
        ({"default_config_files": ["all.yaml"]}, {}),
    ],
)
def test_environment_and_default_files_are_a_searchs_as_a_fits(settings, environment, tmp_path, monkeypatch):
    base = {
        "seed_everything": 7,
        "model": {"class_path": "toys.ToyNet", "init_args": {"lr": 0.05}},
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"accelerator": "cpu", "max_epochs": 9},
    }
    section = {"space": {"trainer.max_epochs": [1, 2]}, "objectives": [{"monitor": "val_acc"}], "final": None}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**base, "evolution": {**section, "budget": {"candidates": 1}}}))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"fit": yaml.safe_load((tmp_path / "base.yaml").read_text())}))
    monkeypatch.chdir(tmp_path)
    for name, value in {**environment, "PL_FIT__TRAINER__MAX_EPOCHS": "5"}.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        arguments = ["fit", "--evolution.directory=run", "--trainer.log_every_n_steps=3"]
        EvolutionCLI(parser_kwargs=settings, args=arguments)
    with Archive(tmp_path / "run") as archive:
        assert archive.meta["seed"] == 7
        (row,) = archive.candidates()
    config = yaml.safe_load((tmp_path / "run" / "candidates" / "000000" / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == row["trainer.max_epochs"]  # the gene's, whatever the environment says
    assert config["trainer"]["log_every_n_steps"] == 3
    assert config["model"]["init_args"]["lr"] == 0.05
