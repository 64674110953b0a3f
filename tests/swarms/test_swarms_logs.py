"""Logging outside a Trainer's loop gives what Lightning gives inside."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.logs import Log, Logged, recording


class Chatty(L.LightningModule):
    """Logs in every way that Lightning knows."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.layer(x), y)
        self.log("loss", loss)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log_dict({"largest": x.max(), "weighted": x.mean()}, on_step=False, on_epoch=True, reduce_fx="max")
        self.log("mean", x.mean(), on_step=False, on_epoch=True)
        self.log("smallest", x.min(), on_step=False, on_epoch=True, reduce_fx=min)
        self.log("examples", float(len(x)), on_step=False, on_epoch=True, reduce_fx=torch.sum)
        self.log("given", x.mean(), on_step=False, on_epoch=True, batch_size=1)
        self.accuracy(self.layer(x), y)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.log("at_end", 7.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 3, generator=generator), torch.randint(0, 2, (10,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


def test_an_epoch_is_reduced_as_lightning_reduces_it(batches, tmp_path):
    module = Chatty()
    copy = Chatty()
    copy.load_state_dict(module.state_dict())
    trainer = L.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(module, batches)

    optimizer = copy.configure_optimizers()
    with recording(copy) as log:
        for index, batch in enumerate(batches):
            log.hook, log.batch = "training_step", batch
            optimizer.zero_grad()
            copy.training_step(batch, index).backward()
            optimizer.step()
        log.hook, log.batch = "on_train_epoch_end", None
        copy.on_train_epoch_end()
    metrics = log.metrics()
    expected = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics == pytest.approx(expected)
    assert "both_epoch" in metrics
    assert not log.metrics(), "the log is empty after it was read"
    assert not copy.accuracy.update_called, "metric objects are reset"


def test_the_modules_own_log_is_back_afterwards():
    module = Chatty()
    with recording(module):
        assert "log" in module.__dict__
    assert "log" not in module.__dict__
    assert module.log.__func__ is L.LightningModule.log
    with pytest.raises(RuntimeError), recording(module):
        raise RuntimeError
    assert "log" not in module.__dict__


def test_recordings_may_nest():
    module = Chatty()
    with recording(module) as outer:
        with recording(module) as inner:
            inner.hook = "validation_step"
            module.log("a", 1.0)
        outer.hook = "validation_step"
        module.log("b", 2.0)
    assert inner.metrics() == {"a": 1.0}
    assert outer.metrics() == {"b": 2.0}


def test_several_loaders_keep_their_names_apart():
    log = Log()
    log.hook = "validation_step"
    for index in range(2):
        log.dataloader_idx = index
        log.log("loss", float(index))
        log.log("own", float(index), add_dataloader_idx=False)
    assert log.metrics() == {"loss/dataloader_idx_0": 0.0, "loss/dataloader_idx_1": 1.0, "own": 0.5}


def test_the_values_of_several_particles_are_reduced_at_once():
    log = Log()
    for size, values in ((3, [1.0, 2.0]), (1, [5.0, 6.0])):
        log.record(Logged("loss", torch.tensor(values), "validation_step", False, True, "mean", size))
    first, second = MeanMetric(), MeanMetric()
    first.update(1.0)
    second.update(4.0)
    log.record(Logged("metric", [first, second], "validation_step", False, True))
    drained = {logged.name: logged.value.tolist() for logged in log.drain()}
    assert drained == {"loss": [2.0, 3.0], "metric": [1.0, 4.0]}
    assert not first.update_called


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("x", "text"), {}, "got a str"),
        (("x", {"a": 1}), {}, "got a dict"),
        (("x", 1.0), {"reduce_fx": "median"}, "only mean, min, max and sum"),
        (("x", 1.0), {"on_step": False, "on_epoch": False}, "logs nothing"),
    ],
)
def test_what_cant_be_logged_is_refused(arguments, options, message):
    log = Log()
    with pytest.raises(SwarmError, match=message):
        log.log(*arguments, **options)
