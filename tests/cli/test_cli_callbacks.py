"""Searches that stop early, inherit and train in segments: killed and continued they end as if undisturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import warm
import yaml
from commands import command, write

from lightning_evo import Archive
from lightning_evo.archive import ArchiveError
from lightning_evo.archive.seals import SealRecord
from lightning_evo.cli import main

EARLY = {"class_path": "EarlyFitnessPrediction", "init_args": {"controls": 0.2}}
INHERIT = {"class_path": "WeightInheritance", "init_args": {"optimizer": True}}
REGULARIZED = {"class_path": "RegularizedEvolution", "init_args": {"population_size": 3}}
GENERATIONS = {"class_path": "GenerationalEvolution", "init_args": {"population_size": 4}}
PBT = {"class_path": "PopulationBasedTraining", "init_args": {"population_size": 4, "interval": 2}}

# The algorithm, its callbacks, and on how many slots it runs undisturbed and killed.
SEARCHES = {
    "steady state": (REGULARIZED, [EARLY, INHERIT], 1, 1),
    "generations": (GENERATIONS, [EARLY, INHERIT], 1, 2),
    "population-based training": (PBT, [], 2, 1),
}


def search(algorithm, callbacks, slots):
    """A search whose candidates train long enough to be stopped, and to be killed."""

    def change(config, whole):
        config["trainer"]["max_epochs"] = 8
        config["model"]["init_args"]["features"] = 2
        section = whole["evolution"]
        if algorithm is PBT:
            del section["space"]["model.init_args.width"]
        section |= {"algorithm": algorithm, "callbacks": callbacks, "workers": {"slots": slots}}
        section |= {"objectives": [{"monitor": "val_loss", "mode": "min"}], "budget": {"candidates": 16}}

    return change


def remembered(directory: Path) -> list[dict]:
    """What decides whether two searches went the same way."""
    columns = ("id", "status", "val_loss", "model.init_args.lr", "model.init_args.width", "parents", "inherits", "seed")
    with Archive(directory) as archive:
        rows = [{name: row.get(name) for name in columns} for row in archive.candidates()]
        for row in rows:
            result = archive.result(row["id"])
            # A checkpoint's hash is that of a file, which also says where and when it was written.
            extra = {key: value for key, value in result.extra.items() if key != SealRecord.key}
            row |= {"curve": [point["val_loss"] for point in result.curve], "extra": extra}
        return rows


def ended(directory: Path) -> int:
    try:
        with Archive(directory) as archive:
            counts = archive.counts()
    except ArchiveError:
        return 0  # still being made
    return counts["completed"] + counts["stopped"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_a_killed_search_ends_as_the_undisturbed_one_on_any_number_of_slots_where_that_is_promised(name, tmp_path):
    algorithm, callbacks, *slots = SEARCHES[name]
    arguments = {}
    for part, count in zip(("whole", "killed"), slots, strict=True):
        (tmp_path / part).mkdir()
        arguments[part] = write(tmp_path / part, search(algorithm, callbacks, count))
    main(arguments["whole"])
    with warm.Popen(command(*arguments["killed"]), stdout=subprocess.DEVNULL, start_new_session=True) as process:
        end = time.monotonic() + 90
        while ended(tmp_path / "killed/run") < 7 and process.poll() is None:
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    main(arguments["killed"])
    assert remembered(tmp_path / "killed/run") == remembered(tmp_path / "whole/run")
    for part in ("whole", "killed"):
        on_disk = {int(path.parent.name) for path in (tmp_path / part / "run/candidates").glob("*/checkpoint.ckpt")}
        with Archive(tmp_path / part / "run") as archive:
            assert on_disk == {row["id"] for row in archive.candidates() if row["checkpoint"]}


@pytest.mark.slow
def test_stopped_candidates_are_marked_and_the_leaderboard_says_what_that_saved(tmp_path, capsys):
    def change(config, whole):
        search(REGULARIZED, [EARLY], 2)(config, whole)
        config["trainer"]["max_epochs"] = 12
        whole["evolution"]["budget"] = {"candidates": 24}

    main(write(tmp_path, change))
    capsys.readouterr()
    with Archive(tmp_path / "run") as archive:
        stopped = archive.candidates(status="stopped")
        assert stopped
        assert all(row["cost/epochs"] < 12 for row in stopped)
        assert archive.best(1)[0]["status"] == "completed"
        assert archive.meta["final"]["request"]["candidate"] == archive.best(1)[0]["id"]
    assert "EarlyFitnessPrediction" not in (tmp_path / "run/final/config.yaml").read_text()
    main(["leaderboard", str(tmp_path / "run")])
    assert f"early stopping: {len(stopped)} stopped, " in capsys.readouterr().out
    main(["leaderboard", str(tmp_path / "run"), "--format", "json"])
    assert len(json.loads(capsys.readouterr().out)) == 24


@pytest.mark.slow
def test_a_parents_checkpoint_that_vanished_is_said_once_and_recorded(tmp_path, capsys):
    arguments = write(tmp_path, search(REGULARIZED, [INHERIT], 1))
    main(arguments)
    capsys.readouterr()
    for path in (tmp_path / "run/candidates").glob("*/checkpoint.ckpt"):
        path.unlink()
    longer = yaml.safe_load((tmp_path / "search.yaml").read_text())
    longer["evolution"]["budget"]["candidates"] = 20
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(longer))
    main(arguments)
    assert capsys.readouterr().out.count("is gone: candidate") == 1
    with Archive(tmp_path / "run") as archive:
        records = [archive.result(id).extra["inheritance"] for id in range(16, 20)]
    assert any(record["from"] is None and "gone" in record["why"] and not record["copied"] for record in records)
    assert all(record["asked"] is not None for record in records)


@pytest.mark.slow
def test_an_ordinary_fit_replays_the_schedule_that_a_population_found(tmp_path, monkeypatch, capsys):
    def change(config, whole):
        search(PBT, [], 2)(config, whole)
        # With this seed the winner has taken over another's training, and changed it.
        whole["evolution"] |= {"seed": 8, "budget": {"candidates": 100}}

    main(write(tmp_path, change))
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best")])
    schedule = yaml.safe_load((tmp_path / "best/schedule.yaml").read_text())
    assert len(schedule) > 1, "the winner of this seed never changed its hyperparameters"
    monkeypatch.chdir(tmp_path)
    replay = ["fit", "--config", "best/config.yaml", "--config", "best/replay.yaml"]
    main([*replay, "--trainer.default_root_dir=replay", "--trainer.enable_progress_bar=false"])
    (path,) = (tmp_path / "replay").rglob("*.ckpt")
    found = torch.load(tmp_path / "best/model.ckpt", weights_only=True)["state_dict"]
    again = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.slow
def test_members_of_a_population_may_change_their_structure_where_weights_are_inherited(tmp_path, capsys):
    def change(config, whole):
        search(REGULARIZED, [INHERIT], 2)(config, whole)
        whole["evolution"]["algorithm"] = PBT

    main(write(tmp_path, change))
    with Archive(tmp_path / "run") as archive:
        rows, records = archive.candidates(), archive.extras("inheritance")
    assert {row["status"] for row in rows} == {"completed"}
    assert records, "nobody with this seed took over another structure"
    assert all(record["sliced"] or record["copied"] for record in records.values())
