"""Optimizers follow a network that grows: what stays is stepped as if nothing had happened, what is new joins in."""

from __future__ import annotations

import copy

import pytest
import torch
from comparing import same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from lightning_evo.functional.growth.optimizers import (
    NewGroup,
    extend_scheduler,
    grow_optimizer,
    grow_optimizers,
    why_not_extendable,
    why_not_growable,
)
from lightning_evo.functional.growth.steps import Added, Growth, GrowthError, GrowthStep, Moved
from lightning_evo.functional.inheritance.placement import TensorMap

ELEMENTWISE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.9, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
}


class Pair(nn.Module):
    """Two layers of equal weights, the second of which can be replaced by a wider one."""

    def __init__(self, width=3):
        super().__init__()
        self.first, self.second = nn.Linear(2, width, bias=False), nn.Linear(2, width, bias=False)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight)


def train(optimizer, steps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
        optimizer.step()
    optimizer.zero_grad()


def widen(module, name="second", rows=(0, 1, 2, -1), columns=(0, 1)):
    """Have a layer of a module replaced by one whose rows and columns are those of the old one, or new (-1)."""
    layer = module.get_submodule(name)
    old, plan = layer.weight, TensorMap(torch.tensor(rows), torch.tensor([columns]))
    before = sum(p.numel() for p in module.parameters())
    fresh = torch.randn(len(rows), len(columns), generator=torch.Generator().manual_seed(1)).to(old)
    layer.weight = nn.Parameter(plan.weights(old, fresh))
    after = sum(p.numel() for p in module.parameters())
    moved = Moved(f"{name}.weight", old, layer.weight, plan)
    return Growth(GrowthStep("widen", name), before, after, moved=(moved,))


def add(module, name="third", beside="second", shape=(2, 2)):
    """Have a module given one more layer."""
    before = sum(p.numel() for p in module.parameters())
    new = nn.Linear(shape[1], shape[0], bias=False)
    module.add_module(name, new)
    added = Added(f"{name}.weight", new.weight, beside and module.get_submodule(beside).weight)
    return Growth(GrowthStep("insert", "second"), before, before + new.weight.numel(), added=(added,))


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict()), [[id(p) for p in group["params"]] for group in optimizer.param_groups]


# -- what stays --------------------------------------------------------------------------------------------------------


def test_a_parameter_is_followed_by_identity_even_where_another_is_equal():
    module = Pair()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    first, second = module.first.weight, module.second.weight
    assert torch.equal(first, second)
    grow_optimizer(sgd, widen(module))
    assert [id(p) for p in sgd.param_groups[0]["params"]] == [id(first), id(module.second.weight)]


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_old_weights_are_stepped_as_if_nothing_had_happened(kind):
    module = Pair()
    optimizer = ELEMENTWISE[kind](module.parameters())
    train(optimizer)
    unchanged = copy.deepcopy((module, optimizer.state_dict()))
    alone = ELEMENTWISE[kind](unchanged[0].parameters())
    alone.load_state_dict(unchanged[1])
    grow_optimizer(optimizer, widen(module, rows=(2, 0, -1, 1)))
    for step in range(3):
        gradient = torch.randn(3, 2, generator=torch.Generator().manual_seed(step))
        unchanged[0].second.weight.grad = gradient.clone()
        module.second.weight.grad = torch.cat([gradient[[2, 0]], torch.ones(1, 2), gradient[[1]]])
        alone.step()
        optimizer.step()
    assert torch.allclose(module.second.weight[[1, 3, 0]], unchanged[0].second.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["adam", "amsgrad", "nadam", "rmsprop", "adadelta", "adamax", "fused"])
def test_new_weights_take_steps_no_larger_than_old_ones(kind):
    module = Pair()
    optimizer = ELEMENTWISE[kind](module.parameters())
    train(optimizer, steps=200)
    grow_optimizer(optimizer, widen(module))
    largest = {"old": 0.0, "new": 0.0}
    for step in range(30):
        before = module.second.weight.detach().clone()
        gradient = torch.randn(2, generator=torch.Generator().manual_seed(step))
        module.second.weight.grad = gradient.expand(4, 2).clone()
        optimizer.step()
        change = (module.second.weight.detach() - before).abs()
        largest = {
            "old": max(largest["old"], float(change[:3].max())),
            "new": max(largest["new"], float(change[3].max())),
        }
    assert largest["new"] < 1.5 * largest["old"]


