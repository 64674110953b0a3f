"""How fast a training goes, by a clock that only data, steps and validation move."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, Dataset

from lightning_evo.callbacks import SpeedMeter, speed
from toys import ToyNet

FETCH, STEP, FIRST, VALIDATION = 1.0, 3.0, 50.0, 1000.0


class Clock:
    """Wall-clock seconds, and how many of them the process computed."""

    def __init__(self):
        self.wall = self.processor = 0.0

    def spend(self, seconds, busy):
        self.wall += seconds
        self.processor += busy * seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    fake = SimpleNamespace(perf_counter=lambda: clock.wall, process_time=lambda: clock.processor)
    monkeypatch.setattr(speed, "time", fake)
    return clock


class Slow(Dataset):
    """Sixteen samples, each of which takes a while to fetch."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.clock.spend(self.seconds, busy=0)
        return torch.ones(2), index % 2


class Timed(ToyNet):
    """Steps take a while, the first one longer."""

    clock = None

    def training_step(self, batch, batch_idx):
        self.clock.spend(FIRST if self.global_step == 0 else STEP, busy=1)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.clock.spend(VALIDATION, busy=1)


def fit(clock, meter, epochs=3, **arguments):
    model = Timed()
    model.clock = clock
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[meter],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, DataLoader(Slow(clock, FETCH / 4), 4), DataLoader(Slow(clock, 0), 16))
    return trainer


def test_samples_per_second_leave_out_the_first_batch_and_validation(clock):
    meter = SpeedMeter()
    fit(clock, meter)
    assert meter.cost["samples_per_second"] == pytest.approx(4 / (FETCH + STEP))


def test_a_single_batch_is_all_there_is_to_go_by(clock):
    meter = SpeedMeter()
    fit(clock, meter, epochs=1, limit_train_batches=1)
    assert meter.cost["samples_per_second"] == pytest.approx(4 / (FETCH + FIRST))
    assert "waiting" not in meter.cost


def test_waiting_is_the_share_of_time_before_a_batch_begins(clock):
    meter = SpeedMeter()
    fit(clock, meter)
    assert meter.cost["waiting"] == pytest.approx(FETCH / (FETCH + STEP))


def test_validation_within_an_epoch_is_left_out_too(clock):
    meter = SpeedMeter()
    fit(clock, meter, val_check_interval=2)
    assert meter.cost["waiting"] == pytest.approx(FETCH / (FETCH + STEP))


def test_a_cpu_is_busy_as_long_as_its_process_computes(clock, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    meter = SpeedMeter()
    fit(clock, meter, epochs=2)
    steps = FIRST + 7 * STEP
    assert meter.cost["utilisation"] == pytest.approx(steps / (8 * FETCH + steps) / 2)


def test_utilisation_is_at_most_one(clock, monkeypatch):
    meter = SpeedMeter()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    meter.load_state_dict({"totals": {"busy": 12.0, "observed": 10.0}})
    assert meter.cost == {"utilisation": 1.0}


def test_a_gpu_is_asked_once_a_second(clock, monkeypatch):
    """The clock is a fake one, and so is NVML: what is tested is how often it's asked and how the answers add up."""
    answers = iter([10, 20, 60, 90])  # the first is only to see whether it answers
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(answers))
    busy = speed._busy_meter(torch.device("cuda", 0))
    looks = []
    for _ in range(12):
        clock.spend(0.25, busy=0)
        looks.append(busy.look())
    assert [look for look in looks if look != (0.0, 0.0)] == [(0.2, 1.0), (0.6, 1.0), (0.9, 1.0)]


def test_without_nvml_there_is_no_utilisation(monkeypatch):
    def missing(device):
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert speed._busy_meter(torch.device("cuda", 0)) is None
    assert speed._busy_meter(torch.device("mps")) is None


def test_a_resumed_training_adds_up(clock, tmp_path):
    whole = SpeedMeter()
    fit(clock, whole, epochs=4)
    first, second = SpeedMeter(), SpeedMeter()
    fit(clock, first, epochs=2)
    second.load_state_dict(first.state_dict())
    fit(clock, second, epochs=2)
    seen = [meter.totals["samples"] + meter.totals["first_samples"] for meter in (whole, second)]
    assert seen == [64, 64]
    assert second.cost["samples_per_second"] == pytest.approx(whole.cost["samples_per_second"])


def test_an_error_leaves_what_was_measured(clock):
    class Breaks(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("broken")

    meter, model = SpeedMeter(), Timed()
    model.clock = clock
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[meter, Breaks()], enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(model, DataLoader(Slow(clock, FETCH / 4), 4))
    assert meter.cost["samples_per_second"] == pytest.approx(4 / (FETCH + STEP))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_measured():
    meter = SpeedMeter()
    trainer = Trainer(
        max_epochs=2, accelerator="gpu", devices=1, logger=False, callbacks=[meter], enable_checkpointing=False
    )
    trainer.fit(ToyNet(), DataLoader([(torch.ones(2), 1)] * 64, 16))
    assert meter.cost["samples_per_second"] > 0
