"""A schedule followed in one fit equals the segments it was found in; what can't be followed is said before training."""

from __future__ import annotations

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from torch import nn
from torch.optim import SGD, AdamW, lr_scheduler
from torch.utils.data import DataLoader

from lightning_evo.callbacks.continuation import Continuation
from lightning_evo.callbacks.hyperparameter_schedule import HyperparameterSchedule
from lightning_evo.callbacks.rebuilding import NotApplicable
from toys import NoTestNet, ToyData

EPOCHS = 6


class Data(LightningDataModule):
    def __init__(self, batch_size=16):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(ToyData()._loader(0).dataset, self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(ToyData()._loader(1).dataset, self.batch_size)


class Noise:
    """A plain object that holds a hyperparameter."""

    def __init__(self, strength):
        self.strength = strength


class Net(LightningModule):
    """Hyperparameters in all the places where people keep them."""

    def __init__(
        self,
        lr: float = 0.1,
        decay: float = 1e-3,
        momentum: float = 0.9,
        dropout: float = 0.3,
        smoothing: float = 0.0,
        noise: float = 0.0,
        activation: str = "ReLU",
        width: int = 8,
        schedule: str = "none",
        warm_up: int = 4,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        self.noise = Noise(noise)
        self.net = nn.Sequential(
            nn.Linear(2, width),
            nn.BatchNorm1d(width),
            getattr(nn, activation)(),
            nn.Dropout(dropout),
            nn.Linear(width, 2),
        )
        self.seen = 0
        self.rates = []

    def training_step(self, batch, batch_idx):
        points, labels = batch
        self.seen += len(labels)
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        if self.noise.strength:
            points = points + self.noise.strength * torch.randn_like(points)
        return self.loss(self.net(points), labels)

    def validation_step(self, batch, batch_idx):
        points, labels = batch
        self.log("val_acc", (self.net(points).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        own = self.hparams
        if own.schedule == "adamw":
            return AdamW(self.parameters(), own.lr / 10, weight_decay=own.decay)
        optimizer = SGD(self.parameters(), own.lr, own.momentum, weight_decay=own.decay)
        if own.schedule == "none":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        warm_up = own.warm_up
        made = {
            "step": lambda: lr_scheduler.StepLR(optimizer, 2, 0.5),
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs),
            "one_cycle": lambda: lr_scheduler.OneCycleLR(optimizer, own.lr, total_steps=steps),
            "warm_up": lambda: lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up)),
            "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0, threshold=1.0),
        }[own.schedule]()
        interval = "step" if own.schedule in ("one_cycle", "warm_up") else "epoch"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": made, "interval": interval, "monitor": "val_acc"},
        }


def fit(model, data, directory, callbacks, ckpt_path=None, seed=3, **arguments):
    seed_everything(seed, verbose=False)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **arguments,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return trainer


def make(**hparams):
    seed_everything(1, verbose=False)
    return Net(**hparams)


def values_of(schedule, section, until):
    """What model or data module is built with in the segment that begins at an epoch."""
    prefix = f"{section}.init_args."
    return {
        path.removeprefix(prefix): value
        for epoch in sorted(schedule)
        if epoch <= until
        for path, value in schedule[epoch].items()
        if path.startswith(prefix)
    }


def in_segments(schedule, directory):
    """The training as a search does it: built anew for each segment, with that segment's values."""
    starts = sorted({0, *schedule})
    path, rates = None, []
    for start, end in zip(starts, [*starts[1:], EPOCHS], strict=True):
        model = make(**values_of(schedule, "model", start))
        part = Continuation(end, str(directory / f"{start}"))
        trainer = {"gradient_clip_val": values_of_trainer(schedule, start)}
        data = Data(**values_of(schedule, "data", start))
        fit(model, data, directory, [part], path, seed=3 + start, **trainer)
        path, rates = str(part.checkpoint_path), rates + model.rates
    model.rates = rates
    return model


def values_of_trainer(schedule, until):
    found = [
        schedule[e]["trainer.gradient_clip_val"]
        for e in sorted(schedule)
        if e <= until and any(path == "trainer.gradient_clip_val" for path in schedule[e])
    ]
    return found[-1] if found else None


def assert_same(one, other):
    assert one.rates == other.rates
    for (name, value), (_, wanted) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, wanted), name


MODEL = "model.init_args."
SCHEDULES = {
    "rate": {0: {MODEL + "lr": 0.2}, 2: {MODEL + "lr": 0.05}, 3: {MODEL + "lr": 0.3}, 5: {MODEL + "lr": 0.1}},
    "optimizer": {2: {MODEL + "decay": 0.1, MODEL + "momentum": 0.5}, 4: {MODEL + "decay": 0.0, MODEL + "lr": 0.02}},
    "network": {
        1: {MODEL + "dropout": 0.6, MODEL + "noise": 0.2},
        4: {MODEL + "dropout": 0.0, MODEL + "smoothing": 0.2, MODEL + "activation": "Tanh"},
    },
    "data": {0: {"data.init_args.batch_size": 32}, 3: {"data.init_args.batch_size": 8, MODEL + "lr": 0.02}},
    "trainer": {0: {"trainer.gradient_clip_val": 0.5}, 2: {"trainer.gradient_clip_val": 0.01}},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["none", "adamw", "step", "cosine", "one_cycle", "warm_up", "plateau"])
def test_one_fit_with_the_schedule_equals_the_segments_bit_for_bit(name, kind, tmp_path):
    schedule = {epoch: dict(values) for epoch, values in SCHEDULES[name].items()}
    schedule.setdefault(0, {})[MODEL + "schedule"] = kind
    segments = in_segments(schedule, tmp_path)
    followed = make(schedule=kind)
    fit(followed, Data(), tmp_path / "one", [HyperparameterSchedule(schedule)])
    assert_same(followed, segments)


