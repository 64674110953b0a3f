"""What can't be computed for all particles at once is named, and falls back to a loop."""

import copy
import math
import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from swarms_nets import Net, batches, copies, difference, modules, trained_alone, trainer
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_evo import ParticleStack
from lightning_evo.swarms import SwarmError
from lightning_evo.swarms.stack.compatibility import same


class ReadsRate(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + self.lr)


class ReadsHparams(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + self.hparams.lr)


class ReadsHparamsByGet(Net):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * (1 + self.hparams.get("lr"))


class ReadsItem(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * (2 if loss.item() > 1 else 1)


class ReadsArray(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float(np.tanh(loss.detach().numpy()))


class Branches(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * 2 if loss > 1 else loss


class Keeps(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.kept = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.kept.append(loss.detach())
        return loss


class Replaces(Net):
    """What it keeps in a set changes, the set's size doesn't."""

    def __init__(self, **options):
        super().__init__(**options)
        self.batches = {-1}

    def training_step(self, batch, batch_idx):
        self.batches.clear()
        self.batches.add(batch_idx)
        return super().training_step(batch, batch_idx)


class Writes(Net):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.last = loss.detach()
        return loss


class ReadsMetric(Net):
    def __init__(self, **options):
        super().__init__(**options)
        self.accuracy = MulticlassAccuracy(3)

    def training_step(self, batch, batch_idx):
        scores = self(batch[0])
        return F.cross_entropy(scores, batch[1]) * (2 - self.accuracy(scores, batch[1]))


class ComputesMetric(ReadsMetric):
    def training_step(self, batch, batch_idx):
        self.accuracy.update(self(batch[0]), batch[1])
        return F.cross_entropy(self(batch[0]), batch[1]) * self.accuracy.compute()


CASES = {
    ReadsRate: r"self\.lr is read in the step and differs between particles \(0\.1 in particle 0, 0\.05 in 1\)",
    ReadsHparams: r"self\.hparams\.lr is read in the step",
    ReadsHparamsByGet: r"self\.hparams\.lr is read in the step",
    ReadsItem: r"training_step: it reads the number in a tensor",
    ReadsArray: r"training_step: it makes a NumPy array of a tensor",
    Branches: r"training_step: it branches on the value of a tensor",
    Keeps: r"the step keeps values in self\.kept",
    Replaces: r"the step keeps values in self\.batches",
    Writes: r"the step keeps values in self\.last",
    ReadsMetric: r"the value of metric self\.accuracy is read in the step",
    ComputesMetric: r"the value of metric self\.accuracy is read in the step",
}


@pytest.mark.parametrize(("kind", "reason"), CASES.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_a_step_that_vmap_cant_take_runs_in_a_loop_and_says_why(kind, reason):
    made = modules(2, kind=kind)
    alone = copies(made)
    stack = ParticleStack(made)
    trainer(max_epochs=1).fit(stack, batches(), batches(40))
    assert stack.lowering == "loop"
    assert re.search(reason, stack.reason), stack.reason
    for index, module in enumerate(alone):
        trained_alone(module, batches(), batches(40), max_epochs=1)
        assert difference(module, stack.particle(index)) < 1e-5
    if kind is Keeps:
        assert [len(particle.kept) for particle in stack.particles] == [10, 10]


@pytest.mark.parametrize(("kind", "reason"), CASES.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_where_a_stack_is_asked_for_the_reason_is_an_error(kind, reason):
    stack = ParticleStack(modules(2, kind=kind), lowering="stack")
    with pytest.raises(SwarmError, match=reason):
        trainer(max_epochs=1).fit(stack, batches())
    assert not hasattr(stack.particles[0], "last"), "nothing of the attempt remains"


def test_a_dropout_that_differs_between_particles_is_noticed():
    made = modules(2)
    made[1].net[5].p = 0.3
    stack = ParticleStack(made)
    trainer(max_epochs=1).fit(stack, batches())
    assert stack.lowering == "loop"
    assert (
        "self.net.5.p is read in the step and differs between particles (0.0 in particle 0, 0.3 in 1)" in stack.reason
    )


def test_a_mode_that_differs_between_particles_is_noticed():
    made = modules(2)
    made[1].net[1].eval()
    stack = ParticleStack(made)
    trainer(max_epochs=1).fit(stack, batches())
    assert stack.lowering == "loop"
    assert "self.net.1.training is read in the step" in stack.reason
    assert [particle.net[1].num_batches_tracked.item() for particle in stack.particles] == [10, 0]


def test_a_rate_that_only_the_optimizer_reads_may_differ():
    stack = ParticleStack(modules(2), lowering="stack")
    trainer(max_epochs=1).fit(stack, batches())
    rates = [group["lr"] for group in stack.trainer.optimizers[0].param_groups]
    assert rates == [0.1, 0.05]


def test_a_compiled_particle_is_no_template():
    class Compiled(Net):
        def configure_model(self):
            if self.net._compiled_call_impl is None:
                self.net.compile(backend="eager")

    stack = ParticleStack(modules(2, kind=Compiled))
    trainer(max_epochs=1, limit_train_batches=2).fit(stack, batches())
    assert stack.lowering == "loop"
    assert "the module is compiled" in stack.reason


def test_a_wrong_step_shows_its_own_error():
    class Wrong(Net):
        def training_step(self, batch, batch_idx):
            raise KeyError("my own mistake")

    with pytest.raises(KeyError, match="my own mistake"):
        trainer().fit(ParticleStack(modules(2, kind=Wrong)), batches())

    class Lossless(Net):
        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(SwarmError, match="returned no loss"):
        trainer().fit(ParticleStack(modules(2, kind=Lossless)), batches())


def test_only_the_step_that_vmap_cant_take_is_looped():
    class Judging(Net):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("item", self(batch[0]).mean().item())

    made = modules(2, kind=Judging)
    alone = copies(made)
    stack = ParticleStack(made)
    stack._choice.chosen = "stack"
    trainer(max_epochs=1).fit(stack, batches(), batches(40))
    assert stack.lowering == "stack"
    assert "validation_step in a loop" in stack.reason
    for index, module in enumerate(alone):
        _, metrics = trained_alone(module, batches(), batches(40), max_epochs=1)
        assert stack.metrics[index]["item"] == pytest.approx(metrics["item"], abs=1e-5)


def test_buffers_that_a_step_assigns_are_each_particles_own():
    class Averaging(Net):
        def __init__(self, **options):
            super().__init__(**options)
            self.register_buffer("mean_loss", torch.zeros(()))
            self.register_buffer("shown", torch.zeros(()), persistent=False)

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.mean_loss = 0.9 * self.mean_loss + 0.1 * loss.detach()
            self.shown.copy_(loss.detach())
            return loss

    made = modules(2, kind=Averaging)
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    trainer(max_epochs=1).fit(stack, batches())
    assert not any("shown" in name for name in stack.state_dict())
    for index, module in enumerate(alone):
        trained_alone(module, batches(), max_epochs=1)
        assert stack.particles[index].mean_loss.item() == pytest.approx(module.mean_loss.item(), abs=1e-5)
        assert stack.particles[index].shown.item() == pytest.approx(module.shown.item(), abs=1e-5)


def test_shared_parameters_stay_shared():
    class Tied(Net):
        def __init__(self, **options):
            super().__init__(**options)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 3))
            self.net[3].weight = self.net[1].weight

    made = modules(2, kind=Tied)
    alone = copies(made)
    stack = ParticleStack(made, lowering="stack")
    trainer(max_epochs=1).fit(stack, batches())
    for index, module in enumerate(alone):
        assert stack.particles[index].net[3].weight is stack.particles[index].net[1].weight
        trained_alone(module, batches(), max_epochs=1)
        assert difference(module, stack.particle(index)) < 1e-5


@pytest.mark.parametrize("lowering", ["stack", "loop"])
def test_frozen_parts_stay_frozen_until_a_particle_unfreezes_them(lowering):
    class Thawing(Net):
        def __init__(self, **options):
            super().__init__(**options)
            self.net[0].weight.requires_grad_(False)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[0].weight.requires_grad_(True)

    made = modules(2, kind=Thawing, norm=False)
    alone = copies(made)
    start = copy.deepcopy(made[0].net[0].weight)
    stack = ParticleStack(made, lowering=lowering)
    trainer(max_epochs=1).fit(stack, batches())
    assert torch.equal(stack.particles[0].net[0].weight, start)
    trainer(max_epochs=2).fit(stack, batches())
    assert not torch.equal(stack.particles[0].net[0].weight, start)
    for index, module in enumerate(alone):
        trained_alone(module, batches(), max_epochs=1)
        trained_alone(module, batches(), max_epochs=2)
        assert difference(module, stack.particle(index)) < 1e-5


class NoAnswer:
    """Can't say whether it equals another."""

    def __eq__(self, other):
        raise TypeError("no")

    __hash__ = None


class Slotted:
    """Keeps its value where ``vars`` doesn't look."""

    __slots__ = ("__dict__", "value")

    def __init__(self, value):
        self.value = value


def scaling(factor):
    return lambda x, factor=factor: x * factor


def cellless():
    """A function that reads a variable which nobody has set."""

    def read():
        return later

    if read is None:
        later = 1
    return read


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (np.array(["a", "bc"]), np.array(["a", "bc"]), True),
        (np.array(["a", "bc"]), np.array(["a", "xy"]), False),
        (np.array(["a"]), np.array(["abc"]), False),
        (np.array([None, "a", np.nan], dtype=object), np.array([None, "a", np.nan], dtype=object), True),
        (np.array([torch.ones(2), None], dtype=object), np.array([torch.zeros(2), None], dtype=object), False),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), np.array(["2026-01-01"], dtype="datetime64[D]"), True),
        (np.array([(1, "x")], dtype="i4,U1"), np.array([(1, "x")], dtype="i4,U1"), True),
        (np.array([np.nan, 1.0]), np.array([np.nan, 1.0]), True),
        ({"a": [torch.ones(2), None]}, {"a": [torch.ones(2), None]}, True),
        (NoAnswer(), NoAnswer(), False),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 9], mask=[0, 1]), True),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[0, 0]), False),
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 1.0]), True),
        (torch.ones(2).to_sparse(), torch.ones(2).to_sparse(), True),
        (torch.ones(2).to_sparse(), torch.zeros(2).to_sparse(), False),
        (torch.ones(2, device="meta"), torch.ones(2, device="meta"), False),
        (partial(pow, 2), partial(pow, 2), True),
        (partial(pow, 2), partial(pow, 3), False),
        (scaling(2), scaling(2), True),
        (scaling(2), scaling(3), False),
        (*(cellless() for _ in range(2)), False),
        (Slotted(1), Slotted(1), True),
        (Slotted(1), Slotted(2), False),
    ],
)
def test_attributes_of_any_kind_are_compared(one, other, equal):
    assert same(one, other) is equal
