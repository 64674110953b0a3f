"""GradMax: the gradient of new units is larger than with any other outgoing weights of that size, the output stays."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_evo.functional.graph.tracing import trace
from lightning_evo.functional.growth import GrowthError, grow, plan_step
from lightning_evo.functional.growth.gradmax import initialise


class Case:
    """A network whose first layer has new units, a batch, and the loss on it."""

    def __init__(
        self, net: nn.Module, layer: str, consumer: str, shape: tuple[int, ...], new: list[int], seed: int
    ) -> None:
        self.net, self.new, self.layer = net, new, layer
        self.incoming, self.outgoing = net.get_submodule(layer).weight, net.get_submodule(consumer).weight
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(shape, generator=generator)
        with torch.no_grad():
            self.outgoing[:, new] = 0
            classes = net(self.inputs).flatten(1).shape[1]
        self.targets = torch.randint(classes, shape[:1], generator=generator)

    def loss(self, net: nn.Module) -> torch.Tensor:
        return F.cross_entropy(net(self.inputs).flatten(1), self.targets)

    def initialise(self) -> str:
        return initialise(self.net, trace(self.net), self.layer, self.new, self.loss)

    def gradient(self) -> float:
        """Norm of the gradient of the new units' incoming weights."""
        return torch.autograd.grad(self.loss(self.net), self.incoming)[0][self.new].norm().item()

    def sizes(self) -> torch.Tensor:
        """Norm of each new unit's outgoing weights."""
        return self.outgoing[:, self.new].transpose(0, 1).flatten(1).norm(dim=1)

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Other outgoing weights of the same sizes."""
        drawn = torch.randn(self.outgoing[:, self.new].shape, generator=torch.Generator().manual_seed(seed))
        norms = drawn.transpose(0, 1).flatten(1).norm(dim=1)
        scale = (self.sizes() / norms).reshape(1, -1, *[1] * (drawn.ndim - 2))
        self.outgoing[:, self.new] = drawn * scale


ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Hardswish, nn.Identity]


def linear_case(activation: type[nn.Module], seed: int) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 12), activation(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    return Case(net, "0", "2", (32, 6), [9, 10, 11], seed)


def convolutional_case(seed: int, first: dict, second: dict) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 9, 3, **first),
            nn.ReLU(inplace=True),
            nn.Conv2d(9, 8, 3, **second),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(8, 4, 1),
        )
    return Case(net, "0", "2", (16, 3, 17, 16), [0, 5], seed)


def check(case: Case) -> None:
    before = case.net(case.inputs).detach()
    assert case.initialise() == ""
    after = case.net(case.inputs).detach()
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    old = [at for at in range(case.outgoing.shape[1]) if at not in case.new]
    norms = case.outgoing.transpose(0, 1).flatten(1).norm(dim=1)
    assert torch.allclose(case.sizes(), norms[old].mean())
    largest = case.gradient()
    for seed in range(20):
        case.draw(seed)
        assert case.gradient() < largest


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_units_get_the_largest_gradient_and_leave_the_output(activation, seed):
    check(linear_case(activation, seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"padding": 1}, {"padding": 1}),
        ({"padding": 1, "stride": 2}, {"stride": 2}),
        ({}, {"dilation": 2, "padding": "same"}),
        ({"dilation": 2}, {"stride": 3, "padding": 2}),
    ],
)
def test_convolutional_units_do_so_whatever_strides_dilations_and_paddings(first, second, seed):
    check(convolutional_case(seed, first, second))


def test_the_gradient_is_the_sum_of_the_foremost_singular_values():
    """Against NumPy's decomposition of the matrix that the definition asks for."""
    case = linear_case(nn.Tanh, 0)
    net = case.net
    hidden = net[2](net[1](net[0](case.inputs))).detach().requires_grad_()
    loss = F.cross_entropy(net[4](net[3](hidden)), case.targets)
    matrix = torch.autograd.grad(loss, hidden)[0].T @ case.inputs
    values = torch.linalg.svdvals(matrix)
    assert case.initialise() == ""
    expected = values[:3].norm() * case.sizes()[0]
    assert case.gradient() == pytest.approx(expected.item(), rel=1e-4)


def test_more_units_than_directions_get_random_ones_of_that_size():
    net = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 2))
    case = Case(net, "0", "2", (32, 6), [6, 7, 8, 9, 10, 11], 0)
    assert case.initialise() == ""
    columns = case.outgoing[:, case.new].detach()
    assert torch.allclose(case.sizes(), case.sizes()[0])
    assert len({tuple(column.tolist()) for column in columns.T}) == 6


