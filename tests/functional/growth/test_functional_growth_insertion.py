"""Layers put into networks: what they compute at birth, where they stand, what they cost, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_evo.functional.growth import (
    Growth,
    GrowthError,
    GrowthStep,
    added_by,
    grow,
    growth_sites,
    plan_step,
    replay,
)
from lightning_evo.functional.growth.operations.insertion import ZeroResidual

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Block(nn.Module):
    """A residual block whose two activations are one module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps):
        inner = self.relu(self.bn1(self.conv1(maps)))
        return self.relu(maps + self.bn2(self.conv2(inner)))


class ByFunctions(nn.Module):
    """Its activations and poolings are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 7, 3)
        self.hidden, self.head = nn.Linear(7 * 4, 9), nn.Linear(9, 4)

    def forward(self, images):
        maps = F.max_pool2d(F.relu(self.first(images)), 2)
        maps = F.adaptive_avg_pool2d(F.gelu(self.second(maps)), 2)
        return self.head(F.relu(self.hidden(torch.flatten(maps, 1))))


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Dropout(0.3), nn.Linear(8, 5), activation(), nn.Linear(5, 3))


def cnn() -> nn.Sequential:
    convolutions = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.Tanh()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(6 * 9, 5))


def resnet() -> nn.Sequential:
    blocks = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Block(8), Block(8)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def signal_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 4, 5), nn.LeakyReLU(), nn.Flatten(), nn.Linear(4 * 8, 3))


def volume_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 3, 3), nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(3, 2))


NETS = {
    "mlp": (mlp, (16, 6)),
    "mlp of GELU": (lambda: mlp(nn.GELU), (16, 6)),
    "mlp of Tanh": (lambda: mlp(nn.Tanh), (16, 6)),
    "mlp of SiLU": (lambda: mlp(nn.SiLU), (16, 6)),
    "mlp of Hardswish": (lambda: mlp(nn.Hardswish), (16, 6)),
    "mlp of ReLU6": (lambda: mlp(nn.ReLU6), (16, 6)),
    "mlp of Hardtanh": (lambda: mlp(nn.Hardtanh), (16, 6)),
    "cnn": (cnn, (16, 3, 12, 12)),
    "resnet": (resnet, (16, 3, 8, 8)),
    "functions": (ByFunctions, (16, 3, 24, 24)),
    "signals": (signal_net, (16, 2, 12)),
    "volumes": (volume_net, (16, 1, 5, 5, 5)),
}


def trained(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A net whose batch normalizations have met data, and inputs."""
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, inputs = make(), torch.randn(shape)
        for _ in range(20):
            net(inputs)
    return net.eval(), inputs


