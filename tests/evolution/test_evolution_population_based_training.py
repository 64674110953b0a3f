"""A whole search by population-based training: its winner's schedule, followed in one ordinary fit, gives its weights."""

from __future__ import annotations

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI
from searching import Recorded

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import PopulationBasedTraining
from lightning_evo.callbacks.hyperparameter_schedule import HyperparameterSchedule
from lightning_evo.evolution.schedule import schedule_of
from lightning_evo.genome import LogUniform, Ordinal, Uniform

EPOCHS = 4


def search(directory, slots=2, candidates=100):
    progress = Recorded()
    Evolution(
        space={
            "model.init_args.lr": LogUniform(1e-3, 1.0),
            "data.init_args.batch_size": Ordinal([8, 16, 32]),
            "trainer.gradient_clip_val": Uniform(0.1, 1.0),
        },
        algorithm=PopulationBasedTraining(4, epochs=EPOCHS, quantile=0.5),
        objectives=[Objective("val_loss", "min")],
        budget=Budget(candidates=candidates),
        workers=Workers(slots=slots, threads=1),
        keep_checkpoints=16,
        final=None,
        config={
            "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
            "data": {"class_path": "toys.ToyData"},
            "trainer": {"max_epochs": EPOCHS, "accelerator": "cpu"},
        },
        directory=directory,
        seed=2,
        progress=progress,
    ).run()
    return progress


def told(directory):
    with Archive(directory) as archive:
        columns = ("id", "status", "val_loss", "model.init_args.lr", "parents", "inherits", "origin", "seed")
        return [tuple(row.get(column) for column in columns) for row in archive.candidates()]


@pytest.mark.slow
def test_a_search_ends_when_all_members_are_through_and_is_the_same_however_it_ran(tmp_path):
    progress = search(tmp_path / "whole")
    whole = told(tmp_path / "whole")
    assert len(whole) == 4 * EPOCHS
    assert {row[1] for row in whole} == {"completed"}
    assert any("PopulationBasedTraining" in message for message in progress.messages)
    search(tmp_path / "alone", slots=1)
    assert told(tmp_path / "alone") == whole
    for candidates in (6, 11, 100):
        search(tmp_path / "parts", candidates=candidates)
    assert told(tmp_path / "parts") == whole


@pytest.mark.slow
def test_the_schedule_of_a_member_followed_in_one_ordinary_fit_gives_its_weights_bit_for_bit(tmp_path, monkeypatch):
    search(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with Archive(tmp_path / "run") as archive:
        lasting = [c for c, _ in archive.finished() if c.segment.end == EPOCHS]
        schedules = {c.id: schedule_of(archive, c.id) for c in lasting}
        most = max(schedules, key=lambda id: len(schedules[id]))
        checkpoint = tmp_path / "run" / archive.result(most).checkpoint
    assert len(schedules[most]) >= 3
    config = yaml.safe_load((tmp_path / "run" / "candidates" / f"{most:06d}" / "config.yaml").read_text())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    config["trainer"] |= quiet
    followed = HyperparameterSchedule(schedules[most])
    cli = LightningCLI(args=config, run=False, save_config_callback=None, trainer_defaults={"callbacks": [followed]})
    cli.trainer.fit(cli.model, cli.datamodule)
    wanted = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in cli.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


@pytest.mark.slow
def test_the_schedule_of_a_first_segment_is_its_genome(tmp_path):
    search(tmp_path / "run", candidates=2)
    with Archive(tmp_path / "run") as archive:
        first = archive.candidate(0)
        assert schedule_of(archive, 0) == {0: dict(first.genome)}
