"""A training in parts equals one in a whole, bit for bit; and where the config has changed, it wins."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import nn
from torch.optim import SGD, Adam, AdamW, lr_scheduler
from torch.utils.data import DataLoader

from lightning_evo.callbacks import FitnessRecorder
from lightning_evo.callbacks.continuation import Continuation
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.genome import Objective, Segment
from toys import ToyData, ToyNet

EPOCHS = 6


class Data(ToyData):
    """Shuffled blobs, jittered by Python's, NumPy's and PyTorch's random numbers."""

    def __init__(self, batch_size=16, own_generator=False, num_workers=0):
        super().__init__(batch_size=batch_size, num_workers=num_workers)
        self.own_generator = own_generator

    def train_dataloader(self):
        data = self._loader(0).dataset
        generator = torch.Generator().manual_seed(7) if self.own_generator else None
        return DataLoader(
            data,
            self.batch_size,
            shuffle=True,
            generator=generator,
            num_workers=self.num_workers,
            collate_fn=jittered,
        )


def jittered(samples):
    points, labels = torch.utils.data.default_collate(samples)
    return points + 0.1 * random.random() + 0.1 * numpy.random.rand() + 0.1 * torch.rand(1), labels


def step_lr(optimizer, trainer):
    return lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def cosine(optimizer, trainer):
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=trainer.max_epochs)


def one_cycle(optimizer, trainer):
    steps = trainer.estimated_stepping_batches
    return {"scheduler": lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps), "interval": "step"}


def plateau(optimizer, trainer):
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0, threshold=1.0)
    return {"scheduler": scheduler, "monitor": "val_acc", "strict": False}


def warm_up(optimizer, trainer):
    return {
        "scheduler": lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 9)),
        "interval": "step",
    }


def linear(optimizer, trainer):
    steps = trainer.estimated_stepping_batches
    return {"scheduler": lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps), "interval": "step"}


def sequential(optimizer, trainer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.8)]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[2])


SCHEDULES = {made.__name__: made for made in (step_lr, cosine, one_cycle, plateau, warm_up, linear, sequential)}
OPTIMIZERS = {
    "sgd": lambda parameters, lr, decay: SGD(parameters, lr, momentum=0.9, weight_decay=decay, nesterov=True),
    "adam": lambda parameters, lr, decay: Adam(parameters, lr / 10, weight_decay=decay),
    "adamw": lambda parameters, lr, decay: AdamW(parameters, lr / 10, weight_decay=decay),
}


class Net(ToyNet):
    """Dropout, batch normalization, and a schedule."""

    def __init__(self, lr=0.1, decay=1e-3, dropout=0.3, optimizer="sgd", schedule=None, gamma=None):
        seed_everything(1, verbose=False)
        super().__init__(width=8, lr=lr)
        self.net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 2))
        self.decay, self.kind, self.schedule, self.gamma = decay, optimizer, schedule, gamma
        self.rates, self.batches = [], []

    def training_step(self, batch, batch_idx):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.batches.append(batch[0])
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = OPTIMIZERS[self.kind](self.parameters(), self.lr, self.decay)
        if self.gamma is not None:
            return [optimizer], [lr_scheduler.ExponentialLR(optimizer, self.gamma)]
        if self.schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": SCHEDULES[self.schedule](optimizer, self.trainer)}


def fit(model, directory, end=None, ckpt_path=None, seed=3, data=None, callbacks=(), epochs=EPOCHS, **arguments):
    """One part of a training. The seed of a later one doesn't matter: its random state is restored."""
    seed_everything(seed, verbose=False)
    recorder = FitnessRecorder(None, directory=str(directory / "fitness"), save_checkpoint=False)
    continuation = Continuation(end, str(directory))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[continuation, *callbacks, recorder],
        default_root_dir=directory,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, data or Data(), ckpt_path=ckpt_path)
    model.curve, model.optimizer_state = recorder.curve, trainer.optimizers[0].state_dict()
    model.schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    return continuation


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(equal(*pair) for pair in zip(one, other, strict=True))
    return one == other


def in_parts(make, tmp_path, ends=(2, 3, None), make_data=Data, **arguments):
    """A training in parts; returns the last model, with what all of them met."""
    rates, batches, path = [], [], None
    for i, end in enumerate(ends):
        model = make()
        part = fit(model, tmp_path / f"part{i}", end, path, seed=3 + i, data=make_data(), **arguments)
        path = str(part.checkpoint_path)
        rates += model.rates
        batches += model.batches
    model.rates, model.batches = rates, batches
    return model


