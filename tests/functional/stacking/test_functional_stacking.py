"""A stacked call gives what each particle gives alone: outputs, gradients and buffers."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_evo.functional import stacking
from lightning_evo.functional.stacking import PARTS, fusion, stacked_call, tensors
from lightning_evo.functional.stacking.autotuning import Autotuner

N = 3


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def tuner(monkeypatch: pytest.MonkeyPatch) -> Autotuner:
    """One that chooses on CPUs, too, and has chosen nothing yet."""
    tuner = Autotuner(cpu=True)
    monkeypatch.setattr(PARTS, "autotuning", tuner)
    return tuner


class Always(Autotuner):
    """Chooses one computation wherever it is offered."""

    def __init__(self, name: str) -> None:
        super().__init__(cpu=True)
        self.name, self.keys = name, []

    def choose(self, key, names, default, trial) -> str:
        self.keys.append(key)
        return self.name if self.name in names else default


def randomised(make: Callable[[], nn.Module]) -> list[nn.Module]:
    """Particles that differ in every parameter and floating point buffer."""
    nets = [make() for _ in range(N)]
    with torch.no_grad():
        for net in nets:
            for tensor in (*net.parameters(), *net.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(torch.rand_like(tensor), alpha=0.3)
    return nets


def stacked(nets: list[nn.Module]) -> dict[str, Tensor]:
    tensors = {}
    for name, first in nets[0].state_dict(keep_vars=True).items():
        stack = torch.stack([net.state_dict()[name] for net in nets])
        tensors[name] = stack.requires_grad_(first.requires_grad)
    return tensors


def check(
    nets: list[nn.Module],
    x: Tensor,
    own: bool = False,
    call: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda net: net,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> None:
    """Outputs, gradients (of tensors and of the input) and buffers equal those of each particle alone."""
    tensors = stacked(nets)
    x_stacked = x.clone().requires_grad_(own)
    out = stacked_call(nets[0], call(nets[0]), tensors, (x_stacked,), in_dims=(0 if own else None,))
    weights = torch.randn_like(out)
    gradients = torch.autograd.grad(
        (out * weights).sum(), [t for t in tensors.values() if t.requires_grad] + ([x_stacked] if own else [])
    )
    for i, net in enumerate(nets):
        x_alone = (x[i] if own else x).clone().requires_grad_(own)
        alone = call(net)(x_alone)
        torch.testing.assert_close(out[i], alone, rtol=rtol, atol=atol)
        expected = torch.autograd.grad((alone * weights[i]).sum(), [*net.parameters(), *([x_alone] if own else [])])
        order = [name for name, t in tensors.items() if t.requires_grad]
        by_name = dict(zip([name for name, _ in net.named_parameters()], expected, strict=False))
        for name, gradient in zip(order, gradients, strict=False):
            torch.testing.assert_close(gradient[i], by_name[name], rtol=10 * rtol, atol=10 * atol)
        if own:
            torch.testing.assert_close(gradients[-1][i], expected[-1], rtol=10 * rtol, atol=10 * atol)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(tensors[name][i], buffer)


class Mixed(nn.Module):
    """Convolutions, normalization, both orders of ReLU and pooling, a skip, a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6 * 25, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = x + F.relu(self.norm(self.second(x)))
        return F.log_softmax(self.head(x.view(len(x), -1)), 1)


PICTURES: dict[str, Callable[[], nn.Module]] = {
    "mixed": Mixed,
    "plain": lambda: nn.Conv2d(2, 4, 3),
    "no bias": lambda: nn.Conv2d(2, 4, 3, bias=False),
    "stride and padding": lambda: nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilated": lambda: nn.Conv2d(2, 4, 3, dilation=2),
    "grouped": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "same": lambda: nn.Conv2d(2, 4, 3, padding="same"),
    "same, uneven": lambda: nn.Conv2d(2, 4, 2, padding="same"),
    "valid": lambda: nn.Conv2d(2, 4, 3, padding="valid"),
    "circular": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "pointwise": lambda: nn.Conv2d(2, 4, 1),
    "transposed": lambda: nn.ConvTranspose2d(2, 4, 3, stride=2, output_padding=1),
    "transposed, grouped": lambda: nn.ConvTranspose2d(2, 4, 3, groups=2),
    "two": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1)),
    "batch norm first": lambda: nn.BatchNorm2d(2),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    "batch norm, evaluated": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)).eval(),
    "batch norm, bare": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False, track_running_stats=False)
    ),
    "group and layer norm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.LayerNorm(10)),
    "instance norm": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)),
    "max pool": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "average pool": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1)),
    "adaptive pools": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.AdaptiveMaxPool2d(5), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ),
    "in place": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
    "pool of the input": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 4, 3)),
    "other activations": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.GELU(), nn.Conv2d(4, 4, 3), nn.SiLU()
    ),
    "flattened": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5)),
    "flattened in part": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(2), nn.Linear(100, 5)),
    "one by one": lambda: nn.Sequential(nn.Conv2d(2, 1, 3), nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)),
    "upsampled": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Upsample(scale_factor=2), nn.Conv2d(4, 2, 3)),
}


