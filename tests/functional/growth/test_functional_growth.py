"""Growth of random networks by random steps: announced, preserving, trainable, repeatable; and what each operation does."""

from __future__ import annotations

import copy
import json
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from growth_nets import IMAGES, OPERATIONS, POINTS, Picture, cases, cnn, evaluated, mlp, outputs_of, random_states
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_evo.functional.growth import (
    Growth,
    GrowthStep,
    added_by,
    grow,
    growth_sites,
    plan_step,
    replay,
)

TOLERANCE = 1e-5
STEPS = 10


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in {id(p): p for p in net.parameters()}.values())


def channels_last(tensor: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return (
        tensor.ndim in formats
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=formats[tensor.ndim])
    )


def check_accounts(net: nn.Module, before: Picture, growth: Growth) -> None:
    """What moved, was added or removed is as it is said to be, and all else the same objects with the same numbers."""
    named, old_ones = dict(net.named_parameters()), {key: t for key, (_, t, _) in before.tensors.items()}
    balance = 0
    for one in growth.moved:
        assert named[one.name] is one.new
        assert id(one.old) in old_ones
        assert (one.new.dtype, one.new.device) == (one.old.dtype, one.old.device)
        assert one.new.requires_grad == one.old.requires_grad
        assert channels_last(one.new) or not channels_last(one.old) or 1 in one.new.shape, one.name
        assert one.map.moments(one.old.detach(), one.new).shape == one.new.shape
        balance += one.new.numel() - one.old.numel()
    for added in growth.added:
        assert named[added.name] is added.new
        assert id(added.new) not in old_ones
        assert added.new.dtype in {tensor.dtype for tensor in old_ones.values()}
        assert added.beside is None or any(added.beside is parameter for parameter in named.values())
        balance += added.new.numel()
    balance -= sum(parameter.numel() for parameter in growth.removed)
    assert growth.after - growth.before == balance
    gone = {id(one.old) for one in growth.moved} | {id(parameter) for parameter in growth.removed}
    new = {id(one.new) for one in (*growth.moved, *growth.added)}
    stay = {key for key in old_ones if key not in gone and isinstance(old_ones[key], nn.Parameter)}
    assert {id(parameter) for parameter in named.values()} == stay | new
    for key in stay:
        name, tensor, _ = before.tensors[key]
        assert named[growth.renamed.get(name, name)] is tensor
    for tensor in [*net.parameters(), *net.buffers()]:
        if id(tensor) in before.tensors:
            assert torch.equal(tensor, before.tensors[id(tensor)][2])


def check_modules(net: nn.Module, before: Picture, mode: bool, operation: str) -> None:
    """Old modules are still there, in their old modes, and new ones in that of the others."""
    now = {id(module) for module in net.modules()}
    gone = [module for _, module, _ in before.modules if id(module) not in now]
    assert len(gone) <= (operation in ("activation", "insert")), gone  # the old activation; the linear layer made wider
    assert all(module.training is mode for module in net.modules())


def trained(net: nn.Module, inputs: tuple[Tensor, ...], seed: int, steps: int = STEPS) -> list[float]:
    """Train on one batch with targets of its own; return the losses."""
    generator = torch.Generator().manual_seed(seed)
    targets = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in evaluated(net, inputs)]
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3, fused=True)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(F.mse_loss(o, t) for o, t in zip(outputs_of(net, inputs), targets, strict=True))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.zero_grad()
    return losses


