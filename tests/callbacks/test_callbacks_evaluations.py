"""Fitness, curve and checkpoint are of one moment, whenever a training validates and whoever logs the metric."""

from __future__ import annotations

import json

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanMetric

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.callbacks import EarlyFitnessPrediction, FitnessRecorder
from lightning_evo.callbacks.evaluations import expected_evaluations
from lightning_evo.callbacks.fitness import MetricNotLogged
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.predictors.curves.policies import StoppingPolicy, Verdict
from lightning_evo.reporting import views
from lightning_evo.reporting.page import payload
from lightning_evo.reporting.summaries.savings import savings


class Counting(LightningModule):
    """Its only weight is the number of steps taken, which is what it logs: so a checkpoint shows which moment it is of."""

    def __init__(self, log="validation", every=1, manual=False, stop_at=None, length=10):
        super().__init__()
        self.steps = torch.nn.Parameter(torch.zeros(()))
        self.place, self.every, self.stop_at, self.length = log, every, stop_at, length
        self.automatic_optimization = not manual
        self.metric = MeanMetric()

    def training_step(self, batch, batch_idx):
        if self.place in ("step", "both"):
            self.log("value", self.steps.detach() + 1, on_step=True, on_epoch=self.place == "both")
        if not self.automatic_optimization:
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(-self.steps)
            optimizer.step()
            return None
        if self.steps == self.stop_at:
            self.trainer.should_stop = True
        return -self.steps

    def validation_step(self, batch, batch_idx):
        if self.place == "validation":
            self.log("value", self.steps)
        if self.place == "torchmetrics":
            self.metric(self.steps)
            self.log("value", self.metric)

    def on_validation_epoch_end(self):
        if self.place == "rarely" and (self.current_epoch + 1) % self.every == 0:
            self.log("value", self.steps)

    def on_train_epoch_end(self):
        if self.place == "epoch":
            self.log("value", self.steps)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self):
        return DataLoader(torch.zeros(self.length), batch_size=1)

    val_dataloader = train_dataloader


class Endless(IterableDataset):
    """Ten examples an epoch, as nobody knows beforehand."""

    def __iter__(self):
        return iter(torch.zeros(10))


class Streaming(Counting):
    def train_dataloader(self):
        return DataLoader(Endless(), batch_size=1)


class Unvalidated(Counting):
    validation_step = LightningModule.validation_step
    val_dataloader = LightningModule.val_dataloader


class Logging(Callback):
    """Logs the metric itself, or puts it where Lightning keeps the metrics."""

    def __init__(self, when):
        self.when = when

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.when == "validation":
            pl_module.log("value", pl_module.steps)

    def on_train_end(self, trainer, pl_module):
        if self.when == "end":
            trainer.callback_metrics["value"] = pl_module.steps.detach().clone()

    def on_fit_end(self, trainer, pl_module):
        if self.when == "fit end":
            trainer.callback_metrics["value"] = pl_module.steps.detach().clone()


def fit(path, model=None, callbacks=(), required=(), **settings):
    """Train; returns what recorded it."""
    recorder = FitnessRecorder("value", directory=str(path), required=required)
    settings = {"max_epochs": 4, "limit_val_batches": 1} | settings
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[*callbacks, recorder], default_root_dir=path, **quiet, **settings)
    trainer.fit(model or Counting())
    return recorder


BY_STEP = {"max_epochs": -1, "max_steps": 32, "check_val_every_n_epoch": None}