@pytest.fixture
def everything_deferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small convolutions and ReLUs are deferred as well, and computed in small chunks."""
    monkeypatch.setattr(fusion, "_RELU_ELEMENTS", 0)
    monkeypatch.setattr(fusion, "_CONVOLUTION_ELEMENTS", 0)
    monkeypatch.setattr(fusion, "_CHUNK_ELEMENTS", 3000)


@pytest.mark.parametrize("own", [False, True], ids=["shared input", "own input"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_network_computes_what_each_particle_does_alone(name: str, own: bool) -> None:
    x = torch.randn(N, 4, 2, 12, 12) if own else torch.randn(4, 2, 12, 12)
    if any(isinstance(m, nn.MaxPool2d | nn.ReLU) for m in PICTURES[name]().modules()) or name == "mixed":
        x = x + 0.01 * torch.arange(x.numel()).view_as(x) / x.numel()  # no ties
    check(randomised(PICTURES[name]), x, own)


POOLED = {
    "plain": (nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)),
    "no bias": (nn.Conv2d(2, 4, 3, bias=False), nn.MaxPool2d(2)),
    "one channel": (nn.Conv2d(1, 4, 5), nn.MaxPool2d(2)),
    "grouped": (nn.Conv2d(2, 4, 3, groups=2), nn.MaxPool2d(2)),
    "other settings": (nn.Conv2d(2, 4, 3, stride=(1, 2), padding=(2, 1), dilation=2), nn.MaxPool2d((3, 2), (2, 1), 1)),
    "same, ceil": (nn.Conv2d(2, 4, 3, padding="same"), nn.MaxPool2d(2, 3, ceil_mode=True)),
    "dilated pool": (nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, dilation=2)),
}


@pytest.mark.usefixtures("everything_deferred")
@pytest.mark.parametrize("own", [False, True], ids=["shared input", "own input"])
@pytest.mark.parametrize("name", POOLED)
def test_a_convolution_computed_in_chunks_is_the_same(name: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = []
    pooled = fusion.pooled_convolution
    monkeypatch.setattr(fusion, "pooled_convolution", lambda *args: fused.append(args) or pooled(*args))
    convolution, pool = POOLED[name]
    sizes = (7, convolution.in_channels, 12, 12)
    make = lambda: nn.Sequential(copy.deepcopy(convolution), nn.ReLU(), copy.deepcopy(pool))  # noqa: E731
    x = torch.randn(N, *sizes) if own else torch.randn(sizes)
    check(randomised(make), x, own)
    pool_first = lambda: nn.Sequential(copy.deepcopy(convolution), copy.deepcopy(pool))  # noqa: E731
    check(randomised(pool_first), x, own)
    assert len(fused) == 2


@pytest.mark.usefixtures("everything_deferred")
@pytest.mark.parametrize("own", [False, True], ids=["shared input", "own input"])
@pytest.mark.parametrize("name", PICTURES)
def test_deferring_calls_changes_no_picture_network(name: str, own: bool) -> None:
    x = torch.randn(N, 4, 2, 12, 12) if own else torch.randn(4, 2, 12, 12)
    check(randomised(PICTURES[name]), x, own)


OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)), (5, 6)),
    "no bias": (lambda: nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)), (5, 6)),
    "tokens": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), (5, 7, 6)),
    "one vector": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), (6,)),
    "one picture": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)), (2, 8, 8)),
    "series": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.MaxPool1d(2)), (5, 2, 12)),
    "two series": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 2, 2)), (5, 2, 12)),
    "transposed series": (lambda: nn.ConvTranspose1d(2, 4, 3, stride=2), (5, 2, 6)),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.Conv3d(4, 2, 2)), (2, 2, 6, 6, 6)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (3, 5, 8)),
    "bilinear": (lambda: _Bilinear(), (5, 4)),
}  # fmt: skip


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


@pytest.mark.parametrize("own", [False, True], ids=["shared input", "own input"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_compute_what_each_particle_does_alone(name: str, own: bool) -> None:
    make, shape = OTHERS[name]
    check(randomised(make), torch.randn(N, *shape) if own else torch.randn(shape), own)


@pytest.mark.parametrize("way", ["grouped", "grouped channels_last", "separate", "separate channels_last"])
def test_every_way_of_computing_a_convolution_is_the_same_convolution(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = Always(way)
    monkeypatch.setattr(PARTS, "autotuning", always)
    check(randomised(lambda: nn.Conv2d(1, 4, 3, stride=2, padding=1)), torch.randn(4, 1, 9, 9))
    check(randomised(lambda: nn.Conv2d(2, 4, (3, 2), padding=(1, 0))), torch.randn(4, 2, 9, 9))
    check(randomised(lambda: nn.Conv2d(2, 4, 3)), torch.randn(N, 4, 2, 9, 9), own=True)
    assert always.keys


def test_a_call_without_rules_computes_the_same() -> None:
    nets, x = randomised(Mixed), torch.randn(4, 2, 12, 12)
    torch.testing.assert_close(
        stacked_call(nets[0], nets[0], stacked(nets), (x,)),
        stacked_call(nets[0], nets[0], stacked(nets), (x,), rules=False),
    )


class _Doubled(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class ManyUses(nn.Module):
    """Uses a large ReLU's result in other ways than pooling it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.conv, self.way = nn.Conv2d(1, 8, 3, padding=1), way

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv(x)
        y = F.relu(before)
        if self.way == "pooled":
            return F.max_pool2d(y, 2)
        if self.way == "pooled, then used":
            return F.max_pool2d(y, 2).sum((2, 3)) + y.mean((2, 3))
        if self.way == "used, then pooled":
            mean = y.mean((2, 3))
            return mean + F.max_pool2d(y, 2).sum((2, 3))
        if self.way == "pooled twice":
            return F.max_pool2d(y, 2).sum((2, 3)) + F.max_pool2d(y, 4).sum((2, 3))
        if self.way == "in a list":
            return torch.cat([y, before], 1)
        if self.way == "input changed in place":
            before.mul_(-1)
            return F.max_pool2d(y, 2).sum((2, 3)) + before.sum((2, 3))
        if self.way == "input changed by an operator":
            before += 1
            return y.sum((2, 3)) + before.sum((2, 3))
        if self.way == "by a function of its own":
            return _Doubled.apply(before) + _Doubled.apply(y) + F.max_pool2d(y, 1)
        if self.way == "in place":
            x = self.conv(x)
            y = F.relu(x, inplace=True)
            return F.max_pool2d(y, 2).sum((2, 3)) + x.mean((2, 3))
        if self.way == "with indices":
            pooled, indices = F.max_pool2d(y, 2, return_indices=True)
            return pooled + 0 * indices
        if self.way == "by its form":
            return y.view(y.size(0), y.shape[1], -1).max(-1).values
        return y


