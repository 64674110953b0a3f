"""What cannot grow is refused by name and reason; whatever goes wrong in the middle of a step leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from growth_nets import IMAGES, OPERATIONS, POINTS, Picture, cnn, mlp
from torch import Tensor, nn

from lightning_evo.functional.growth import (
    GrowthError,
    GrowthStep,
    NothingChanged,
    added_by,
    grow,
    growth_sites,
    plan_step,
    replay,
    resolve,
)
from lightning_evo.functional.growth.surgery import apply
from lightning_evo.functional.inheritance.inheritance import Inheritance


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Loop(nn.Module):
    """No graph of it can be made, since it asks how large its values are."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.body = nn.Linear(4, 4), mlp()

    def forward(self, values: Tensor) -> Tensor:
        while values.norm() > 1e9:
            values = self.cell(values)
        return self.body(self.cell(values))


class Reshaped(nn.Module):
    """Sizes that are written into its code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4 * 36, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).view(-1, 2, 2, 36).flatten(1))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    return net


def with_first(change: Callable[[nn.Module], Any]) -> nn.Module:
    net = mlp()
    change(net[0])
    return net


@pytest.mark.parametrize(
    ("make", "operation", "layer", "reason"),
    [
        (mlp, "widen", "7", r"layer: there is no '7'$"),
        (lambda: nn.ModuleDict({"body": mlp()}), "widen", "bodi.0", r"there is no 'bodi\.0'; did you mean body\.0 or "),
        (mlp, "widen", 0, r"layer: 0 is not a name; names are strings"),
        (mlp, "grow", "0", r"operation: 'grow' is not one of insert, widen, residual, prune, kernel, activation"),
        (mlp, "widen", "1", r"1: widen isn't for a layer of type ReLU"),
        (mlp, "kernel", "0", r"0: kernel isn't for a layer of type Linear"),
        (mlp, "activation", "4", r"4: no activation stands behind it"),
        (mlp, "widen", "4", r"4: widen: its channels are outputs of the network$"),
        (mlp, "prune", "4", r"4: prune: its channels are outputs of the network$"),
        (tied, "widen", "0", r"0: widen: 0\.weight is tied to 2\.weight"),
        (tied, "prune", "2", r"2: prune: 2\.weight is tied to 0\.weight"),
        (Reshaped, "widen", "conv", r"conv: widen: view needs its channels as they were"),
        (Loop, "widen", "cell", r"cell: widen: what runs before and after it isn't known"),
        (Loop, "widen", "body.4", r"body\.4: widen: its channels are outputs of the network \(body\)"),
        (lambda: with_first(nn.utils.parametrizations.spectral_norm), "widen", "0", r"0: widen: its weight is parametrised"),
        (lambda: with_first(nn.utils.parametrizations.weight_norm), "insert", "0", r"0: insert: its weight is parametrised"),
        (lambda: with_first(lambda layer: layer.weight.register_hook(print)), "widen", "0", r"0\.weight has gradient hooks"),
        (lambda: nn.Sequential(nn.Embedding(3, 4, max_norm=1.0), nn.Linear(4, 2)), "widen", "0", "bounds the norm of its"),
        (lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8)), "prune", "0.linear1", r"0 \(Transformer.*\) computes"),
    ],
)  # fmt: skip
def test_what_cannot_grow_is_refused_by_name_and_reason(make, operation, layer, reason):
    net = make()
    picture = Picture(net)
    for act in (plan_step, lambda *args: resolve(args[0], {"operation": operation, "layer": layer})):
        with pytest.raises(GrowthError, match=reason):
            act(net, operation, layer)
    picture.check_same(net)


@pytest.mark.parametrize(
    ("operation", "requests", "reason"),
    [
        ("widen", {"settings": {"width": 8}}, r"0: width: 8 is not an integer above its present 8"),
        ("widen", {"settings": {"width": 12.0}}, r"0: width: 12\.0 is not an integer above"),
        ("widen", {"settings": {"widht": 12}}, r"0: widen: settings: 'widht' is not one of width"),
        ("widen", {"ratio": 1.0}, r"0: widen by a ratio of 1\.0, which is not above 1"),
        ("widen", {"ratio": float("inf")}, r"0: ratio: inf is not a number"),
        ("widen", {"ratio": "2"}, r"0: ratio: '2' is not a number"),
        ("widen", {"max_added": 24}, r"0: widening it by 1, the least possible, adds 75 parameters, and at most 24 are"),
        ("widen", {"settings": {"width": 9}, "max_added": 74}, r"0: 9 channels would add 75 parameters, and at most 74"),
        ("prune", {"ratio": 1}, r"0: prune to a share of 1, which is not between 0 and 1"),
        ("prune", {"settings": {"kept": [0, 0]}}, r"0: kept: \[0, 0\] are not some, and not all, of 0 to 7 in ascending"),
        ("prune", {"settings": {"kept": [8]}}, r"0: kept: \[8\] are not some, and not all, of 0 to 7"),
        ("prune", {"settings": {"width": "half"}}, r"0: width: 'half' is not a number"),
        ("kernel", {"settings": {"kernel": 3}}, r"0: its kernel is 3x3 already"),
        ("kernel", {"settings": {"kernel": 4}}, r"0: a kernel of 4x4 has no common centre with the present 3x3"),
        ("kernel", {"settings": {"kernel": "5"}}, r"0: kernel: '5' is not a size or 2 of them"),
        ("kernel", {"settings": {"size": 5}}, r"0: kernel: settings: 'size' is not one of kernel"),
        ("kernel", {"max_added": 255}, r"0: a kernel of 5x5 adds 256 parameters, and at most 255 are allowed"),
        ("activation", {"settings": {"activation": "Mish"}}, r"2: activation: 'Mish' is not one of ReLU, LeakyReLU, PReLU"),
        ("activation", {"settings": {"activation": "ReLU"}}, r"2: it is ReLU already"),
    ],
)  # fmt: skip
def test_settings_out_of_range_say_what_is_accepted(operation, requests, reason):
    with pytest.raises(GrowthError, match=reason):
        plan_step(cnn(), operation, "0", **requests)


def test_max_added_makes_a_step_as_large_as_it_may_be():
    for allowed, width in ((75, 9), (149, 9), (150, 10), (10_000, 12)):
        assert plan_step(cnn(), "widen", "0", max_added=allowed).settings == {"width": width}


@pytest.mark.parametrize(
    ("net", "layer", "multiple"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)), "0", 6),  # copies of all
        (cnn(nn.GroupNorm(2, 8)), "0", 4),  # one more group
        (cnn(nn.GroupNorm(1, 8)), "0", 8),
        (cnn(groups=2), "0", 2),
        (cnn(groups=2), "3", 2),
        (cnn(nn.GroupNorm(2, 8), groups=2), "0", 8),
    ],
)
def test_groups_and_normalisations_admit_only_multiples(net, layer, multiple):
    width = growth_sites(net)[layer].width
    inputs = (POINTS if isinstance(net[0], nn.Linear) else IMAGES,)
    for more in range(1, 2 * multiple + 1):
        step = GrowthStep("widen", layer, {"width": width + more})
        if more % multiple:
            with pytest.raises(
                GrowthError, match=f"{layer}: width: {width + more} is not {width} and a multiple of {multiple}"
            ):
                added_by(net, step)
        else:
            grow(copy.deepcopy(net), step, sample=inputs)
    assert plan_step(net, "widen", layer, ratio=1.01).settings["width"] == width + multiple


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "a step needs an operation and either a layer or a place"),
        ("widen", "a step needs an operation .*; got 'widen'"),
        ({"operation": "widen"}, "either a layer or a place"),
        ({"operation": "widen", "layer": "0", "place": 0.5}, "either a layer or a place"),
        ({"operation": "widen", "layer": "0", "size": 3}, "may have a ratio and settings; got .*'size': 3"),
        ({"operation": "widen", "place": 1.5}, r"place: 1\.5 is not from 0 to 1"),
        ({"operation": "widen", "place": "last"}, "place: 'last' is not a number"),
        ({"operation": "grow", "place": 0.5}, "operation: 'grow' is not one of insert"),
        ({"operation": "kernel", "place": 0.5}, "kernel: no layer offers it"),
        ({"operation": "widen", "place": 0.5, "settings": [12]}, r"settings: \[12\] is not a mapping"),
        ({"operation": "widen", "place": 0.5, "ratio": "big"}, "2: ratio: 'big' is not a number"),
    ],
)
def test_a_request_that_names_no_step_is_refused(asked, reason):
    with pytest.raises(GrowthError, match=reason):
        resolve(mlp(), asked)


def test_a_request_picks_by_name_or_place_or_is_a_step_already():
    net = mlp()
    places = [resolve(net, {"operation": "widen", "place": place}).layer for place in (0, 0.49, 0.5, 1)]
    assert places == ["0", "0", "2", "2"]
    step = resolve(net, {"operation": "widen", "layer": "0", "ratio": 2})
    assert step == GrowthStep("widen", "0", {"width": 16})
    assert resolve(net, step.to_dict()) == step
    assert resolve(net, {"operation": "widen", "layer": "0", "settings": {"width": 9}}).settings == {"width": 9}


# Undone -------------------------------------------------------------------------------------------------------------------


def broken_at(net: nn.Module, calls: int) -> None:
    """From so many calls on the network raises, as a user's forward may once a layer has another shape."""
    left = [calls]

    def count_down(*_: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("out of luck\nand more")

    net.register_forward_hook(count_down)


def interrupted(_: nn.Module) -> Tensor:
    raise KeyboardInterrupt


def broken(_: nn.Module) -> Tensor:
    raise RuntimeError("no data")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_forward_that_raises_on_the_grown_network_leaves_it_as_it_was(operation):
    net = cnn().train()
    step = plan_step(net, operation, "0")
    inner = 1 if operation in ("widen", "insert") else 0  # new statistics are taken from the sample first
    for calls in range(2 + inner):
        faulty = copy.deepcopy(net)
        broken_at(faulty, calls)
        picture = Picture(faulty)
        with pytest.raises(GrowthError, match=f"0: {operation}: it was undone, as this was raised: out of luck$"):
            grow(faulty, GrowthStep(operation, "0", step.settings), sample=(IMAGES,))
        picture.check_same(faulty)


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"new_units": "ones"}, GrowthError, "new_units: 'ones' is not one of zero, net2wider, gradmax"),
        ({"spread": 1.0}, GrowthError, r"spread: 1\.0 is not in \[0, 1\)"),
        ({"spread": "a"}, GrowthError, "spread: 'a' is not a number"),
        ({"new_units": "gradmax"}, GrowthError, "0: new_units: gradmax needs a loss"),
        ({"new_units": "gradmax", "loss": broken}, GrowthError, "0: widen: it was undone, as this was raised: no data"),
        ({"new_units": "gradmax", "loss": interrupted}, KeyboardInterrupt, None),
        ({"new_units": "gradmax", "loss": lambda net: net(POINTS)}, GrowthError, "the loss is a Tensor, not a scalar"),
        ({"sample": (torch.randn(4, 7),)}, GrowthError, "0: widen: it was undone, as this was raised: .*shape"),
        ({"sample": POINTS}, GrowthError, "0: widen: it was undone, as this was raised"),
    ],
)
def test_what_goes_wrong_in_the_middle_of_a_step_leaves_the_network_as_it_was(arguments, error, reason):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))
    picture = Picture(net)
    with pytest.raises(error, match=reason):
        grow(net, GrowthStep("widen", "0", {"width": 10}), **arguments)
    picture.check_same(net)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (lambda values, units: values + units, r"0: widen: the network would compute something else: 1\.0e\+00 off"),
        (lambda values, units: values.repeat(1 + units, 1), r"0: widen: .* would give \(32, 3\) in place of \(16, 3\)"),
    ],
)
def test_a_network_that_gives_something_else_on_the_sample_is_put_back(more, reason):
    net = mlp()
    net.register_forward_hook(lambda net, inputs, given: more(given, net[0].out_features - 8))
    picture = Picture(net)
    with pytest.raises(GrowthError, match=reason):
        grow(net, GrowthStep("widen", "0", {"width": 9}), sample=(POINTS,))
    picture.check_same(net)


