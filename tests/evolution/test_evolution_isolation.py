"""A candidate's result doesn't depend on which candidates came before, nor a search's place on where anybody goes."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import leaky
import pytest
from searching import Recorded, evolution, threads, told

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import RandomSearch
from lightning_evo.genome import Boolean, LogUniform


class Wandering(Recorded):
    """Somebody in the controller's process who changes its working directory."""

    def told(self, candidate, result, state):
        super().told(candidate, result, state)
        os.chdir("/")


def run(directory, recycle_after=None, candidates=8, **changes):
    settings = {
        "space": {"leaves": Boolean(), "leaves_a_child": Boolean()},
        "function": leaky.leaky,
        "objectives": [Objective("value")],
        "algorithm": RandomSearch(),
        "progress": Recorded(),
    } | changes
    search = Evolution(
        budget=Budget(candidates=candidates),
        workers=Workers(slots=1, threads=1, recycle_after=recycle_after),
        directory=directory,
        final=None,
        seed=3,
        **settings,
    )
    archive = search.run()
    return archive, settings["progress"].messages


def test_a_function_sees_nothing_of_earlier_candidates_and_what_cannot_be_undone_is_said_once(tmp_path):
    fresh, _ = run(tmp_path / "fresh", recycle_after=1)
    warm, messages = run(tmp_path / "warm")
    assert [row["value"] for row in warm.candidates()] == [row["value"] for row in fresh.candidates()]
    said = [message for message in messages if "which can't be put back" in message]
    assert len(said) == 1
    assert re.search(r"child processes \((setsid )?sleep 600\)", said[0])  # it may still be about to become the latter
    assert "workers replaced because of what candidates left behind: child processes" in messages[-1]


def draw(genome, seed, directory):
    return {"value": random.Random(seed).random() - random.random()}


def test_a_function_is_seeded_in_a_process_of_its_own_and_not_in_threads_which_share_the_random_states(tmp_path):
    alone, _ = run(tmp_path / "alone", candidates=2, function=draw)
    assert [row["value"] for row in alone.candidates()] == [0.0, 0.0]
    with threads() as pool:
        shared = evolution(tmp_path / "shared", pool, function=draw).run()
    assert 0.0 not in [row["value"] for row in shared.candidates()]


def test_a_model_sees_nothing_of_earlier_candidates_also_when_the_search_is_continued(tmp_path):
    changes = {
        "space": {"model.init_args.lr": LogUniform(0.01, 0.5), "model.init_args.double": Boolean()},
        "function": None,
        "config": {
            "model": {"class_path": "leaky.DoubleNet"},
            "data": {"class_path": "toys.ToyData"},
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "num_sanity_val_steps": 0},
        },
        "objectives": [Objective("val_loss", "min")],
    }
    whole, _ = run(tmp_path / "whole", candidates=6, **changes)
    run(tmp_path / "parts", candidates=3, **changes)
    parts, _ = run(tmp_path / "parts", candidates=6, **changes)
    rows = whole.candidates()
    assert [row["metrics/val_bits"] for row in rows] == [
        64.0 if row["model.init_args.double"] else 32.0 for row in rows
    ]
    assert len({row["model.init_args.double"] for row in rows}) == 2
    assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in parts.candidates()]


@pytest.mark.parametrize("executor", ["workers", "threads"])
def test_a_relative_directory_is_where_the_search_was_made(tmp_path, monkeypatch, executor):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    with threads(1) as pool:
        search = evolution(
            Path("runs/net"),
            pool if executor == "threads" else None,
            slots=1,
            function=leaky.wandering_sphere,
            progress=Wandering(),
            budget=Budget(candidates=4),
        )
        first = told(search.run())
    with Archive(tmp_path / "runs" / "net") as archive:
        assert told(archive) == first
        assert archive.counts()["completed"] == 4
    candidates = tmp_path / "runs" / "net" / "candidates"
    assert len(list(candidates.glob("*/result.json"))) == 4
    assert not list((tmp_path / "elsewhere").iterdir())
    if executor == "workers":
        assert {(each / "here").read_text() for each in candidates.iterdir()} == {str(tmp_path)}


def test_a_directory_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with threads() as pool:
        evolution("~/runs/net", pool, budget=Budget(candidates=4)).run()
    with Archive(tmp_path / "runs" / "net") as archive:
        assert archive.counts()["completed"] == 4