def outputs(net: nn.Module, inputs: torch.Tensor, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return net(inputs)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


def offers(net: nn.Module, operation: str) -> list[str]:
    return [name for name, site in growth_sites(net).items() if operation in site.operations]


@pytest.mark.parametrize("with_sample", [False, True], ids=["without a sample", "with a sample"])
@pytest.mark.parametrize("operation", ["insert", "residual"])
@pytest.mark.parametrize("name", NETS)
def test_whatever_is_put_in_leaves_the_output_and_all_old_parameters_in_place(name, operation, with_sample):
    for layer in offers(trained(name)[0], operation):
        net, inputs = trained(name)
        before, state = outputs(net, inputs), dict(net.named_parameters())
        step = plan_step(net, operation, layer)
        announced = added_by(net, step)
        growth = grow(net, step, sample=(inputs,) if with_sample else None)
        assert growth.preserving
        assert growth.after - growth.before == announced > 0
        assert growth.after == sum(parameter.numel() for parameter in net.parameters())
        assert apart(outputs(net, inputs), before) <= TOLERANCE, (layer, step)
        moved = {id(one.old) for one in growth.moved}
        stay = [parameter for parameter in state.values() if id(parameter) not in moved]
        now = {id(parameter) for parameter in net.parameters()}
        assert all(id(parameter) in now for parameter in stay)
        assert len(moved) <= 2  # of a linear layer that became two
        assert not growth.removed


@pytest.mark.parametrize("name", NETS)
def test_a_residual_block_is_the_identity_in_train_mode_too(name):
    for layer in offers(trained(name)[0], "residual"):
        net, inputs = trained(name)
        plain = copy.deepcopy(net).train()
        grow(net, plan_step(net, "residual", layer))
        net.train()
        assert torch.equal(outputs(net, inputs), outputs(plain, inputs))


def test_an_inserted_convolution_differs_in_train_mode_by_no_more_than_a_batchs_noise():
    """Batch normalization knows only the batch: with the very statistics it was given, nothing changes."""
    net, inputs = trained("functions")
    plain = copy.deepcopy(net).train()
    growth = grow(net, plan_step(net, "insert", "first"), sample=(inputs,))
    net.train()
    assert growth.preserving
    assert apart(outputs(net, inputs), outputs(plain, inputs)) <= TOLERANCE
    torch.manual_seed(1)
    others = torch.randn(512, 3, 24, 24)
    assert apart(outputs(net, others), outputs(plain, others)) < 0.1


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETS)
def test_training_goes_on_after_several_insertions_and_reaches_every_new_parameter(name, seed):
    net, inputs = trained(name, seed)
    before = outputs(net, inputs)
    generator = torch.Generator().manual_seed(seed)
    for at in range(3):
        operation = ["insert", "residual"][int(torch.randint(2, (), generator=generator))]
        layers = offers(net, operation)
        layer = layers[int(torch.randint(len(layers), (), generator=generator))]
        grow(net, plan_step(net, operation, layer), sample=(inputs,), seed=at)
    assert apart(outputs(net, inputs), before) <= TOLERANCE
    net.train()
    start = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    targets = torch.randint(before.shape[1], (len(inputs),), generator=generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(net(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])
    assert all(not torch.equal(parameter, start[name]) for name, parameter in net.named_parameters())


@pytest.mark.parametrize("name", NETS)
def test_replaying_insertions_gives_a_network_that_the_grown_ones_weights_fit(name):
    net, inputs = trained(name)
    other, _ = trained(name, seed=7)
    steps = []
    for operation in ("insert", "residual", "insert", "residual"):
        steps.append(plan_step(net, operation, offers(net, operation)[0]))
        grow(net, steps[-1], sample=(inputs,))
    replay(other, [GrowthStep.from_dict(step.to_dict()) for step in steps])
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(outputs(other.eval(), inputs), outputs(net.eval(), inputs))


def test_the_same_step_can_be_planned_from_its_own_settings():
    for name in NETS:
        net, _ = trained(name)
        for operation in ("insert", "residual"):
            for layer in offers(net, operation):
                step = plan_step(net, operation, layer)
                assert plan_step(net, operation, layer, settings=step.settings) == step


# Linear layers --------------------------------------------------------------------------------------------------------


def test_behind_a_linear_layer_stands_an_intermediate_layer_of_75_percent_of_its_inputs_and_outputs():
    net = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3))
    grow(net, plan_step(net, "insert", "0"))
    assert [type(each).__name__ for each in net[0]] == ["Linear", "ReLU", "Linear"]
    assert (net[0].base.out_features, net[0].linear.in_features, net[0].linear.out_features) == (36, 36, 8)


def test_an_intermediate_layer_is_never_narrower_than_what_it_must_hand_on():
    net = nn.Sequential(nn.Linear(2, 30), nn.ReLU(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 3))
    assert plan_step(net, "insert", "0").settings["hidden"] == 30
    assert plan_step(net, "insert", "2").settings["hidden"] == 60  # each unit and its negative


def test_width_same_gives_net2deepers_square_layer():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    weight = net[0].weight
    growth = grow(net, plan_step(net, "insert", "0", settings={"width": "same"}))
    assert torch.equal(net[0].linear.weight, torch.eye(8))
    assert net[0].base.weight is weight
    assert growth.renamed == {"0.weight": "0.base.weight", "0.bias": "0.base.bias"}


def test_an_old_layers_moments_can_follow_into_the_wider_one():
    net = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3))
    old = net[0].weight
    growth = grow(net, plan_step(net, "insert", "0"))
    [moved] = [one for one in growth.moved if one.name == "0.base.weight"]
    assert moved.old is old
    assert moved.new is net[0].base.weight
    moments = moved.map.moments(torch.ones_like(old), moved.new)
    assert torch.equal(moments, (torch.arange(36) < 8).float()[:, None].expand(36, 40))


def test_hooks_of_a_layer_stay_with_it():
    net, calls = nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 3)), []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    grow(net, plan_step(net, "insert", "0"))
    calls.clear()
    net(torch.zeros(1, 40))
    assert calls == [1]