WAYS = [
    "pooled",
    "pooled, then used",
    "used, then pooled",
    "pooled twice",
    "in a list",
    "input changed in place",
    "input changed by an operator",
    "by a function of its own",
    "in place",
    "with indices",
    "by its form",
    "returned",
]


@pytest.mark.usefixtures("everything_deferred")
@pytest.mark.parametrize("way", WAYS)
def test_a_deferred_convolution_has_its_value_wherever_it_is_used(way: str) -> None:
    check(randomised(lambda: ManyUses(way)), torch.randn(8, 1, 16, 16), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_a_relu_put_behind_the_pooling_has_its_value_wherever_it_is_used(way: str) -> None:
    # large enough for a ReLU to be deferred
    check(randomised(lambda: ManyUses(way)), torch.randn(8, 1, 32, 32), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_data_type(dtype: torch.dtype) -> None:
    nets, x, y = randomised(Mixed), torch.randn(8, 2, 12, 12), torch.randint(4, (8,))

    def loss(net: nn.Module) -> Callable[[Tensor], Tensor]:
        def compute(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype):
                out = net(x)
            assert net.head(x.new_ones(150)).dtype == torch.float32
            return F.nll_loss(out.float(), y)

        return compute

    check(nets, x, call=loss, rtol=0.1, atol=0.05)
    with torch.autocast("cpu", dtype):
        linear = randomised(lambda: nn.Linear(3, 2))
        out = stacked_call(linear[0], linear[0], stacked(linear), (torch.ones(N, 1, 3),), in_dims=(0,))
    assert out.dtype == dtype


@pytest.mark.parametrize("name", ["mixed", "flattened", "batch norm"])
def test_it_computes_the_same_where_torchs_inner_functions_are_missing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "HAS_FUNCTORCH", False)
    check(randomised(PICTURES[name]), torch.randn(4, 2, 12, 12))
    check(randomised(PICTURES[name]), torch.randn(N, 4, 2, 12, 12), own=True)


class PerSample(nn.Module):
    """Differentiates inside its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: self.layer(x).square().sum())(x)


@pytest.mark.parametrize("direct", [True, False])
def test_a_network_may_differentiate_inside_the_call(direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setattr(tensors, "HAS_FUNCTORCH", False)
    nets, x = randomised(PerSample), torch.randn(5, 3)
    out = stacked_call(nets[0], nets[0], {n: t.detach() for n, t in stacked(nets).items()}, (x,))
    torch.testing.assert_close(out, torch.stack([net(x) for net in nets]))


def test_double_precision_stays_double() -> None:
    check(randomised(lambda: Mixed().double()), torch.randn(4, 2, 12, 12, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_evaluates_without_gradients(context: Callable[[], Any]) -> None:
    nets, x = [net.eval() for net in randomised(Mixed)], torch.randn(600, 2, 12, 12)
    tensors = stacked(nets)
    with context():
        out = stacked_call(nets[0], nets[0], tensors, (x,))
        torch.testing.assert_close(out, torch.stack([net(x) for net in nets]), rtol=1e-4, atol=1e-5)
    assert not out.requires_grad


def test_second_derivatives_are_right() -> None:
    nets = randomised(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    x = torch.randn(N, 5, 3)
    penalties = []
    for net, one in zip(nets, x, strict=True):
        one = one.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(one).sum(), one, create_graph=True)
        penalties.append(torch.autograd.grad(g.square().sum(), net[0].weight)[0])
    tensors, own = stacked(nets), x.clone().requires_grad_()
    out = stacked_call(nets[0], nets[0], tensors, (own,), in_dims=(0,))
    (g,) = torch.autograd.grad(out.sum(), own, create_graph=True)
    (second,) = torch.autograd.grad(g.square().sum(), tensors["0.weight"])
    torch.testing.assert_close(second, torch.stack(penalties))


@pytest.mark.usefixtures("everything_deferred")
def test_second_derivatives_of_a_convolution_in_chunks_are_right() -> None:
    nets = randomised(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Tanh()))
    x = torch.randn(N, 5, 1, 8, 8)
    expected = []
    for net, one in zip(nets, x, strict=True):
        one = one.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(one).sum(), one, create_graph=True)
        expected.append(torch.autograd.grad(g.square().sum(), net[0].weight)[0])
    tensors, own = stacked(nets), x.clone().requires_grad_()
    (g,) = torch.autograd.grad(
        stacked_call(nets[0], nets[0], tensors, (own,), in_dims=(0,)).sum(), own, create_graph=True
    )
    (second,) = torch.autograd.grad(g.square().sum(), tensors["0.weight"])
    torch.testing.assert_close(second, torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_dropout_draws_differ_between_particles_unless_asked_to_be_the_same() -> None:
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5))
    tensors = stacked([net] * N)
    x = torch.ones(2, 4)
    different = stacked_call(net, net, tensors, (x,)) == 0
    same = stacked_call(net, net, tensors, (x,), randomness="same") == 0
    assert (different[0] != different[1]).any()
    assert (same[0] == same[1]).all()


class Counter(nn.Module):
    calls: Tensor
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.largest = torch.maximum(self.largest, (self.scale * x).detach().max())
        return self.scale * x


def test_buffers_changed_in_place_or_by_assignment_end_up_in_the_stack() -> None:
    nets = randomised(Counter)
    tensors = stacked(nets)
    memory = tensors["largest"].data_ptr()
    for _ in range(2):
        stacked_call(nets[0], nets[0], tensors, (torch.arange(4.0),))
        for net in nets:
            template_calls = nets[0].calls.item()
            net(torch.arange(4.0))
            assert nets[0].calls.item() - template_calls in (0, 1)
    for name in ("calls", "largest"):
        torch.testing.assert_close(tensors[name], torch.stack([getattr(net, name) for net in nets]))
    assert tensors["largest"].data_ptr() == memory


def test_what_is_no_tensor_is_returned_as_it_is() -> None:
    net = nn.Linear(3, 2)

    def step(batch: tuple[Tensor, list[str]], number: int) -> dict[str, Any]:
        return {"loss": net(batch[0]).sum(), "names": batch[1], "number": number, "nothing": None}

    out = stacked_call(net, step, stacked([net] * N), ((torch.ones(4, 3), ["a", "b"]), 7))
    assert out["loss"].shape == (N,)
    assert (out["names"], out["number"], out["nothing"]) == (["a", "b"], 7, None)


def test_what_depends_on_values_is_vmaps_error() -> None:
    net = nn.Linear(3, 1)
    with pytest.raises(RuntimeError, match="item"):
        stacked_call(net, lambda x: x if net(x).sum().item() > 0 else -x, stacked([net] * N), (torch.ones(2, 3),))


def test_ways_are_chosen_once_and_can_be_carried_to_another_run(tuner: Autotuner) -> None:
    nets, x = randomised(lambda: nn.Conv2d(2, 4, 3)), torch.randn(4, 2, 12, 12)
    state = torch.get_rng_state()
    before = {name: tensor.detach().clone() for name, tensor in stacked(nets).items()}
    stacked_call(nets[0], nets[0], stacked(nets), (x,)).sum().backward()
    (key,) = tuner.state_dict()
    assert torch.equal(torch.get_rng_state(), state)  # timing has drawn nothing
    torch.testing.assert_close(stacked(nets), before, rtol=0, atol=0)

    tuner.load_state_dict({key: "separate channels_last"})
    out = stacked_call(nets[0], nets[0], stacked(nets), (x,))
    assert tuner.state_dict() == {key: "separate channels_last"}
    torch.testing.assert_close(out[1], nets[1](x), rtol=1e-4, atol=1e-5)
    stacked_call(nets[0], nets[0], stacked(nets), (torch.randn(5, 2, 12, 12),))  # a batch of nearly that size
    assert len(tuner.state_dict()) == 1


def test_a_choice_that_this_version_does_not_know_is_made_again(tuner: Autotuner) -> None:
    nets, x = randomised(lambda: nn.Conv2d(2, 4, 3)), torch.randn(4, 2, 12, 12)
    stacked_call(nets[0], nets[0], stacked(nets), (x,))
    (key,) = tuner.state_dict()
    tuner.load_state_dict({key: "by magic"})
    stacked_call(nets[0], nets[0], stacked(nets), (x,))
    assert tuner.state_dict()[key] != "by magic"


def test_nothing_is_timed_where_the_same_computation_is_asked_for(tuner: Autotuner) -> None:
    nets, x = randomised(lambda: nn.Conv2d(2, 4, 3)), torch.randn(4, 2, 12, 12)
    with PARTS.disabled("autotuning"):
        stacked_call(nets[0], nets[0], stacked(nets), (x,))
    torch.use_deterministic_algorithms(True)
    try:
        stacked_call(nets[0], nets[0], stacked(nets), (x,))
    finally:
        torch.use_deterministic_algorithms(False)
    assert tuner.state_dict() == {}


def test_a_way_that_cannot_be_computed_here_is_not_chosen(tuner: Autotuner) -> None:
    x = torch.ones(2, requires_grad=True)

    def fails() -> Tensor:
        raise RuntimeError("not implemented for 'Half'")

    names = ("first", "second")
    assert tuner.choose("half", names, "first", lambda: ({"first": fails, "second": lambda: 2 * x}, [x])) == "second"
    with pytest.raises(RuntimeError, match="not implemented"):
        tuner.choose("none", names, "first", lambda: ({"first": fails, "second": fails}, [x]))


@pytest.mark.parametrize("own", [False, True], ids=["shared input", "own input"])
@pytest.mark.parametrize("part", [field.name for field in fields(PARTS)])
def test_the_result_is_the_same_without_an_optional_part(
    part: str, own: bool, tuner: Autotuner, everything_deferred: None
) -> None:
    nets, x = randomised(Mixed), torch.randn(N, 4, 2, 12, 12) if own else torch.randn(4, 2, 12, 12)
    with_it = stacked_call(nets[0], nets[0], stacked(nets), (x,), in_dims=(0 if own else None,))
    with PARTS.disabled(part):
        without_it = stacked_call(nets[0], nets[0], stacked(nets), (x,), in_dims=(0 if own else None,))
        check(nets, x, own)
    torch.testing.assert_close(with_it, without_it)


def test_the_core_imports_no_optional_part() -> None:
    """Deleting the files of the optional parts and their lines in the face leaves the rest working."""
    folder = Path(stacking.__file__).parent
    parts = [field.name for field in fields(PARTS)]
    for file in folder.glob("*.py"):
        if file.stem not in parts and file.stem != "__init__":
            imported = {
                node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
            }
            assert not imported & {f"{stacking.__name__}.{part}" for part in parts}, file


def test_an_optional_part_has_a_name() -> None:
    message = "'speed' is not an optional part; accepted are fusion, autotuning, allocator"
    with pytest.raises(ValueError, match=message), PARTS.disabled("speed"):
        pass
