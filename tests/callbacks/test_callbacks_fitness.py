"""Which epoch counts, what is kept of it, and what happens when its metric isn't there."""

from __future__ import annotations

import json
import math

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_evo.callbacks import FitnessRecorder
from lightning_evo.callbacks.fitness import MetricNotLogged
from toys import ToyData, ToyNet


class Scripted(ToyNet):
    """Logs the metric values it is given, one an epoch."""

    def __init__(self, script):
        super().__init__()
        self.script = script

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.log("score", torch.tensor(self.script[self.current_epoch]))


def fit(model, recorder, tmp_path, **arguments):
    settings = {"max_epochs": len(getattr(model, "script", [0, 0]))} | arguments
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[recorder],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, ToyData())
    return recorder


NAN = math.nan


@pytest.mark.parametrize(
    ("script", "mode", "epoch", "counts"),
    [
        ([0.1, 0.5, 0.3], "max", "best", 1),
        ([0.1, 0.5, 0.3], "min", "best", 0),
        ([0.1, 0.5, 0.3], "max", "last", 2),
        ([0.5, 0.5, 0.5], "max", "best", 0),
        ([NAN, 0.5, NAN], "max", "best", 1),
        ([NAN, 0.5, NAN], "min", "best", 1),
        ([NAN, NAN], "max", "best", 0),
    ],
)
def test_the_epoch_that_counts_is_the_one_asked_for(script, mode, epoch, counts, tmp_path):
    recorder = fit(Scripted(script), FitnessRecorder("score", mode=mode, epoch=epoch), tmp_path)
    assert recorder.point["epoch"] == counts
    saved = torch.load(recorder.checkpoint_path, weights_only=True)
    assert saved["epoch"] == counts


def test_the_curve_is_written_epoch_by_epoch_where_others_can_follow_it(tmp_path):
    recorder = fit(Scripted([0.1, 0.5]), FitnessRecorder("score", directory=str(tmp_path)), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert lines == recorder.curve
    assert [point["score"] for point in lines] == pytest.approx([0.1, 0.5])
    assert all("train_loss" in point for point in lines)


def test_a_subclass_decides_which_epoch_counts(tmp_path):
    class FirstAbove(FitnessRecorder):
        def is_better(self, value, than):
            return than < 0.4 <= value

    recorder = fit(Scripted([0.1, 0.5, 0.9]), FirstAbove("score"), tmp_path)
    assert recorder.point["epoch"] == 1


def test_a_metric_that_is_never_logged_is_named_with_those_that_are(tmp_path):
    recorder = FitnessRecorder("val_accuracy", required=["val_accuracy"])
    with pytest.raises(
        MetricNotLogged, match=r"val_accuracy: never logged; the module logs train_loss, val_acc, val_loss"
    ):
        fit(ToyNet(), recorder, tmp_path)
    assert len(recorder.curve) == 2


def test_a_metric_may_wait_for_the_first_epoch_that_validates(tmp_path):
    recorder = FitnessRecorder("val_acc", required=["val_acc"])
    fit(ToyNet(), recorder, tmp_path, check_val_every_n_epoch=2, max_epochs=2, num_sanity_val_steps=0)
    assert "val_acc" in recorder.point


def test_no_checkpoint_is_written_when_none_is_wanted(tmp_path):
    recorder = fit(Scripted([0.1]), FitnessRecorder("score", save_checkpoint=False), tmp_path)
    assert recorder.checkpoint_path is None
    assert not list(tmp_path.rglob("*.ckpt"))