@given(
    inputs=st.integers(1, 20),
    outputs_=st.integers(1, 20),
    allowed=st.integers(1, 500),
    activation=st.sampled_from([nn.ReLU, nn.GELU, nn.Tanh]),
    operation=st.sampled_from(["insert", "residual"]),
)
@settings(max_examples=60, deadline=None)
def test_no_step_adds_more_than_it_may(inputs, outputs_, allowed, activation, operation):
    net = nn.Sequential(nn.Linear(inputs, outputs_), activation(), nn.Linear(outputs_, 2))
    try:
        step = plan_step(net, operation, "0", max_added=allowed)
    except GrowthError:
        with pytest.raises(GrowthError, match=f"at most {allowed:,} are allowed"):
            plan_step(net, operation, "0", max_added=allowed)
        return
    sample = torch.randn(5, inputs)
    growth = grow(net, step, sample=(sample,))
    assert 0 < growth.after - growth.before <= allowed


def test_where_mirrored_units_are_too_many_a_prelu_of_slope_1_stands_in_between():
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    step = plan_step(net, "insert", "0", max_added=500)
    assert (step.settings["activation"], step.settings["copies"]) == ("PReLU", 1)
    inputs = torch.randn(5, 6)
    before = net(inputs)
    grow(net, step)
    assert torch.allclose(net(inputs), before, atol=1e-6)


# Convolutions ---------------------------------------------------------------------------------------------------------


def test_behind_a_convolution_stand_convolution_normalisation_and_its_activation():
    net, inputs = trained("cnn")
    growth = grow(net, plan_step(net, "insert", "0"), sample=(inputs,))
    assert [(name, type(each).__name__) for name, each in net[2].named_children()] == [
        ("base", "ReLU"),
        ("conv", "Conv2d"),
        ("norm", "BatchNorm2d"),
        ("act", "ReLU"),
    ]
    assert [one.name for one in growth.added] == ["2.conv.weight", "2.norm.weight", "2.norm.bias"]
    assert net[2].conv.kernel_size == (3, 3)


def test_where_an_activation_isnt_idempotent_a_prelu_of_slope_1_stands_behind():
    net, inputs = trained("cnn")
    grow(net, plan_step(net, "insert", "4"), sample=(inputs,))
    assert isinstance(net[5].base, nn.Tanh)
    assert isinstance(net[5].act, nn.PReLU)
    assert net[5].act.weight.item() == 1


def test_behind_an_activation_that_is_a_function_the_new_layers_stand_before_the_next_module():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, images):
            return self.second(F.max_pool2d(F.relu(self.first(images)), 2))

    net = Net()
    second = net.second
    growth = grow(net, plan_step(net, "insert", "first"), sample=(torch.randn(4, 3, 12, 12),))
    assert [name for name, _ in net.second.named_children()] == ["conv", "norm", "act", "base"]
    assert net.second.base is second
    assert growth.renamed["second.weight"] == "second.base.weight"


def test_an_activation_shared_by_several_layers_is_not_taken():
    net, _ = trained("resnet")
    assert plan_step(net, "insert", "2.conv1").settings["at"] == "2.conv2"
    assert plan_step(net, "insert", "2.conv2").settings["at"] == "2.bn2"


def test_a_layers_second_insertion_stands_between_it_and_the_first():
    net, inputs = trained("cnn")
    before = outputs(net, inputs)
    for _ in range(3):
        grow(net, plan_step(net, "insert", "0"), sample=(inputs,))
    assert isinstance(net[2].base.base.base, nn.ReLU)
    assert apart(outputs(net, inputs), before) <= TOLERANCE


def test_a_convolution_that_may_add_little_gets_a_kernel_of_one():
    net, _ = trained("cnn")
    assert plan_step(net, "insert", "0", max_added=200).settings["kernel"] == 1
    with pytest.raises(GrowthError, match=r"0: insert: it adds at least 80 parameters, and at most 79 are allowed"):
        plan_step(net, "insert", "0", max_added=79)


def test_without_normalisation_an_inserted_convolution_is_exact_in_train_mode():
    net, inputs = trained("cnn")
    plain = copy.deepcopy(net).train()
    grow(net, plan_step(net, "insert", "0", settings={"norm": "none", "kernel": 5}))
    net.train()
    assert net[2].conv.kernel_size == (5, 5)
    assert apart(outputs(net, inputs), outputs(plain, inputs)) <= 1e-6