def test_a_large_gradient_matrix_is_decomposed_by_iteration_as_well_as_exactly(monkeypatch):
    one, other = (convolutional_case(0, {"padding": 1}, {"padding": 1}) for _ in range(2))
    assert one.initialise() == ""
    monkeypatch.setattr("lightning_evo.functional.growth.gradmax._DENSE", 1)
    assert other.initialise() == ""
    assert other.gradient() == pytest.approx(one.gradient(), rel=1e-3)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 2)), "sigmoid isn't 0 at 0"),
        (nn.Sequential(nn.Linear(3, 6), nn.Hardshrink(), nn.Linear(6, 2)), "has no gradient there"),
        (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)), "stands between 0 and its consumer"),
        (nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.GELU(), nn.Linear(6, 2)), "two activations follow 0"),
        (nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 2)), "0 has no bias, and relu"),
        (nn.Sequential(nn.Linear(3, 6)), "stands between 0 and its consumer"),
    ],
)
def test_where_it_cannot_be_done_nothing_is_and_the_reason_is_told(net, reason):
    state = copy.deepcopy(net.state_dict())
    told = initialise(net, trace(net), "0", [4, 5], lambda net: net(torch.ones(4, 3)).sum())
    assert reason in told
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_convolutions_with_pooling_between_or_a_linear_consumer_are_left_alone():
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
    assert "stands between" in initialise(
        pooled, trace(pooled), "0", [3], lambda net: net(torch.ones(1, 1, 9, 9)).sum()
    )
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert "stands between" in initialise(flat, trace(flat), "0", [3], lambda net: net(torch.ones(1, 1, 3, 3)).sum())


def test_several_consumers_are_left_alone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.other = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, values):
            hidden = torch.relu(self.first(values))
            return self.one(hidden) + self.other(hidden)

    net = Twice()
    assert "2 consumers" in initialise(net, trace(net), "first", [3], lambda net: net(torch.ones(1, 3)).sum())


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda net: net(torch.ones(4, 6)), "the loss is a Tensor, not a scalar"),
        (lambda net: torch.tensor(1.0), "the loss runs 0 0 times"),
        (lambda net: net(torch.full((4, 6), torch.inf)).sum(), "not finite"),
        (lambda net: net(torch.ones(4, 6)).detach().sum(), "doesn't depend on 2"),
    ],
)
def test_a_loss_that_tells_nothing_is_an_error(loss, message):
    case = linear_case(nn.ReLU, 0)
    with pytest.raises(GrowthError, match=message):
        initialise(case.net, trace(case.net), "0", case.new, loss)


def test_looking_at_the_loss_leaves_no_trace():
    net = nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Dropout(0.5), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
    )
    case = Case(net, "0", "3", (32, 6), [10, 11], 0)
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    state = torch.get_rng_state()
    assert case.initialise() == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, buffers[name]) for name, value in net.named_buffers())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


def test_growing_by_gradmax_preserves_the_output_and_gives_more_gradient_than_zero_units_get():
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 6), torch.randint(4, (64,))

    def loss(net: nn.Module) -> torch.Tensor:
        return F.cross_entropy(net(inputs), targets)

    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    before = net(inputs)
    growth = grow(net, plan_step(net, "widen", "0", ratio=1.5), new_units="gradmax", sample=(inputs,), loss=loss)
    assert (growth.preserving, growth.notes) == (True, ())
    assert (net(inputs) - before).abs().max() <= 1e-5 * before.abs().max()
    gradient = torch.autograd.grad(loss(net), net[0].weight)[0]
    assert gradient[8:].norm() > 0


def test_growing_by_gradmax_where_it_cant_be_falls_back_to_zero_and_says_so():
    torch.manual_seed(0)
    inputs = torch.randn(64, 6)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    growth = grow(
        net, plan_step(net, "widen", "0"), new_units="gradmax", sample=(inputs,), loss=lambda net: net(inputs).sum()
    )
    assert any("stands between" in note for note in growth.notes)
    assert not net[3].weight[:, 8:].any()


@pytest.mark.parametrize("new_units", ["gradmax", "net2wider"])
def test_a_compiled_network_grows_as_well(new_units):
    torch.manual_seed(0)
    inputs = torch.randn(64, 6)
    net = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), backend="eager"))
    before = net(inputs)
    for operation, layer in (("widen", "0.0"), ("residual", "0.0"), ("insert", "0.2")):
        growth = grow(
            net,
            plan_step(net, operation, layer),
            new_units=new_units,
            sample=(inputs,),
            loss=lambda net: net(inputs).square().sum(),
        )
        assert growth.notes == ()
    assert (net(inputs) - before).abs().max() <= 1e-5 * before.abs().max()