def test_a_network_whose_graph_would_differ_is_put_back_without_a_sample():
    class Telling(nn.Module):
        """Computes with its own width."""

        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, values: Tensor) -> Tensor:
            return self.body(values) + self.body[0].out_features

    net = Telling()
    picture = Picture(net)
    with pytest.raises(GrowthError, match=r"body\.0: widen: .* something else: what lies between the layers differs"):
        grow(net, GrowthStep("widen", "body.0", {"width": 9}))
    picture.check_same(net)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_growth_that_changes_nothing_or_not_as_much_as_announced_is_an_error(operation, monkeypatch):
    net, home = cnn(), "lightning_evo.functional.growth.growth."
    step, picture = plan_step(net, operation, "0"), Picture(net)
    with monkeypatch.context() as patched:
        patched.setattr(home + "apply", lambda part, change: None)
        patched.setattr(home + "transfer_weights", lambda *args, **kwargs: Inheritance())
        patched.setattr(home + "difference", lambda *args: ((), (), (), {}))
        with pytest.raises(NothingChanged, match=f"{step.layer}: {operation}: it changed nothing"):
            grow(net, step)
    picture.check_same(net)
    true = added_by(net, step)
    monkeypatch.setattr(home + "added_parameters", lambda part, change: true + 1)
    with pytest.raises(GrowthError, match=f"{operation}: it added {true:,} parameters, not the {true + 1:,} announced"):
        grow(net, step)
    picture.check_same(net)


@pytest.mark.parametrize("repeated", [False, True])
def test_ctrl_c_amid_a_step_leaves_the_network_as_it_was(repeated, monkeypatch):
    net, applied = mlp(), []

    def interrupted_apply(part: Any, change: Any) -> None:
        apply(part, change)
        applied.append(change)
        if len(applied) == 1 + repeated:
            raise KeyboardInterrupt

    monkeypatch.setattr("lightning_evo.functional.growth.growth.apply", interrupted_apply)
    picture, steps = Picture(net), [GrowthStep("widen", "0", {"width": 9}), GrowthStep("widen", "2", {"width": 9})]
    with pytest.raises(KeyboardInterrupt):
        replay(net, steps) if repeated else grow(net, steps[0])
    assert len(applied) == 1 + repeated
    picture.check_same(net)


def test_replaying_steps_of_another_network_leaves_this_one_as_it_was():
    net = mlp()
    picture = Picture(net)
    with pytest.raises(GrowthError, match="layer: there is no '9'"):
        replay(net, [GrowthStep("widen", "0", {"width": 9}), GrowthStep("residual", "9", {})])
    picture.check_same(net)