def test_new_layers_are_as_the_old_ones_are():
    net, inputs = trained("cnn")
    net.double().to(memory_format=torch.channels_last)
    growth = grow(net, plan_step(net, "insert", "0"), sample=(inputs.double(),))
    assert {one.new.dtype for one in growth.added} == {torch.float64}
    assert net[2].conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(part.training for part in net.modules())


# Refusals -------------------------------------------------------------------------------------------------------------


def test_a_shared_layer_is_refused():
    layer = nn.Linear(4, 4)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(GrowthError, match="0: insert: is called 2 times"):
        plan_step(net, "insert", "0")


def test_tied_weights_are_not_torn_apart():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    with pytest.raises(GrowthError, match="0: insert: its weights are tied to another layer's"):
        plan_step(net, "insert", "0")
    growth = grow(net, plan_step(net, "insert", "0", settings={"width": "same"}))
    assert growth.preserving
    assert net[2].weight is net[0].base.weight


def test_a_frozen_layer_is_refused():
    net = mlp()
    net[0].requires_grad_(False)
    with pytest.raises(GrowthError, match="0: residual: is frozen"):
        plan_step(net, "residual", "0")


def test_behind_a_networks_output_no_block_is_put():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    for operation in ("insert", "residual"):
        with pytest.raises(GrowthError, match=f"2: {operation}: gives the network's output"):
            plan_step(net, operation, "2")


@pytest.mark.parametrize(
    ("operation", "layer", "requests", "message"),
    [
        ("insert", "0", {"kernel": 4}, "kernel: 4 is not odd"),
        ("insert", "0", {"norm": "layer"}, "norm: 'layer' is not 'batch' or 'none'"),
        ("insert", "0", {"hidden": 4}, "settings: 'hidden' is not one of kernel, norm"),
        ("insert", "7", {"hidden": 2}, "hidden: 2 is not an integer of at least 5"),
        ("insert", "7", {"width": "half"}, "width: 'half' is not 'same'"),
        ("residual", "0", {"hidden": 0}, "hidden: 0 is not an integer of at least 1"),
        ("residual", "0", {"hidden": True}, "hidden: True is not an integer"),
    ],
)
def test_settings_that_make_no_sense_are_named(operation, layer, requests, message):
    with pytest.raises(GrowthError, match=message):
        plan_step(cnn(), operation, layer, settings=requests)


def test_a_step_without_its_settings_is_refused_and_nothing_has_changed():
    net = cnn()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(GrowthError, match="0: insert: settings: 'at' is missing"):
        grow(net, GrowthStep("insert", "0", {}))
    assert list(net.state_dict()) == list(before)


def test_no_random_state_of_the_process_changes():
    state = torch.get_rng_state()
    net, inputs = trained("mlp")
    grow(net, plan_step(net, "insert", "0"), sample=(inputs,))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_that_gives_only_zeros_learns_behind_an_intermediate_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    inputs = torch.randn(64, 4)
    grow(net, plan_step(net, "insert", "2"), sample=(inputs,))
    assert not net(inputs).any()
    (net(inputs) - 1).pow(2).mean().backward()
    assert net[2].base.weight.grad.any()


def test_what_is_drawn_depends_on_the_seed_alone():
    def grown(seed: int) -> Growth:
        net, _ = trained("mlp")
        torch.rand(seed)  # the process's random state is another each time
        return grow(net, plan_step(net, "insert", "0"), seed=seed)

    one, same, other = (
        torch.cat([part.new.flatten() for part in (*grown(seed).moved, *grown(seed).added)]) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# ZeroResidual ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_a_zero_residual_learns_from_the_second_batch_on(dimensions):
    torch.manual_seed(0)
    block = ZeroResidual(4, 16, dimensions)
    values = torch.randn(8, 4, *[5] * dimensions)
    for mode in (True, False):
        assert torch.equal(block.train(mode)(values), values)
    block.train()
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        block(values).pow(2).mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in block.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels: 0 is not at least 1"),
        ({"channels": 4, "hidden": 0}, "hidden: 0 is not at least 1"),
        ({"channels": 4, "dimensions": 4}, "dimensions: 4 is not one of 0, 1, 2, 3"),
        ({"channels": 4, "kernel": 2}, "kernel: 2 is not odd"),
    ],
)
def test_a_zero_residual_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        ZeroResidual(**arguments)