@pytest.mark.parametrize(
    ("settings", "model", "values"),
    [
        ({}, {}, [10, 20, 30, 40]),
        ({"val_check_interval": 0.5}, {}, [5, 10, 15, 20, 25, 30, 35, 40]),
        ({"val_check_interval": 0.7, "max_epochs": 2}, {}, [7, 17]),
        ({"val_check_interval": 4, "max_epochs": 2}, {}, [4, 8, 14, 18]),
        ({"check_val_every_n_epoch": 2}, {}, [20, 40]),
        ({"check_val_every_n_epoch": 3}, {}, [30]),
        ({"val_check_interval": 8, **BY_STEP}, {}, [8, 16, 24, 32]),
        ({"val_check_interval": 15, **BY_STEP}, {}, [15, 30]),
        ({"max_epochs": -1, "max_steps": 25}, {}, [10, 20]),
        ({"num_sanity_val_steps": 0, "accumulate_grad_batches": 2}, {}, [5, 10, 15, 20]),
        ({}, {"log": "rarely", "every": 2}, [20, 40]),
        ({}, {"log": "rarely", "every": 4}, [40]),
        ({"val_check_interval": 0.5}, {"log": "torchmetrics"}, [5, 10, 15, 20, 25, 30, 35, 40]),
        ({}, {"log": "epoch"}, [10, 20, 30, 40]),
        ({"val_check_interval": 0.5}, {"log": "epoch"}, [10, 20, 30, 40]),
        ({"limit_val_batches": 0}, {"log": "step"}, [10, 20, 30, 40]),
        ({"val_check_interval": 0.5, "max_epochs": 1}, {"log": "step"}, [5, 10]),
        ({"val_check_interval": 0.25, "max_epochs": 1}, {"manual": True}, [2, 4, 6, 8, 10]),
        ({"max_epochs": 2}, {"manual": True}, [10, 20]),
        ({}, {"stop_at": 14}, [10, 15]),
    ],
)
def test_each_value_is_recorded_once_at_the_moment_it_is_of(settings, model, values, tmp_path):
    recorder = fit(tmp_path, Counting(**model), **settings)
    evaluated = [point["value"] for point in recorder.curve if "value" in point]
    assert evaluated == values
    assert recorder.point["value"] == values[-1]
    saved = torch.load(recorder.checkpoint_path, weights_only=True)["state_dict"]["steps"]
    assert saved == recorder.point["value"]
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert lines == recorder.curve


def test_a_mean_over_the_epoch_counts_at_its_end_alone(tmp_path):
    recorder = fit(tmp_path, Counting(log="both"), val_check_interval=0.5, max_epochs=2)
    assert [point["value"] for point in recorder.curve if "value" in point] == [5.5, 15.5]


def test_data_without_a_length_and_models_without_validation_have_evaluations(tmp_path):
    settings = {"max_epochs": 2, "val_check_interval": 4}
    recorder = fit(tmp_path / "a", Streaming(), **settings)
    assert [point["value"] for point in recorder.curve if "value" in point] == [4, 8, 14, 18]
    assert [point["value"] for point in fit(tmp_path / "b", Unvalidated(log="epoch")).curve] == [10, 20, 30, 40]


@pytest.mark.parametrize(("when", "values"), [("validation", [20, 40]), ("end", [40]), ("fit end", [40])])
def test_a_callback_may_log_the_metric(when, values, tmp_path):
    recorder = fit(tmp_path, Counting(log=""), [Logging(when)], check_val_every_n_epoch=2)
    assert [point["value"] for point in recorder.curve if "value" in point] == values
    assert torch.load(recorder.checkpoint_path, weights_only=True)["state_dict"]["steps"] == 40


def test_a_training_that_the_user_stops_within_an_epoch_has_its_last_evaluation(tmp_path):
    stopping = EarlyStopping("value", mode="min", patience=1)
    recorder = fit(tmp_path, Counting(), [stopping], val_check_interval=0.5)
    assert [point["value"] for point in recorder.curve if "value" in point] == [5, 10, 15][: len(recorder.curve)]
    assert recorder.ends_with_evaluation


@pytest.mark.parametrize(
    ("settings", "model", "said"),
    [
        (
            {"max_epochs": 1, "check_val_every_n_epoch": 2},
            {},
            r"No validation ran in 1 epochs and 10 steps: lower .*\(2\)",
        ),
        ({"limit_val_batches": 0, "max_epochs": 1}, {}, "trainer.limit_val_batches is 0"),
        ({"max_epochs": 2}, {"log": ""}, "value: never logged; the module logs nothing$"),
    ],
)
def test_why_there_was_no_evaluation_is_said(settings, model, said, tmp_path):
    with pytest.raises(MetricNotLogged, match=said):
        fit(tmp_path, Counting(**model), **settings)