def assert_equal_in_parts(make, tmp_path, make_data=Data, **arguments):
    whole = make()
    fit(whole, tmp_path / "whole", data=make_data(), **arguments)
    parts = in_parts(make, tmp_path, make_data=make_data, **arguments)
    assert equal(parts.batches, whole.batches)
    assert parts.rates == whole.rates
    assert equal(parts.state_dict(), whole.state_dict())
    assert equal(parts.optimizer_state, whole.optimizer_state)
    assert equal(parts.schedules, whole.schedules)
    assert parts.curve == whole.curve


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", [None, *SCHEDULES])
def test_parts_equal_the_whole_bit_for_bit(schedule, optimizer, tmp_path):
    assert_equal_in_parts(lambda: Net(optimizer=optimizer, schedule=schedule), tmp_path)


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        ({"own_generator": True}, {}),
        ({}, {"check_val_every_n_epoch": 4}),
        ({}, {"accumulate_grad_batches": 3}),
        ({}, {"val_check_interval": 0.5}),
        ({}, {"num_sanity_val_steps": 0}),
        ({}, {"gradient_clip_val": 0.1, "min_epochs": 6}),
        ({"num_workers": 1}, {"num_sanity_val_steps": 0}),
    ],
    ids=str,
)
def test_loaders_and_trainer_arguments_make_no_difference(data, arguments, tmp_path):
    # With validation every fourth epoch, the plateau asks for a metric that an earlier part has logged.
    make_data = lambda: Data(**data)  # noqa: E731
    whole_epochs = {"epochs": 7} if "check_val_every_n_epoch" in arguments else {}
    schedule = "cosine" if whole_epochs else "plateau"
    assert_equal_in_parts(lambda: Net(schedule=schedule), tmp_path, make_data, **arguments, **whole_epochs)


def test_a_plateau_may_monitor_a_metric_that_only_an_earlier_part_has_logged(tmp_path):
    assert_equal_in_parts(lambda: Net(schedule="plateau"), tmp_path, check_val_every_n_epoch=2, num_sanity_val_steps=0)


def test_callbacks_that_draw_random_numbers_make_no_difference(tmp_path):
    class Draws(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            torch.rand(3)

        def on_train_epoch_end(self, trainer, pl_module):
            random.random()

        def on_train_end(self, trainer, pl_module):
            numpy.random.rand()
            pl_module.net[0].weight.data.zero_()  # as callbacks do that swap weights in at the end

    whole, half, rest = Net(), Net(), Net()
    fit(whole, tmp_path / "whole", callbacks=[Draws()])
    part = fit(half, tmp_path / "half", 3, callbacks=[Draws()])
    fit(rest, tmp_path / "rest", ckpt_path=part.checkpoint_path, seed=9, callbacks=[Draws()])
    assert equal(rest.state_dict(), whole.state_dict())


def test_a_part_ends_where_it_is_told_to_and_leaves_the_trainer_as_it_was(tmp_path):
    model = Net()
    seed_everything(0, verbose=False)
    part = Continuation(2, str(tmp_path))
    trainer = Trainer(
        max_epochs=5,
        min_epochs=5,
        accelerator="cpu",
        logger=False,
        callbacks=[part],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Data())
    assert (trainer.current_epoch, trainer.max_epochs, trainer.should_stop) == (2, 5, False)
    saved = torch.load(part.checkpoint_path, weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] == 2


# -- the config wins ---------------------------------------------------------------------------------------------------


def continued(first, then, tmp_path, data=None, end=3):
    """Train with one config, go on with another; returns the second model and its continuation."""
    before, after = Net(**first), Net(**then)
    part = fit(before, tmp_path / "one", end)
    return after, fit(after, tmp_path / "two", ckpt_path=part.checkpoint_path, data=data)


def test_a_changed_learning_rate_is_the_new_one_at_the_position_reached(tmp_path):
    """Ray issue 36660: the restored optimizer must not bring the old learning rate back."""
    model, continuation = continued({"lr": 0.1}, {"lr": 0.3}, tmp_path)
    assert set(model.rates) == {0.3}
    assert continuation.changed == ["lr"]


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "plateau"])
def test_a_changed_learning_rate_goes_on_in_the_schedule(schedule, tmp_path):
    reference = Net(lr=0.3, schedule=schedule)
    fit(reference, tmp_path / "reference")
    model, _ = continued({"lr": 0.1, "schedule": schedule}, {"lr": 0.3, "schedule": schedule}, tmp_path)
    assert model.rates == reference.rates[-len(model.rates) :]


def test_a_plateau_keeps_its_reductions_under_a_changed_learning_rate(tmp_path):
    first = Net(lr=0.1, schedule="plateau")
    part = fit(first, tmp_path / "one", 3)
    reached = torch.load(part.checkpoint_path, weights_only=True)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert reached < 0.1
    second = Net(lr=0.3, schedule="plateau")
    fit(second, tmp_path / "two", ckpt_path=part.checkpoint_path)
    assert second.rates[0] == pytest.approx(3 * reached)


