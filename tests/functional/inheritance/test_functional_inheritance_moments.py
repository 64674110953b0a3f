"""What a child's optimizer starts from, against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_evo.functional import inherit, inherit_optimizer


def mlp(width, depth=1, classes=2):
    layers = []
    for at in range(depth):
        layers += [nn.Linear(3 if at == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def trained(net, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
    return optimizer


OPTIMIZERS = {
    "SGD": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), ["momentum_buffer"]),
    "Adam": (lambda parameters: torch.optim.Adam(parameters, lr=1e-3), ["exp_avg", "exp_avg_sq"]),
    "AdamW": (
        lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, amsgrad=True),
        ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    ),
    "RMSprop": (
        lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.5),
        ["square_avg", "momentum_buffer"],
    ),
}


def pair(make, child, parent):
    theirs = trained(parent, make(parent.parameters()))
    own = make(child.parameters())
    kept = inherit_optimizer(own, child, inherit(child, parent), theirs.state_dict(), parent.state_dict())
    return own, theirs, kept


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_of_copied_weights_are_kept_and_those_of_new_slices_are_zero(name):
    make, moments = OPTIMIZERS[name]
    parent, child = mlp(4), mlp(6)
    own, theirs, kept = pair(make, child, parent)
    assert kept == ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
    for moment in moments:
        first, old = own.state[child[0].weight][moment], theirs.state[parent[0].weight][moment]
        assert torch.equal(first[:4], old)
        assert (first[4:] == 0).all()
        last, old = own.state[child[3].weight][moment], theirs.state[parent[3].weight][moment]
        assert torch.equal(last[:, :4], old)
        assert (last[:, 4:] == 0).all()
        assert torch.equal(own.state[child[3].bias][moment], theirs.state[parent[3].bias][moment])
        assert own.state[child[3].bias][moment].data_ptr() != theirs.state[parent[3].bias][moment].data_ptr()
    if name != "SGD":
        assert own.state[child[0].weight]["step"] == 3
    trained(child, own)  # it goes on


def test_new_layers_have_no_state_and_the_names_that_shift_are_followed():
    make, _ = OPTIMIZERS["Adam"]
    parent, child = mlp(4), mlp(4, depth=2)
    own, theirs, kept = pair(make, child, parent)
    assert kept == ("0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias")
    assert torch.equal(own.state[child[6].weight]["exp_avg"], theirs.state[parent[3].weight]["exp_avg"])
    assert not own.state[child[3].weight]
    trained(child, own)


def test_copies_of_units_begin_without_moments():
    make, _ = OPTIMIZERS["Adam"]
    parent, child = mlp(4), mlp(8)
    theirs = trained(parent, make(parent.parameters()))
    own, state = make(child.parameters()), parent.state_dict()
    inherit_optimizer(own, child, inherit(child, parent, new_units="net2wider"), theirs.state_dict(), state)
    moment = own.state[child[0].weight]["exp_avg"]
    assert torch.equal(moment[:4], theirs.state[parent[0].weight]["exp_avg"])
    assert (moment[4:] == 0).all()


def test_a_fresh_head_has_no_state():
    make, _ = OPTIMIZERS["SGD"]
    child = mlp(4, classes=5)
    own, _, kept = pair(make, child, mlp(4))
    assert kept == ("0.weight", "0.bias", "1.weight", "1.bias")
    assert not own.state[child[3].weight]


def test_the_childs_own_settings_stay():
    parent, child = mlp(4), mlp(4)
    theirs = trained(parent, torch.optim.SGD(parent.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
    own = torch.optim.SGD(child.parameters(), lr=0.5, momentum=0.3)
    inherit_optimizer(own, child, inherit(child, parent), theirs.state_dict(), parent.state_dict())
    group = own.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.3, 0)


@pytest.mark.parametrize("named", [True, False])
def test_parameter_groups_in_another_order_are_told_apart(named):
    def optimizer(net):
        entries = list(net.named_parameters()) if named else [(None, p) for p in net.parameters()]
        parts = [[e for e in entries if (e[1].ndim > 1) == weights] for weights in (True, False)]
        groups = [
            {"params": part if named else [p for _, p in part], "weight_decay": 0.1 * at}
            for at, part in enumerate(parts)
        ]
        return torch.optim.Adam(groups, lr=1e-3)

    parent, child = mlp(4), mlp(6, depth=2)
    theirs, own = trained(parent, optimizer(parent)), optimizer(child)
    kept = inherit_optimizer(own, child, inherit(child, parent), theirs.state_dict(), parent.state_dict())
    assert set(kept) == {"0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"}
    assert torch.equal(own.state[child[6].bias]["exp_avg"], theirs.state[parent[3].bias]["exp_avg"])
    assert torch.equal(own.state[child[1].weight]["exp_avg"][:4], theirs.state[parent[1].weight]["exp_avg"])


def test_an_optimizer_that_keeps_nothing_inherits_nothing():
    child = mlp(4)
    own, _, kept = pair(lambda parameters: torch.optim.SGD(parameters, lr=0.1), child, mlp(4))
    assert kept == ()
    assert not own.state


def test_another_kind_of_optimizer_is_refused_and_left_as_it_was():
    parent, child = mlp(4), mlp(4)
    theirs = trained(parent, torch.optim.SGD(parent.parameters(), lr=0.1, momentum=0.9))
    own = torch.optim.Adam(child.parameters())
    with pytest.raises(
        ValueError, match="Adam keeps exp_avg, exp_avg_sq, step; the parent's optimizer kept momentum_buf"
    ):
        inherit_optimizer(own, child, inherit(child, parent), theirs.state_dict(), parent.state_dict())
    assert not own.state


def test_an_optimizer_of_other_parameters_is_refused():
    parent, child = mlp(4), mlp(4)
    part = trained(parent, torch.optim.Adam(parent[3].parameters()))
    own = torch.optim.Adam(child.parameters())
    with pytest.raises(
        ValueError, match="the 2 parameters of the parent's optimizer can't be identified among its 9 tensors"
    ):
        inherit_optimizer(own, child, inherit(child, parent), part.state_dict(), parent.state_dict())


def test_a_scheduler_does_not_count_a_step_that_was_never_taken():
    parent, child = mlp(4), mlp(4)
    theirs = trained(parent, torch.optim.Adam(parent.parameters()))
    own = torch.optim.Adam(child.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(own, 1)
    steps = []
    own.register_step_post_hook(lambda *_: steps.append(1))
    inherit_optimizer(own, child, inherit(child, parent), theirs.state_dict(), parent.state_dict())
    assert steps == []
    assert own.param_groups[0]["lr"] == 1.0
    assert schedule.last_epoch == 0
