"""Stacked searches as a user runs them: killed and continued, read, and taken home."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import torch
import warm
import yaml
from commands import command, write
from swarm_nets import Dawdles

from lightning_evo import Archive
from lightning_evo.archive import ArchiveError
from lightning_evo.cli import main

LR = "model.init_args.lr"
HERE = Path(__file__).parent
"""Where the console script finds ``swarm_nets``."""


def stacked(config, whole):
    """Two generations, each a stack that takes seconds, in one slot."""
    config["model"]["class_path"] = "swarm_nets.Dawdles"
    whole["evolution"] |= {
        "space": {LR: {"class_path": "LogUniform", "init_args": {"low": 1e-3, "high": 0.5}}},
        "algorithm": {"class_path": "GenerationalEvolution", "init_args": {"population_size": 4, "elitism": 1}},
        "objectives": [{"monitor": "val_loss", "mode": "min"}],
        "budget": {"candidates": 10},
        "workers": {"slots": 1, "stack": "auto"},
    }


def swarms(config, whole):
    """Three swarms."""
    stacked(config, whole)
    whole["evolution"] |= {
        "algorithm": {"class_path": "SwarmOptimization", "init_args": {"particles": 4, "population_size": 1}},
        "callbacks": [{"class_path": "SwarmAveraging", "init_args": {"subset": 2, "every_n_steps": 1}}],
        "budget": {"candidates": 12},
        "workers": {"slots": 1},
    }


def asked(directory: Path) -> list[tuple]:
    """What was asked, each with its place in the search."""
    with Archive(directory) as archive:
        return [(row["id"], row[LR], row["seed"], row["generation"], row["parents"]) for row in archive.candidates()]


def losses(directory: Path) -> dict[int, float]:
    with Archive(directory) as archive:
        return {row["id"]: row["val_loss"] for row in archive.candidates() if row["status"] == "completed"}


def completed(directory: Path) -> int:
    try:
        with Archive(directory) as archive:
            return archive.counts()["completed"]
    except ArchiveError:
        return 0  # still being made


@pytest.fixture(scope="module", params=[stacked, swarms], ids=["stacks", "swarms"])
def undisturbed(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    main(write(directory, request.param))
    return request.param, directory


@pytest.mark.slow
def test_a_search_killed_within_a_stack_ends_as_if_nothing_had_happened(undisturbed, tmp_path):
    change, whole = undisturbed
    arguments = write(tmp_path, change)
    finished: list[dict[int, float]] = []
    for target in (0, 4):
        with warm.Popen(command(*arguments), cwd=HERE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            end = time.monotonic() + 120
            while completed(tmp_path / "run") < target or not list(tmp_path.glob("run/stacks/*/output.log")):
                assert time.monotonic() < end, "waited too long"
                time.sleep(0.1)
            time.sleep(0.5)  # into the next stack
            process.kill()
        finished.append(losses(tmp_path / "run"))
    main(arguments)
    assert asked(tmp_path / "run") == asked(whole / "run")
    now = losses(tmp_path / "run")
    assert now == pytest.approx(losses(whole / "run"), rel=1e-3)
    for earlier in finished:
        assert {id: now[id] for id in earlier} == earlier


@pytest.mark.slow
def test_the_leaderboard_says_who_trained_with_whom_and_how(undisturbed, capsys):
    _, whole = undisturbed
    capsys.readouterr()
    main(["leaderboard", str(whole / "run"), "--top", "0"])
    shown = capsys.readouterr().out
    assert "0, 1 of 4" in shown
    with Archive(whole / "run") as archive:
        count = len(archive.candidates())
    assert f"stacked: {count} of {count} candidates in 3 stacks" in " ".join(shown.split())


@pytest.mark.slow
def test_a_winner_that_trained_in_a_stack_is_tested_and_opens_with_its_own_class(undisturbed, tmp_path):
    _, whole = undisturbed
    with Archive(whole / "run") as archive:
        assert "test_acc" in archive.meta["final"]["metrics"]
        assert not archive.meta["final"]["retrained"]
        best = archive.best(1)[0]
    main(["export", str(whole / "run"), "--to", str(tmp_path)])
    assert Dawdles.load_from_checkpoint(tmp_path / "model.ckpt").hparams.lr == best[LR]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["class_path"] == "swarm_nets.Dawdles"
    state = torch.load(tmp_path / "model.ckpt", weights_only=False)
    assert {"state_dict", "optimizer_states", "loops", "hyper_parameters"} <= set(state)