def test_metrics_that_are_never_there_together_are_refused(tmp_path):
    class Apart(Counting):
        def on_train_epoch_end(self):
            self.log("other", self.steps)

    with pytest.raises(MetricNotLogged, match="value, other: never logged together"):
        fit(tmp_path, Apart(), required=["other"], max_epochs=1, val_check_interval=0.7)


class Watching(StoppingPolicy):
    """Never stops, and notes what it is asked."""

    asked: list

    def decide(self, context):
        self.asked.append((list(context.curve), context.horizon))
        return Verdict(False)


@pytest.mark.parametrize(
    ("settings", "model", "horizon"),
    [
        ({}, Counting(), 4),
        ({"check_val_every_n_epoch": 2}, Counting(), 2),
        ({"val_check_interval": 0.5, "max_epochs": 2}, Counting(), 4),
        ({"val_check_interval": 8, **BY_STEP}, Counting(), 4),
        ({"max_epochs": 4}, Counting("rarely", every=2), 2),
        ({"val_check_interval": 5, "max_epochs": 2}, Streaming(), 4),
        ({"max_epochs": 2}, Streaming(), 2),
    ],
)
def test_early_stopping_counts_evaluations(settings, model, horizon, tmp_path):
    Watching.asked = []
    callback = EarlyFitnessPrediction(monitor="value", bar=0.0, policy=Watching())
    recorder = fit(tmp_path, model, [callback], **settings)
    values = [point["value"] for point in recorder.curve if "value" in point]
    assert Watching.asked[-1] == (values[:-1], horizon)
    assert len(values) == horizon


@pytest.mark.parametrize("every", [0.1, 0.25, 1 / 3, 0.3, 0.35])
def test_the_number_of_evaluations_is_known_after_the_second(every):
    shares = [share for share in (every * (i + 1) for i in range(20)) if share < 1 + 1e-9]
    for seen in range(2, len(shares) + 1):
        assert expected_evaluations(shares[:seen]) == len(shares)


class Stopping(StoppingPolicy):
    """Stops at the first evaluation."""

    def decide(self, context):
        return Verdict(True)


@pytest.mark.parametrize(
    ("settings", "left", "unit", "stopped_at", "end"),
    [
        ({}, 3, "epoch", 0, 3),
        ({"check_val_every_n_epoch": 2}, 2, "epoch", 1, 3),
        ({"val_check_interval": 0.25, "max_epochs": 6}, 5.8, "step", 2, 60),
        ({"val_check_interval": 8, **BY_STEP}, 2.4, "step", 8, 32),
    ],
)
def test_what_a_stop_saved_and_where_it_was_is_said_in_epochs_and_steps(
    settings, left, unit, stopped_at, end, tmp_path
):
    callback = EarlyFitnessPrediction(monitor="value", bar=0.0, policy=Stopping())
    recorder = fit(tmp_path / "candidate", Counting(), [callback], **settings)
    with ArchiveWriter(tmp_path) as writer:
        writer.update_meta({"objectives": [{"monitor": "value", "mode": "max"}]})
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=0.0)
        result = Result("stopped", fitness=(0.0,), curve=recorder.curve, extra=callback.extra)
        writer.record_result(0, result)
    with Archive(tmp_path) as archive:
        assert savings(archive).early_stopping.epochs_saved == round(left)
        (curve,) = views.curves(archive)
        assert curve.unit == unit
        assert views.length(views.read_snapshot(archive), curve) == pytest.approx(end)
        (run,) = payload([archive])["runs"]
    assert run["curves"]["along"] == unit
    assert run["early"]["0"]["stopped_at"] == run["curves"]["places"]["0"][-1] == stopped_at
    assert run["early"]["0"]["end"] == pytest.approx(end)