def test_a_changed_schedule_gives_the_rate_it_has_at_the_position_reached(tmp_path):
    model, continuation = continued({"gamma": 0.9}, {"gamma": 0.5}, tmp_path)
    assert model.rates[:: len(model.rates) // 3] == pytest.approx([0.1 * 0.5**epoch for epoch in (3, 4, 5)])
    assert continuation.changed == ["schedule"]


def test_weight_decay_alone_leaves_everything_else_bit_for_bit(tmp_path):
    model, continuation = continued({"schedule": "step_lr"}, {"schedule": "step_lr", "decay": 0.5}, tmp_path)
    group = model.optimizer_state["param_groups"][0]
    assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (0.5, 0.9, True)
    same, _ = continued({"schedule": "step_lr"}, {"schedule": "step_lr"}, tmp_path)
    assert model.rates == same.rates
    assert not equal(model.state_dict(), same.state_dict())
    assert continuation.changed == ["weight_decay"]


def test_a_change_holds_for_the_parts_after_it_and_is_applied_once(tmp_path):
    one, two, three = Net(lr=0.1, schedule="step_lr"), Net(lr=0.4, schedule="step_lr"), Net(lr=0.4, schedule="step_lr")
    path = fit(one, tmp_path / "one", 2).checkpoint_path
    path = fit(two, tmp_path / "two", 4, path).checkpoint_path
    third = fit(three, tmp_path / "three", ckpt_path=path)
    assert third.changed == []
    assert three.rates[0] == 0.4 * 0.5 * 0.5


@pytest.mark.parametrize("schedule", ["one_cycle", "linear"])
def test_the_batch_size_is_the_new_one_and_a_schedule_of_steps_ends_with_the_training(schedule, tmp_path):
    first = then = {"schedule": schedule}
    model, _ = continued(first, then, tmp_path, data=Data(batch_size=8))
    assert len(model.rates) == 3 * 8
    assert all(len(batch) == 8 for batch in model.batches)
    # The middle of the training is still the middle of the cycle, and its end the end.
    reference = Net(schedule=schedule)
    fit(reference, tmp_path / "reference", data=Data(batch_size=8))
    assert model.rates == pytest.approx(reference.rates[24:])


def test_a_schedule_counted_in_steps_stays_where_it_is_under_another_batch_size(tmp_path):
    model, continuation = continued({"schedule": "warm_up"}, {"schedule": "warm_up"}, tmp_path, Data(batch_size=8), 1)
    assert continuation.changed == []
    assert model.rates[:6] == pytest.approx([0.1 * (step + 1) / 9 for step in (4, 5, 6, 7, 8, 8)])


def test_dropout_comes_from_the_model_as_it_is_now(tmp_path):
    model, _ = continued({"dropout": 0.3}, {"dropout": 0.0}, tmp_path)
    assert model.net[3].p == 0.0


def test_another_number_of_parameter_groups_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"what trains was SGD .* and is SGD .*, StepLR now"):
        continued({"schedule": None}, {"schedule": "step_lr"}, tmp_path)


# -- in a search -------------------------------------------------------------------------------------------------------


def context(tmp_path, segment, parent=None):
    return SearchContext(5, 1, (Objective("val_acc"),), directory=str(tmp_path), segment=segment, parent=parent)


def test_a_candidate_trains_its_segment_from_its_parents_checkpoint(tmp_path):
    first = fit(Net(), tmp_path / "parent", 2)
    continuation = Continuation()
    parent = Inherited(3, str(first.checkpoint_path), 3)
    continuation.join_search(context(tmp_path / "child", Segment(2, 4), parent))
    assert continuation.resume_from == str(first.checkpoint_path)
    recorder = FitnessRecorder("val_acc", epoch="last", directory=str(tmp_path / "child"), save_checkpoint=False)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[continuation, recorder],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(lr=0.2), Data(), ckpt_path=continuation.resume_from)
    assert [point["epoch"] for point in recorder.curve] == [2, 3]
    assert continuation.checkpoint_path == tmp_path / "child" / "checkpoint.ckpt"
    assert continuation.extra["continuation"] == {
        "from": 3,
        "asked": 3,
        "why": "",
        "start": 2,
        "end": 4,
        "changed": ["lr"],
    }


@pytest.mark.parametrize("path", ["", "gone.ckpt"])
def test_a_parent_that_vanished_is_recorded_and_trained_again_from_scratch(path, tmp_path):
    continuation = Continuation()
    continuation.join_search(context(tmp_path, Segment(2, 4), Inherited(3, path, 3)))
    assert continuation.resume_from is None
    assert continuation.extra["continuation"]["from"] is None
    assert continuation.extra["continuation"]["why"] == "its checkpoint is gone"


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_an_end_beyond_the_whole_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"end 9 exceeds trainer.max_epochs 6"):
        fit(Net(), tmp_path, 9)


def test_a_training_counted_in_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"trainer.max_steps 10: parts of a training are counted in epochs"):
        fit(Net(), tmp_path, 2, max_steps=10)


def test_an_end_below_one_is_refused():
    with pytest.raises(ValueError, match="end: 0 is not at least 1"):
        Continuation(0)