class Unsaturated(TorchFunctionMode):
    """ReLUs with a slope below 0, so that no unit is dead because of the numbers that a random network happens to hold.

    At 0 itself the slope stays 0: a unit that growth left at 0 for every input would never learn.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu, F.hardtanh):
            return torch.where(args[0] == 0, args[0].detach(), F.leaky_relu(args[0], 0.1))
        return function(*args, **(kwargs or {}))


def check_reached(net: nn.Module, inputs: tuple[Tensor, ...], growth: Growth, seed: int, grown: int) -> None:
    """Whatever is new gets a gradient: each parameter, and each new unit's weights on both sides.

    What a step sets to 0 blocks the gradient for one step of training, so that after ``grown`` earlier ones it takes at
    most ``grown + 2``: their zeros lie behind each other where one is inserted within another and hasn't learned yet.
    """
    reached = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}

    def note(parameter: Tensor, name: str) -> None:
        reached[name] += parameter.grad.abs()

    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(note, name=name))
    with Unsaturated():
        trained(net, inputs, seed, steps=2)
        for _ in range(grown):
            if unreached(growth, reached):
                trained(net, inputs, seed, steps=1)
    assert not unreached(growth, reached)


def unreached(growth: Growth, reached: dict[str, Tensor]) -> list[str]:
    """New parameters without a gradient, and moved ones that have new units without."""
    # The slope of a PReLU is the one parameter that gets no gradient where no value is below 0.
    new = [one for one in (*growth.moved, *growth.added) if one.new.requires_grad and one.new.numel() > 1]
    found = [one.name for one in new if not reached[one.name].any()]
    for one in growth.moved:
        if one.new.requires_grad and one.new.ndim > 1:
            for axis, index in zip(one.map.axes, (one.map.rows, one.map.columns), strict=True):
                if index is not None and (index.ndim == 1 or len(index) == 1):
                    units = reached[one.name].transpose(0, axis).flatten(1)[index.flatten() < 0]
                    found += [f"{one.name}, axis {axis}"] * (not units.any(1).all())
    return found


def check_sequence(data: st.DataObject) -> None:
    """Grow a random network by up to five random steps, train it after each, and build it again from the steps."""
    case = data.draw(cases())
    net, inputs = case.net, case.inputs
    first, steps = copy.deepcopy(net), []
    mode = net.training
    for at in range(data.draw(st.integers(1, 5))):
        sites = growth_sites(net)
        operations = [name for name in OPERATIONS if any(name in site.operations for site in sites.values())]
        operation = data.draw(st.sampled_from(operations))
        layer = data.draw(st.sampled_from([name for name, site in sites.items() if operation in site.operations]))
        ratio = data.draw(st.sampled_from((None, 0.8 if operation == "prune" else 1.3)))
        step = plan_step(net, operation, layer, ratio=ratio, seed=at)
        new_units = data.draw(st.sampled_from(("zero", "net2wider", "gradmax")))
        chosen: dict[str, Any] = {"new_units": new_units, "seed": at}
        if data.draw(st.booleans()):
            chosen["sample"] = inputs
        if new_units == "gradmax":
            chosen["loss"] = lambda net: sum(o.square().mean() for o in outputs_of(net, inputs))
        twin = copy.deepcopy(net)
        before, given_, picture, announced = count(net), evaluated(net, inputs), Picture(net), added_by(net, step)
        picture.check_same(net)
        growth = grow(net, step, **chosen)
        assert random_states() == picture.randomness
        assert (growth.before, growth.after) == (before, count(net))
        assert growth.after - growth.before == announced
        assert repr(net) != picture.described
        check_accounts(net, picture, growth)
        check_modules(net, picture, mode, operation)
        assert growth.preserving or operation in ("prune", "activation")
        for old, new in zip(given_, evaluated(net, inputs), strict=True):
            assert new.shape == old.shape
            if growth.preserving:
                assert (new - old).abs().max() <= TOLERANCE * old.abs().max()
        grow(twin, step, **chosen)
        assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())
        check_reached(twin, inputs, growth, seed=at, grown=at)
        losses = trained(net, inputs, seed=at)
        assert losses[-1] < losses[0]
        steps.append(step)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    replay(first, [GrowthStep.from_dict(json.loads(json.dumps(step.to_dict()))) for step in steps], seed=99)
    first.load_state_dict(net.state_dict(), strict=True)
    assert [o.tolist() for o in evaluated(first, inputs)] == [o.tolist() for o in evaluated(net, inputs)]


SEARCH: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes longer than tests may
}


@settings(max_examples=8, **SEARCH)
@given(st.data())
def test_any_network_grows_by_any_steps_as_announced_and_trains_on(data):
    check_sequence(data)


@pytest.mark.slow
@pytest.mark.usefixtures("plain_convolutions")
@settings(max_examples=100, **SEARCH)
@given(st.data())
def test_a_hundred_sequences_of_steps_do(data):
    check_sequence(data)


@pytest.mark.parametrize("mode", [True, False])
def test_looking_at_a_network_leaves_what_its_forward_counts(mode):
    class Counting(nn.Module):
        """Whether its graph can be made or not, its forward writes into buffers."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.norm = mlp(), nn.BatchNorm1d(3)
            for name in ("calls", "others"):
                self.register_buffer(name, torch.zeros(()))

        def forward(self, values: Tensor) -> Tensor:
            self.calls += 1
            self.others = self.others + 1
            return self.norm(self.body(values))

    for net in (Counting().train(mode), nn.ModuleList([Counting().train(mode)])):
        picture = Picture(net)
        layer = next(name for name, site in growth_sites(net).items() if "widen" in site.operations)
        step = plan_step(net, "widen", layer)
        assert added_by(net, step) > 0
        picture.check_same(net)
        grow(net, step)
        assert {name: tensor.item() for name, tensor in net.named_buffers() if not tensor.ndim} == {
            name: tensor.item() for _, (name, tensor, _) in picture.tensors.items() if not tensor.ndim
        }


