"""Optimizers in mid-training under other hyperparameters: the rate is the schedule's, whatever else there is stays."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, lr_scheduler

from lightning_evo.functional.optimizers import change_settings, optimizer_settings

warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim")

SCHEDULERS = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 3, 0.5),
    "multi step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 5, 9], 0.3),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=1e-3),
    "warm restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4, 2),
    "polynomial": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, 15, 2.0),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 6),
    "function": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "product": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, lambda step: 0.95),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.2, 5, cycle_momentum=True),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=20),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer, 0.1, 4), lr_scheduler.ExponentialLR(optimizer, 0.8)],
        milestones=[4],
    ),
    "chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.1, 4), lr_scheduler.ExponentialLR(optimizer, 0.8)], optimizer
    ),
}


def made(name, lr=0.1, decay=0.0, steps=0, **arguments):
    """An optimizer over two groups and its scheduler, trained for some steps."""
    torch.manual_seed(0)
    one, other = (torch.nn.Parameter(torch.randn(3)) for _ in range(2))
    optimizer = SGD(
        [{"params": [one], "weight_decay": decay}, {"params": [other]}], lr=lr, **{"momentum": 0.9, **arguments}
    )
    scheduler = SCHEDULERS[name](optimizer)
    start = optimizer_settings([optimizer], [scheduler])
    for _ in range(steps):
        for parameter in (one, other):
            parameter.grad = parameter.detach().clone()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler, start


def groups(optimizer):
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(SCHEDULERS)), st.integers(0, 15), st.floats(0.001, 1.0), st.integers(0, 4))
def test_a_changed_rate_is_what_the_schedule_gives_at_the_position_reached_and_after_it(name, steps, lr, more):
    optimizer, scheduler, before = made(name, steps=steps)
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    wanted, reference, now = made(name, lr=lr, steps=steps)
    change_settings([optimizer], [scheduler], before, now)
    assert groups(optimizer) == groups(wanted)
    for _ in range(more):
        scheduler.step()
        reference.step()
    assert groups(optimizer) == groups(wanted)
    assert repr(optimizer.state_dict()["state"]) == repr(moments)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_equal_settings_change_nothing(name):
    optimizer, scheduler, before = made(name, steps=7)
    kept = copy.deepcopy((groups(optimizer), scheduler.state_dict()))
    _, _, now = made(name)
    assert change_settings([optimizer], [scheduler], before, now) == []
    assert repr((groups(optimizer), scheduler.state_dict())) == repr(kept)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_weight_decay_alone_leaves_rate_and_schedule_as_they_are(name):
    optimizer, scheduler, before = made(name, steps=7)
    for group in optimizer.param_groups:
        group["lr"] *= 0.7  # by hand, as users do
    kept = copy.deepcopy((groups(optimizer), scheduler.state_dict()))
    assert change_settings([optimizer], [scheduler], before, made(name, decay=0.3)[2]) == ["weight_decay"]
    kept[0][0]["weight_decay"] = 0.3
    assert repr((groups(optimizer), scheduler.state_dict())) == repr(kept)


def test_a_rate_changed_by_hand_keeps_its_ratio_where_there_is_no_schedule():
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = Adam([parameter], lr=0.1)
    before = optimizer_settings([optimizer], [])
    optimizer.param_groups[0]["lr"] = 0.05
    change_settings([optimizer], [], before, optimizer_settings([Adam([parameter], lr=0.3, betas=(0.8, 0.9))], []))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.15)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def test_a_rate_that_is_a_tensor_is_compared_by_its_value():
    parameter = torch.nn.Parameter(torch.zeros(2))

    def settings_of(lr):
        return optimizer_settings([Adam([parameter], lr=torch.tensor(lr))], [])

    optimizer = Adam([parameter], lr=torch.tensor(0.1))
    assert change_settings([optimizer], [], settings_of(0.1), settings_of(0.1)) == []
    assert change_settings([optimizer], [], settings_of(0.1), settings_of(0.2)) == ["lr"]
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.2)


def test_a_plateau_keeps_its_history_and_takes_on_its_new_hyperparameters():
    parameter = torch.nn.Parameter(torch.zeros(2))

    def made_plateau(lr, factor, patience):
        optimizer = SGD([parameter], lr=lr)
        return optimizer, lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience)

    optimizer, scheduler = made_plateau(0.1, 0.5, 1)
    before = optimizer_settings([optimizer], [scheduler])
    for loss in (1.0, 1.0, 1.0, 1.0):
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == 0.05
    bad = scheduler.num_bad_epochs
    other = made_plateau(0.2, 0.1, 3)
    change_settings([optimizer], [scheduler], before, optimizer_settings([other[0]], [other[1]]))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    assert (scheduler.factor, scheduler.patience, scheduler.num_bad_epochs, scheduler.best) == (0.1, 3, bad, 1.0)


@pytest.mark.parametrize("schedulers", [0, 2])
def test_another_number_of_schedulers_is_refused(schedulers):
    optimizer, scheduler, before = made("step")
    with pytest.raises(
        ValueError, match=r"was SGD \(2 parameter groups\), StepLR and is SGD .* now: a training can't go on"
    ):
        change_settings([optimizer], [scheduler], before, optimizer_settings([optimizer], [scheduler] * schedulers))


def test_another_class_of_optimizer_is_refused():
    parameter = torch.nn.Parameter(torch.zeros(2))
    sgd, adam = SGD([parameter], lr=0.1), Adam([parameter], lr=0.1)
    with pytest.raises(ValueError, match=r"was SGD \(1 parameter groups\) and is Adam"):
        change_settings([adam], [], optimizer_settings([sgd], []), optimizer_settings([adam], []))
