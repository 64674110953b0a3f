"""A candidate's Trainer does what a fit's does, or what it doesn't is left out or redirected, and said."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar

from lightning_evo import Objective
from lightning_evo.genome import SpaceError
from lightning_evo.training import Blueprint, ConfigTrainable, TrainingRequest, train_candidate
from lightning_evo.training.adaptation import AdaptationRecord
from lightning_evo.training.stacks import Member, train_stack
from toys import ToyNet

LIGHTNING = "lightning.pytorch.callbacks."
KEPT = "its files are kept as long as"

ROWS = {
    # class -> its arguments (or itself, where no config can hold them), and the note that it leaves: none as in a fit
    "BackboneFinetuning": ({}, ""),
    "BatchSizeFinder": ({"max_trials": 1}, ""),
    "DeviceStatsMonitor": ({}, ""),
    "EarlyStopping": ({"monitor": "val_acc", "mode": "max"}, ""),
    "EMAWeightAveraging": ({}, ""),
    "GradientAccumulationScheduler": ({"scheduling": {0: 2}}, ""),
    "LambdaCallback": ({}, ""),
    "LearningRateFinder": ({"num_training_steps": 2}, ""),
    "LearningRateMonitor": ({}, ""),
    "ModelCheckpoint": ({"dirpath": "elsewhere", "monitor": "val_acc", "save_last": True}, KEPT),
    "ModelPruning": (callbacks.ModelPruning("l1_unstructured", amount=0.3), ""),
    "ModelSummary": ({}, ""),
    "OnExceptionCheckpoint": ({"dirpath": "elsewhere"}, "on_exception/"),
    "RichModelSummary": ({}, ""),
    "RichProgressBar": ({}, "left out"),
    "SpikeDetection": ({}, ""),
    "StochasticWeightAveraging": ({"swa_lrs": 0.01, "device": "cpu"}, ""),
    "ThroughputMonitor": ({"batch_size_fn": f"{__name__}.size_of"}, ""),
    "Timer": ({"duration": "00:00:10:00", "interval": "step"}, ""),
    "TQDMProgressBar": ({}, "left out"),
    "WeightAveraging": ({}, ""),
}
ABSTRACT = {"BaseFinetuning", "BasePredictionWriter", "Callback", "Checkpoint", "ProgressBar"}


def size_of(batch):
    return len(batch[0])


class Backbone(ToyNet):
    """Can be fine-tuned, and uses its logger and its checkpoints as in a fit."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr=lr)
        self.backbone = self.net[0]

    def configure_optimizers(self):
        import torch

        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def on_validation_epoch_end(self):
        assert Path(self.logger.log_dir).is_dir()
        self.logger.experiment.add_scalar("extra", 1.0, self.global_step)

    on_test_epoch_end = on_validation_epoch_end

    def on_train_end(self):
        if not self.trainer.fast_dev_run:
            assert os.path.exists(self.trainer.checkpoint_callback.best_model_path)


class OwnBar(ProgressBar):
    """A user's own."""


class OwnCheckpoint(ModelCheckpoint):
    """A user's own."""


class WithCallbacks(Backbone):
    """Brings callbacks of its own."""

    def configure_callbacks(self):
        return [OwnCheckpoint(dirpath="elsewhere", monitor="val_acc"), OwnBar(), EarlyStopping("val_acc", mode="max")]

    def on_train_start(self):
        kinds = {type(callback) for callback in self.trainer.callbacks}
        assert OwnBar not in kinds
        assert EarlyStopping in kinds
        assert type(self.trainer.checkpoint_callback) is OwnCheckpoint


@pytest.fixture
def train(config, tmp_path, monkeypatch):
    """Trains a candidate; returns its notes and the files it left, in its directory and elsewhere."""
    monkeypatch.chdir(tmp_path)

    def train(model="Backbone", blueprint=None, **trainer):
        blueprint = blueprint or Blueprint()
        whole = copy.deepcopy(config) | {"model": {"class_path": f"{__name__}.{model}"}, "seed_everything": 7}
        whole["trainer"] |= trainer
        directory = tmp_path / "net" / "candidates" / "000003"
        request = TrainingRequest(str(directory), [Objective("val_acc")])
        result = train_candidate(blueprint, blueprint.resolve(whole), request)
        assert result.status == "completed", result.error
        files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        inside = {file.removeprefix("net/candidates/000003/") for file in files}
        adapted = result.entry(AdaptationRecord)
        outside = {file for file in inside if file in files}
        return ("" if adapted is None else " ".join(adapted.notes)), inside - outside, outside

    return train


def called(name, **arguments):
    return {"class_path": name if "." in name else LIGHTNING + name, "init_args": arguments}