# Small networks for single facts ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


# What the operations do ---------------------------------------------------------------------------------------------------


def test_prune_takes_out_the_least_important_channels_and_leaves_the_others_numbers():
    net = mlp()
    with torch.no_grad():
        for unit, size in enumerate((3, 0.1, 5, 0.2, 4, 9, 0.3, 1)):
            net[0].weight[unit] = size * torch.tensor([1.0, -1, 1, -1])
    before = copy.deepcopy(net.state_dict())
    step = plan_step(net, "prune", "0", ratio=0.5)
    assert step.settings == {"kept": [0, 2, 4, 5]}
    growth = grow(net, step)
    assert not growth.preserving
    assert torch.equal(net[0].weight, before["0.weight"][[0, 2, 4, 5]])
    assert torch.equal(net[0].bias, before["0.bias"][[0, 2, 4, 5]])
    assert torch.equal(net[2].weight, before["2.weight"][:, [0, 2, 4, 5]])
    assert (net[0].out_features, net[2].in_features) == (4, 4)


def test_prune_weighs_filters_by_their_batch_normalisations_scale_and_sums_over_a_residual_stream():
    net = cnn()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[1].weight.copy_(torch.tensor([1.0, -2, 0, 3, 0, -4, 0.5, 0]))
        net[1].bias[[2, 4, 7]] = -1.0  # never positive: nothing is lost without them
    before = evaluated(net, (IMAGES,))[0]
    step = plan_step(net, "prune", "0", settings={"width": 5})
    assert step.settings == {"kept": [0, 1, 3, 5, 6]}
    grow(net, step, sample=(IMAGES,))
    assert torch.allclose(evaluated(net, (IMAGES,))[0], before, atol=1e-6)

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, values: Tensor) -> Tensor:
            values = self.one(values)
            return self.head(values + self.two(values))

    net = Stream()
    with torch.no_grad():
        net.one.weight.copy_(torch.tensor([4.0, 1, 3, 1]).diag())
        net.two.weight.copy_(torch.tensor([0.0, 1, 3, 4]).diag())
    assert plan_step(net, "prune", "one", ratio=0.75).settings == {"kept": [0, 2, 3]}


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 4, 3),
        nn.Conv2d(2, 4, 3, padding="same", dilation=2),
        nn.Conv2d(2, 4, (1, 3), stride=2, padding=(0, 1), padding_mode="reflect"),
        nn.Conv2d(2, 4, 2, padding=1, groups=2, bias=False),
        nn.Conv2d(2, 4, 3, padding="valid"),
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1),
    ],
)
def test_a_larger_kernel_stands_around_the_old_one(conv):
    net = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    before, old = evaluated(net, (IMAGES,))[0], conv.weight.detach().clone()
    growth = grow(net, plan_step(net, "kernel", "0"), sample=(IMAGES,))
    new = conv.weight.detach()
    assert new.shape[2:] == tuple(size + 2 for size in old.shape[2:]) == conv.kernel_size
    assert torch.equal(new[:, :, 1:-1, 1:-1], old)
    assert new.count_nonzero() == old.count_nonzero()
    assert growth.preserving
    assert torch.allclose(evaluated(net, (IMAGES,))[0], before, atol=1e-6)
    net(IMAGES).square().sum().backward()
    assert conv.weight.grad[:, :, 0].any()