def test_a_function_of_the_schedule_is_made_anew(tmp_path):
    schedule = {0: {MODEL + "schedule": "warm_up"}, 2: {MODEL + "warm_up": 40}}
    segments = in_segments(schedule, tmp_path)
    followed = make(schedule="warm_up")
    fit(followed, Data(), tmp_path / "one", [HyperparameterSchedule(schedule)])
    assert_same(followed, segments)
    assert followed.rates[-1] < 0.1


@pytest.mark.parametrize("continuation", [True, False])
@pytest.mark.parametrize("end", [2, 3])
def test_a_fit_interrupted_in_the_middle_goes_on_with_the_values_it_had(end, continuation, tmp_path):
    schedule = {0: {MODEL + "lr": 0.2}, 2: {MODEL + "lr": 0.05, MODEL + "dropout": 0.0}, 5: {MODEL + "lr": 0.4}}
    kind = {MODEL + "schedule": "step"}
    schedule[0] |= kind
    whole = make(schedule="step")
    fit(whole, Data(), tmp_path, [HyperparameterSchedule(schedule)])
    part = Continuation(end, str(tmp_path / "half"))
    first, second = make(schedule="step"), make(schedule="step")
    fit(first, Data(), tmp_path, [part, HyperparameterSchedule(schedule)])
    more = [Continuation(directory=str(tmp_path / "rest"))] if continuation else []
    fit(second, Data(), tmp_path, [*more, HyperparameterSchedule(schedule)], str(part.checkpoint_path), seed=9)
    second.rates = first.rates + second.rates
    assert second.rates == whole.rates
    assert second.net[3].p == 0.0
    if continuation:
        assert_same(second, whole)


def test_what_the_module_came_to_hold_in_training_stays(tmp_path):
    model = make()
    fit(model, Data(), tmp_path, [HyperparameterSchedule({3: {MODEL + "dropout": 0.1}})])
    assert model.seen == EPOCHS * 64
    assert model.hparams.dropout == 0.1


def test_a_schedule_is_read_from_the_file_that_export_writes(tmp_path):
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(SCHEDULES["rate"]))
    from_file = HyperparameterSchedule(str(tmp_path / "schedule.yaml"))
    assert from_file.schedule == SCHEDULES["rate"]


def test_a_module_without_hyperparameters_takes_values_as_attributes(tmp_path):
    seed_everything(0, verbose=False)
    model = NoTestNet(lr=0.1)
    trainer = fit(model, ToyData(), tmp_path, [HyperparameterSchedule({2: {"model.lr": 0.01}})])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.01


def test_the_optimizer_of_lightning_cli_follows_its_own_section(tmp_path):
    config = {
        "seed_everything": 1,
        "model": {"class_path": "test_callbacks_hyperparameter_schedule.Bare", "init_args": {"dropout": 0.5}},
        "data": {"class_path": "test_callbacks_hyperparameter_schedule.Data"},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}},
        "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}},
        "trainer": {
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
        },
    }
    schedule = {
        2: {"optimizer.init_args.lr": 0.2, "model.init_args.dropout": 0.0},
        4: {"optimizer.init_args.momentum": 0.5, "lr_scheduler.init_args.gamma": 0.9},
    }
    cli = LightningCLI(
        args=config,
        run=False,
        save_config_callback=None,
        trainer_defaults={"callbacks": HyperparameterSchedule(schedule)},
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.model.rates == pytest.approx([0.1, 0.05, 0.05, 0.025, 0.2 * 0.9**4, 0.2 * 0.9**5])
    assert cli.trainer.optimizers[0].param_groups[0]["momentum"] == 0.5
    assert cli.model.net[2].p == 0.0


class Bare(LightningModule):
    """A module whose optimizer is LightningCLI's."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4, 2))
        self.rates: list[float] = []

    def on_train_epoch_start(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {3: {MODEL + "width": 16}},
            r"epoch 3: model.init_args.width: changes the structure: net.0.weight and .* more",
        ),
        ({2: {MODEL + "depth": 2}}, r"epoch 2: model.init_args.depth: Net keeps no hyperparameter 'depth'"),
        ({2: {"data.init_args.size": 2}}, r"epoch 2: data.init_args.size: Data has no attribute 'size'"),
        ({2: {"optimizer.init_args.beta": 2}}, r"epoch 2: optimizer.init_args.beta: the optimizer has lr, momentum"),
        ({0: {"lr_scheduler.init_args.gam": 2}}, r"lr_scheduler.init_args.gam: the scheduler has nothing"),
    ],
)
def test_a_value_that_cant_be_set_in_mid_training_is_an_error_before_it_begins(schedule, message, tmp_path):
    model = make()
    with pytest.raises(NotApplicable, match=message):
        fit(model, Data(), tmp_path, [HyperparameterSchedule(schedule)])
    assert model.seen == 0


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({-1: {"model.lr": 0.1}}, "-1 is not an epoch, counted from 0"),
        ({0: 3}, "is not a mapping epoch -> config path -> value"),
        ([1], "is not a mapping epoch -> config path -> value"),
        ({0: {"trainer.max_epochs": 3}}, r"trainer.max_epochs: can't be changed in mid-training; what can begins with"),
        ({0: {"model": 3}}, "model: can't be changed"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_at_once(schedule, message):
    with pytest.raises(ValueError, match=message):
        HyperparameterSchedule(schedule)
