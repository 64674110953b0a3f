"""A network is compiled where that pays off, and computes the same."""

from __future__ import annotations

import pytest
import torch
from fast_examples import NOTHING, ImageNet, assert_equal_training, fit, images, trained
from torch import nn
from torch.utils.data import DataLoader

from lightning_evo.callbacks import CostMeter, FastTraining
from lightning_evo.callbacks.fast.choices import (
    Choice,
)
from lightning_evo.callbacks.fast.compilation import CompileTrial, compilable
from toys import ToyData, ToyNet


class Clock:
    """Seconds that pass only as a training says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Layer(nn.Linear):
    """A layer with code of its own: torch 2.6 doesn't compile torch's own classes in place."""

    def forward(self, x):
        return super().forward(x)


def run_trial(plain, compiled, compiling=5.0, remaining=10_000, epoch=1000, sizes=(), **arguments):
    """Train until a decision; what was decided, in which batches the network was compiled, and the trial."""
    clock, net = Clock(), Layer(2, 2)
    decide = arguments.pop("should_compile", FastTraining().should_compile)
    trial = CompileTrial({"net": net}, arguments.pop("backend", "eager"), decide, clock=clock, **arguments)
    choices, active, calls = [], [], 0
    for step in range(60):
        trial.enter(sizes[step] if step < len(sizes) else 4)
        active.append(net._compiled_call_impl is not None)
        net(torch.ones(4, 2))
        calls += active[-1]
        clock.now += (compiled if active[-1] else plain) + (compiling if calls == 1 and active[-1] else 0.0)
        choice = trial.step(remaining - step, last=step % epoch == epoch - 1)
        assert net._compiled_call_impl is None
        clock.now += 100 * (step % epoch == epoch - 1)  # validation
        choices += [choice] if choice else []
    return choices, active, trial


@pytest.mark.parametrize("epoch", [1000, 3])
def test_what_is_faster_compiled_stays_so(epoch):
    choices, active, _ = run_trial(plain=0.1, compiled=0.05, epoch=epoch)
    assert [choice.on for choice in choices] == [True]
    assert "100 ms a batch plain, 50 ms compiled; compiling took 4.95 s" in choices[0].why
    assert active[-1]


def test_what_is_no_faster_compiled_is_left_plain():
    choices, active, _ = run_trial(plain=0.1, compiled=0.0995)
    assert [choice.on for choice in choices] == [False]
    assert any(active)
    assert not active[-1]


def test_a_short_rest_of_the_run_is_not_worth_a_try():
    choices, active, _ = run_trial(plain=0.1, compiled=0.01, remaining=900)
    assert [choice.on for choice in choices] == [False]
    assert "too few for compiling to pay off" in choices[0].why
    assert not any(active)


def test_the_decision_can_be_another_ones():
    choices, _, _ = run_trial(plain=0.1, compiled=0.2, remaining=90, should_compile=lambda *_: True)
    assert [choice.on for choice in choices] == [True]


def test_a_batch_of_another_size_is_computed_plainly():
    sizes = [4] * 30 + [3] + [4] * 29
    _, active, _ = run_trial(plain=0.1, compiled=0.05, sizes=sizes)
    assert (active[29], active[30], active[31]) == (True, False, True)


def test_what_fails_to_compile_is_computed_plainly_and_said():
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    choices, active, _ = run_trial(plain=0.1, compiled=0.05, backend=backend)
    assert [choice.on for choice in choices] == [False]
    assert "net could not be compiled" in choices[0].why
    assert not active[-1]


def test_a_network_that_changed_is_timed_anew():
    _, _, trial = run_trial(plain=0.1, compiled=0.05)
    trial.begin()
    trial.enter(4)
    assert trial.parts["net"]._compiled_call_impl is None
    assert trial.step(10_000, last=False) is None


def test_the_parts_to_compile_are_those_that_are_called():
    module = nn.ModuleDict(
        {
            "blocks": nn.ModuleList([nn.Linear(1, 1), nn.ReLU()]),
            "done": torch.compile(nn.Linear(1, 1), backend="eager"),
            "net": nn.Sequential(nn.Linear(1, 1)),
        }
    )
    assert list(compilable(module)) == ["blocks.0", "net"]


def test_a_training_compiled_on_demand_computes_the_same():
    def make():
        return (DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4))

    fast = FastTraining(**NOTHING | {"compile": True}, compile_backend="eager")
    meter = CostMeter()
    runs = [trained(callback, make) for callback in (None, fast)]
    assert_equal_training(*runs)
    assert fast.choices["compile"] == Choice(True, "asked for", "eager")
    fit(ImageNet(), *make(), fast=meter)
    assert meter.cost["flops"] > 0


def test_the_clock_decides_nothing_where_the_trainer_is_deterministic():
    fast = FastTraining()
    try:
        fit(ToyNet(), ToyData(), fast=fast, deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert "deterministic" in fast.choices["compile"].why