def test_a_convolution_before_a_relu_that_cannot_be_wrapped_brings_its_own_so_that_both_count():
    class Joined(nn.Module):
        """One ReLU for two branches, behind their concatenation."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 3, 3), nn.Conv2d(7, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(F.relu(torch.cat([self.one(images), self.two(images)], 1)))

    for sample in ((IMAGES,), None):
        net = Joined()
        growth = grow(net, plan_step(net, "insert", "one"), sample=sample)
        assert [type(each) for each in net.one] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d]
        assert growth.preserving
        assert not (net.one[:2](IMAGES) - net.one[:2](IMAGES).relu()).any()
        assert plan_step(Joined(), "insert", "one", settings=growth.step.settings) == growth.step


def test_a_smaller_kernel_is_the_old_ones_centre_and_says_that_it_computes_something_else():
    net = nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 2, 3))
    old = net[0].weight.detach().clone()
    growth = grow(net, plan_step(net, "kernel", "0", settings={"kernel": [3, 5]}), sample=(IMAGES,))
    assert torch.equal(net[0].weight, old[:, :, 1:-1])
    assert net[0].padding == (1, 2)
    assert (growth.preserving, growth.after - growth.before) == (False, -2 * 4 * 10)
    assert "smaller kernel" in growth.why_not[0]


def test_another_activation_computes_what_it_says_and_nothing_else_changes():
    net, calls = mlp(), []
    net[1].eval()
    net[1].register_forward_hook(lambda *_: calls.append(1))
    expected = copy.deepcopy(net)
    expected[1] = nn.GELU()
    step = plan_step(net, "activation", "0", settings={"activation": "GELU"})
    assert step.layer == "1"
    growth = grow(net, step, sample=(POINTS,))
    calls.clear()
    assert torch.equal(net(POINTS), expected(POINTS))
    assert calls == [1]
    assert (type(net[1]), net[1].training, net.training) == (nn.GELU, False, True)
    assert growth.why_not == ("1 computes GELU in place of ReLU",)
    assert (growth.moved, growth.added, growth.removed) == ((), (), ())
    grow(net, plan_step(net, "activation", "1", settings={"activation": "PReLU"}))
    growth = grow(net, plan_step(net, "activation", "1", settings={"activation": "SiLU"}))
    assert (growth.after - growth.before, [parameter.numel() for parameter in growth.removed]) == (-1, [1])


def test_an_activation_that_is_not_named_is_drawn_and_never_the_present_one():
    drawn = {plan_step(mlp(), "activation", "0", seed=seed).settings["activation"] for seed in range(60)}
    assert drawn == {"LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Hardswish"}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_is_new_has_the_dtype_the_memory_format_and_the_mode_of_what_it_joins(dtype, operation):
    net = cnn().to(dtype=dtype, memory_format=torch.channels_last).eval()
    growth = grow(net, plan_step(net, operation, "0", seed=1), sample=(IMAGES.to(dtype),))
    assert {tensor.dtype for tensor in net.state_dict().values() if tensor.is_floating_point()} == {dtype}
    assert not any(module.training for module in net.modules())
    for one in (*growth.moved, *growth.added):
        assert one.new.ndim < 4 or one.new.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("new_units", ["zero", "net2wider", "gradmax"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_new_is_on_the_device_of_what_it_joins_and_no_devices_random_state_changes(operation, new_units):
    for device in ("cuda", "cpu"):
        net, images, state = cnn().to(device), IMAGES.to(device), torch.cuda.get_rng_state()
        step = plan_step(net, operation, "0", seed=1)
        grow(
            net,
            step,
            new_units=new_units,
            sample=(images,),
            loss=lambda net, images=images: net(images).square().mean(),
        )
        assert {tensor.device.type for tensor in net.state_dict().values()} == {device}
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert torch.isfinite(net(images)).all()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_random_states_of_a_forward_that_draws_from_all_sources_stay(operation):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = cnn()

        def forward(self, images: Tensor) -> Tensor:
            random.random(), np.random.random(), torch.rand(())
            return self.body(images)

    net = Noisy()
    picture = Picture(net)
    step = plan_step(net, operation, "body.0")
    assert random_states() == picture.randomness
    grow(net, step, sample=(IMAGES,))
    assert random_states() == picture.randomness


@pytest.mark.parametrize("operation", ["widen", "kernel"])
def test_what_takes_the_place_of_frozen_parameters_is_frozen(operation):
    net = cnn()
    net[0].requires_grad_(False)
    growth = grow(net, plan_step(net, operation, "0"))
    assert {one.name: one.new.requires_grad for one in growth.moved if one.name.startswith("0.")}["0.weight"] is False
    assert net[3].weight.requires_grad


@pytest.mark.parametrize(
    ("operation", "new_units"),
    [("widen", "zero"), ("widen", "net2wider"), ("widen", "gradmax"), ("residual", "zero")],
)
def test_weights_depend_on_the_seed_alone(operation, new_units):
    def grown(seed: int, noise: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
        torch.manual_seed(noise)
        step = plan_step(net, operation, "0", settings={"width": 24} if operation == "widen" else {})
        grow(net, step, new_units=new_units, seed=seed, loss=lambda net: net(POINTS).square().mean())
        return net.state_dict()

    one, same, other = grown(1, 1), grown(1, 2), grown(2, 1)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
