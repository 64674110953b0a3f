"""Secrets of a config: the run's directory keeps them, and nothing that leaves it has them."""

from __future__ import annotations

import base64
import gzip
import io
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
import yaml
from commands import write
from secretive import CHOICES, KEY, PASSWORD, SECRETS

from lightning_evo import Archive
from lightning_evo.cli import main
from lightning_evo.utils.masking import SHOW_SECRETS


def _search(config, whole):
    arguments = {"api_key": KEY, "url": f"postgresql://bob:{PASSWORD}@db/x", "access_token": CHOICES[0]}
    config["model"] = {"class_path": "secretive.SecretNet", "init_args": arguments}
    config["trainer"]["logger"] = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "logs"},
    }
    whole["evolution"] |= {
        "space": {
            "model.init_args.access_token": {"class_path": "Categorical", "init_args": {"choices": list(CHOICES)}},
            "model.init_args.fail": {"class_path": "Boolean"},
            "model.init_args.width": {"class_path": "Ordinal", "init_args": {"choices": [2, 4, 8]}},
        },
        "algorithm": {"class_path": "RandomSearch"},
        "reporters": [{"class_path": "TensorBoardReporter"}, {"class_path": "secretive.Listener"}],
        "budget": {"candidates": 8},
        "final": None,
        "seed": 1,
    }


def shown(*arguments):
    """Run a command; what it prints."""
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        main([*map(str, arguments)])
    return output.getvalue()


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        (directory / "said.txt").write_text(shown(*write(directory, _search)))
    counts = Archive(directory / "run").counts()
    assert counts["completed"]
    assert counts["failed"]
    return directory


def _exported(run, to, *options):
    """Every file and text that a run can leave as: name -> content."""
    to.mkdir()
    texts = {
        "leaderboard": shown("leaderboard", run, "--top", 0, *options),
        "leaderboard.csv": shown("leaderboard", run, "--format", "csv", "--top", 0, *options),
        "leaderboard.json": shown("leaderboard", run, "--format", "json", "--top", 0, *options),
        "errors": shown("leaderboard", run, "--errors", *options),
        "report": shown("report", run, "--to", to / "report.html", *options),
        "export": shown("export", run, "--to", to / "best", *options),
        "tables": shown(
            "export", run, "--csv", to / "csv", "--json", to / "all.json", "--optuna", to / "study.log", *options
        ),
        "plot": shown("plot", run, "parallel", "--to", to / "parallel.svg", *options),
    }
    page = (to / "report.html").read_text()
    data = re.search(r'id="data">([^<]+)<', page)
    texts["page"] = gzip.decompress(base64.b64decode(data[1])).decode()
    for path in to.rglob("*"):
        if path.suffix == ".ckpt":
            held = torch.load(path, weights_only=True)
            texts[path.name] = repr(held["hyper_parameters"]) + repr(held.get("datamodule_hyper_parameters"))
        elif path.is_file():
            texts[str(path)] = path.read_text()
    return texts


def test_nothing_that_leaves_the_directory_has_a_secret(search, tmp_path):
    for name, text in _exported(search / "run", tmp_path / "out").items():
        for secret in SECRETS:
            assert secret not in text, name
    for path in [*(search / "run" / "tensorboard").rglob("*"), *(search / "logs").rglob("hparams.yaml")]:
        if path.is_file() and path.suffix != ".yaml":
            assert not any(secret.encode() in path.read_bytes() for secret in SECRETS), path


def test_neither_the_terminal_nor_a_users_own_reporter_is_told_a_secret(search):
    for name, looked_for in (("said.txt", "failed: "), ("told.txt", "Result(")):
        text = (search / name).read_text()
        assert looked_for in text
        assert "***masked-" in text, name
        assert not any(secret in text for secret in SECRETS), name


def test_what_is_exported_says_what_to_fill_in_and_the_rest_is_as_it_was(search, tmp_path):
    said = shown("export", search / "run", "--to", tmp_path / "best")
    text = (tmp_path / "best" / "config.yaml").read_text()
    config = yaml.safe_load(text)
    arguments = config["model"]["init_args"]
    assert "config.yaml: masked, to be filled in: model.init_args.api_key" in said
    for name in ("api_key", "url", "access_token"):
        assert f"# Masked here, as it looks secret; fill it in: model.init_args.{name}\n" in text
    assert re.fullmatch(r"\*\*\*masked-\d\*\*\*", arguments["api_key"])
    assert re.fullmatch(r"postgresql://bob:\*\*\*masked-\d\*\*\*@db/x", arguments["url"])
    assert (arguments["num_tokens"], arguments["pad_token"]) == (7, "<pad>")
    held = torch.load(tmp_path / "best" / "model.ckpt", weights_only=True)
    assert held["hyper_parameters"]["num_tokens"] == 7
    assert held["hyper_parameters"]["api_key"] == arguments["api_key"]
    assert held["state_dict"]


def test_the_run_keeps_what_it_needs_to_continue(search):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(search)

        def more(config, whole):
            _search(config, whole)
            whole["evolution"]["budget"] = {"candidates": 10}

        shown(*write(search, more))
    counts = Archive(search / "run").counts()
    assert sum(counts.values()) == 10
    assert not counts["pending"]


def test_masking_is_turned_off_by_an_option_and_by_a_variable(search, tmp_path, monkeypatch):
    texts = _exported(search / "run", tmp_path / "shown", "--show-secrets")
    for name in ("leaderboard.csv", "leaderboard.json", "errors", "page", str(tmp_path / "shown" / "all.json")):
        assert CHOICES[0] in texts[name], name
    for name in ("page", "model.ckpt", str(tmp_path / "shown" / "best" / "config.yaml")):
        assert KEY in texts[name], name
    monkeypatch.setenv(SHOW_SECRETS, "1")
    assert CHOICES[0] in shown("leaderboard", search / "run", "--format", "json")