@given(
    st.lists(st.sampled_from([-1, 0, 1, 2, 3]), min_size=1, max_size=8),
    st.lists(st.integers(-1, 1), min_size=1, max_size=4),
)
def test_moments_follow_any_map_and_are_zero_elsewhere(rows, columns):
    if max(rows) < 0 or max(columns) < 0:
        return
    module = Pair(width=4)
    sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    train(sgd)
    before = sgd.state[module.second.weight]["momentum_buffer"]
    grow_optimizer(sgd, widen(module, rows=rows, columns=columns))
    after = sgd.state[module.second.weight]["momentum_buffer"]
    assert after.shape == (len(rows), len(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            old = row >= 0 and column >= 0 and row not in rows[:i] and column not in columns[:j]
            assert float(after[i, j]) == (float(before[row, column]) if old else 0.0)


def test_counts_and_flags_stay_and_so_does_the_state_of_others():
    module = Pair()
    adam = torch.optim.Adam(module.parameters(), lr=0.1, capturable=False, foreach=True)
    train(adam, steps=5)
    others = copy.deepcopy(adam.state[module.first.weight])
    grow_optimizer(adam, widen(module))
    assert float(adam.state[module.second.weight]["step"]) == 5
    assert same(dict(adam.state[module.first.weight]), dict(others))
    assert adam.param_groups[0]["foreach"] is True
    assert len(adam.state) == 2
    train(adam)


def test_a_gradient_that_has_not_been_stepped_with_goes_along():
    module = Pair()
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    module.second.weight.grad = torch.arange(6.0).reshape(3, 2)
    grow_optimizer(sgd, widen(module))
    assert torch.equal(module.second.weight.grad, torch.tensor([[0.0, 1], [2, 3], [4, 5], [0, 0]]))


def test_a_tensor_of_rows_and_columns_follows_too():
    module = Pair()
    adafactor = torch.optim.Adafactor(module.parameters(), lr=0.1)
    train(adafactor)
    before = copy.deepcopy(adafactor.state[module.second.weight])
    grow_optimizer(adafactor, widen(module, rows=(1, 0, -1, 2), columns=(0, 1, -1)))
    after = adafactor.state[module.second.weight]
    assert torch.allclose(after["row_var"][[1, 0, 3]], before["row_var"])
    assert torch.allclose(after["col_var"][:, :2], before["col_var"])
    assert torch.allclose(after["row_var"][2], before["row_var"].mean())
    train(adafactor)


def test_names_of_parameters_stay_beside_them():
    module = Pair()
    sgd = torch.optim.SGD(module.named_parameters(), lr=0.1)
    growth = widen(module)
    more = add(module)
    renamed = Growth(growth.step, 0, 1, growth.moved, more.added, renamed={"first.weight": "first.base.weight"})
    grow_optimizer(sgd, renamed)
    assert sgd.param_groups[0]["param_names"] == ["first.base.weight", "second.weight", "third.weight"]
    assert len(sgd.param_groups[0]["params"]) == 3


# -- what is new, and what is gone -------------------------------------------------------------------------------------


def test_a_new_parameter_joins_its_neighbours_group_at_its_end():
    module = Pair()
    groups = [{"params": [module.first.weight], "lr": 0.5}, {"params": [module.second.weight], "lr": 0.1}]
    sgd = torch.optim.SGD(groups, momentum=0.9)
    assert grow_optimizer(sgd, add(module, beside="first")) == ("third.weight",)
    assert [len(group["params"]) for group in sgd.param_groups] == [2, 1]
    assert sgd.param_groups[0]["params"][1] is module.third.weight
    before = module.third.weight.detach().clone()
    train(sgd, steps=1)
    assert not torch.equal(module.third.weight, before)


def test_a_neighbour_that_has_itself_just_moved_is_found():
    module = Pair()
    sgd = torch.optim.SGD([{"params": [module.first.weight]}, {"params": [module.second.weight]}], lr=0.1)
    growth, more = widen(module), add(module)
    grow_optimizer(sgd, Growth(growth.step, 0, 1, growth.moved, more.added))
    assert [len(group["params"]) for group in sgd.param_groups] == [1, 2]


def test_another_rate_puts_new_parameters_of_all_steps_in_one_more_group():
    module = Pair()
    groups = [{"params": [module.first.weight], "lr": 0.4}, {"params": [module.second.weight], "lr": 0.2}]
    sgd = torch.optim.SGD(groups, momentum=0.9)
    assert grow_optimizers([sgd], add(module), module, rate=0.5) == (NewGroup(0, 1),)
    assert grow_optimizers([sgd], add(module, "fourth", beside="third"), module, rate=0.5) == ()
    assert grow_optimizers([sgd], add(module, "fifth", beside="first"), module, rate=0.5) == (NewGroup(0, 0),)
    assert [len(group["params"]) for group in sgd.param_groups] == [1, 1, 2, 1]
    assert [group["lr"] for group in sgd.param_groups] == [0.4, 0.2, 0.1, 0.2]
    assert sgd.param_groups[2]["momentum"] == 0.9
    train(sgd)


def test_what_is_gone_leaves_group_and_state():
    module = Pair()
    adam = torch.optim.Adam(module.named_parameters())
    train(adam)
    gone = module.first.weight
    grow_optimizer(adam, Growth(GrowthStep("prune", "first"), 12, 6, removed=(gone,)))
    assert gone not in adam.state
    assert adam.param_groups[0]["param_names"] == ["second.weight"]
    train(adam)


def test_of_several_optimizers_the_neighbours_gets_the_new_parameter():
    module = Pair()
    one, other = torch.optim.SGD([module.first.weight], lr=0.1), torch.optim.Adam([module.second.weight])
    grow_optimizers([one, other], add(module), module)
    assert [len(o.param_groups[0]["params"]) for o in (one, other)] == [1, 2]


@pytest.mark.parametrize("beside", [None, "second"])
def test_without_a_neighbour_in_an_optimizer_the_nearest_parameter_decides(beside):
    module = Pair()
    module.second.weight.requires_grad_(False)
    sgd = torch.optim.SGD([module.first.weight], lr=0.1)
    grow_optimizers([sgd], add(module, beside=beside), module)
    assert sgd.param_groups[0]["params"][1] is module.third.weight


def test_frozen_weights_that_no_optimizer_holds_stay_with_none():
    module = Pair()
    module.second.weight.requires_grad_(False)
    sgd = torch.optim.SGD([module.first.weight], lr=0.1)
    growth, more = widen(module), add(module)
    module.third.weight.requires_grad_(False)
    grow_optimizers([sgd], Growth(growth.step, 0, 1, growth.moved, more.added), module)
    assert len(sgd.param_groups[0]["params"]) == 1


def test_a_parameter_that_no_optimizer_could_train_is_refused():
    module = Pair()
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(GrowthError, match=r"third\.weight: no optimizer holds any parameter of the network"):
        grow_optimizers([sgd], add(module), module)


# -- what is refused ---------------------------------------------------------------------------------------------------


class Blockwise(torch.optim.SGD):
    """Keeps something per block of weights."""

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["block"] = torch.zeros(5)


def test_a_state_whose_shape_is_not_understood_is_refused_before_anything_changes():
    module = Pair()
    optimizer = Blockwise(module.parameters(), lr=0.1)
    optimizer.step()
    before = snapshot(optimizer)
    growth, more = widen(module), add(module)
    message = r"Blockwise keeps block of second.weight in the shape \(5,\), where the parameter has \(3, 2\)"
    with pytest.raises(GrowthError, match=message):
        grow_optimizers([optimizer], Growth(growth.step, 0, 1, growth.moved, more.added), module)
    assert same(snapshot(optimizer), before)


class Around(torch.optim.SGD):
    """Has another optimizer do the work."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.inner = torch.optim.Adam(self.param_groups)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS keeps its parameters outside its parameter groups, in _params"),
        (lambda p: Around(p), "Around holds another optimizer, in inner"),
        (lambda p: object(), "object is no torch.optim.Optimizer"),
    ],
)
def test_optimizers_that_cannot_be_extended_are_named(make, reason):
    assert why_not_growable(make(list(Pair().parameters()))).startswith(reason)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_follows_matrices_and_refuses_the_rest():
    module = Pair()
    muon = torch.optim.Muon(module.parameters(), lr=0.1)
    train(muon)
    grow_optimizer(muon, widen(module))
    train(muon)
    bias = nn.Parameter(torch.zeros(2))
    growth = Growth(GrowthStep("insert", "second"), 0, 1, added=(Added("bias", bias, module.second.weight),))
    with pytest.raises(GrowthError, match="Muon trains matrices only"):
        grow_optimizer(muon, growth)


# -- schedules ---------------------------------------------------------------------------------------------------------

SCHEDULES = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "step": lambda o: lr_scheduler.StepLR(o, 3),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [2, 7]),
    "constant": lambda o: lr_scheduler.ConstantLR(o, total_iters=6),
    "linear": lambda o: lr_scheduler.LinearLR(o, total_iters=8),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 12),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 3),
    "onecycle": lambda o: lr_scheduler.OneCycleLR(o, 0.4, 20),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], [6]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, total_iters=6), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, min_lr=1e-6),
}


def step(optimizer, scheduler):
    optimizer.step()
    scheduler.step(*[1.0] * isinstance(scheduler, lr_scheduler.ReduceLROnPlateau))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_new_group_follows_the_schedule_at_its_own_rate(kind):
    module = Pair()
    sgd = torch.optim.SGD(module.parameters(), lr=0.4, momentum=0.9)
    scheduler = SCHEDULES[kind](sgd)
    assert why_not_extendable(scheduler) == ""
    for _ in range(4):
        step(sgd, scheduler)
    for new in grow_optimizers([sgd], add(module), module, rate=0.5):
        extend_scheduler(scheduler, new.source, 0.5)
    reached = []
    for _ in range(8):
        step(sgd, scheduler)
        first, second = (group["lr"] for group in sgd.param_groups)
        assert second == pytest.approx(first * 0.5, rel=1e-6)
        assert len(scheduler.get_last_lr()) == 2
        reached.append(first)
    assert len(set(reached)) > 1 or kind in ("constant", "linear", "step", "multistep")
    copied = copy.deepcopy(scheduler.state_dict())
    scheduler.load_state_dict(copied)


class Own(lr_scheduler.LambdaLR):
    """A user's."""


def test_a_scheduler_of_the_users_own_is_taken_to_be_bound_to_its_groups():
    sgd = torch.optim.SGD(Pair().parameters(), lr=0.4)
    assert why_not_extendable(Own(sgd, lambda epoch: 1.0)).startswith("Own may be bound to the number")
    chained = lr_scheduler.ChainedScheduler([Own(sgd, lambda epoch: 1.0)])
    assert why_not_extendable(chained).startswith("Own may")