OURS = {"config.yaml", "curve.jsonl", "checkpoint.ckpt"}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_callback_of_lightning_works_or_is_left_out_or_redirected(train, name):
    arguments, note = ROWS[name]
    # One that is given by itself is as good as a list.
    model = "ToyNet" if name.endswith("Finder") or name == "OnExceptionCheckpoint" else "Backbone"
    if isinstance(arguments, Callback):
        given = {"blueprint": Blueprint(cli_arguments={"trainer_defaults": {"callbacks": [arguments]}})}
    else:
        given = {"callbacks": called(name, **arguments)}
    notes, inside, outside = train(model, **given)
    assert outside == set()
    assert note in notes if note else notes == ""
    assert {file.split("/")[0] for file in inside - OURS} == ({"checkpoints"} if note == KEPT else set())


def test_there_is_a_row_for_every_callback_of_lightning():
    exported = {name for name in callbacks.__all__ if issubclass(getattr(callbacks, name), Callback)}
    assert exported == set(ROWS) | ABSTRACT


def test_checkpoints_for_several_places_stay_apart(train):
    places = {"one/best": "val_acc", "two/best": "val_loss", "last": "train_loss"}
    several = [called("ModelCheckpoint", filename="a", dirpath=at, monitor=of) for at, of in places.items()]
    notes, inside, outside = train(callbacks=[*several, called("ModelCheckpoint", filename="a")])
    assert outside == set()
    assert inside - OURS == {f"checkpoints/{at}a.ckpt" for at in ("", "best/", "best-2/", "last/")}
    assert notes.count(KEPT) == 1


def test_callbacks_that_the_module_brings_are_treated_alike(train):
    notes, inside, outside = train("WithCallbacks")
    assert outside == set()
    assert {file.split("/")[0] for file in inside - OURS} == {"checkpoints"}
    assert "OwnBar is left out" in notes
    assert "OwnCheckpoint writes into" in notes


@pytest.mark.parametrize(
    ("trainer", "note", "files"),
    [
        ({"fast_dev_run": True}, "1 batch(es)", set()),
        ({"profiler": "simple"}, "SimpleProfiler", {"fit-profile.txt"}),
        ({"default_root_dir": "elsewhere"}, "trainer.default_root_dir", set()),
        ({"enable_progress_bar": True, "enable_model_summary": True}, "trainer.enable_progress_bar", set()),
        ({"max_time": "00:01:00:00", "detect_anomaly": True, "enable_checkpointing": False}, "", set()),
    ],
)
def test_a_setting_of_the_trainer_works_or_is_redirected(train, trainer, note, files):
    notes, inside, outside = train("ToyNet" if "fast_dev_run" in trainer else "Backbone", **trainer)
    assert outside == set()
    assert inside - OURS == files
    assert note in notes if note else notes == ""


def test_logger_true_is_what_it_is_in_a_fit(train):
    notes, inside, outside = train(logger=True)
    assert (notes, outside) == ("", set())
    assert {file.split("/")[0] for file in inside - OURS} == {"lightning_logs"}


def test_a_stack_adapts_what_its_members_share(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = [called("ModelCheckpoint", dirpath="elsewhere"), called("TQDMProgressBar"), called("LearningRateMonitor")]
    config["trainer"]["callbacks"] = listed
    members = []
    for id, lr in enumerate((0.1, 0.2)):
        config["model"] = {"class_path": "toys.ToyNet", "init_args": {"lr": lr}}
        whole = Blueprint().resolve({**config, "seed_everything": id})
        members.append(Member(id, whole, str(tmp_path / "net" / "candidates" / f"{id:06d}")))
    left = {}
    request = TrainingRequest(str(tmp_path / "net" / "stacks" / "000000"), [Objective("val_acc")], data_seed=3)
    result = train_stack(Blueprint(), members, request, left.__setitem__)
    assert result.status == "completed", result.error
    assert len(left) == 2
    assert all("TQDMProgressBar is left out" in text for text in left.values())
    assert not (tmp_path / "elsewhere").exists()


def test_a_trainer_that_logs_nothing_is_refused(config):
    config["trainer"]["barebones"] = True
    with pytest.raises(SpaceError, match=r"trainer\.barebones: True logs nothing"):
        ConfigTrainable(config).check({}, [])


def test_proxies_and_comparisons_are_built_without_bars(config):
    config["trainer"]["callbacks"] = called("TQDMProgressBar")
    parts = Blueprint().build(Blueprint().resolve(config), {"enable_progress_bar": False, "logger": False})
    assert parts.trainer.progress_bar_callback is None
