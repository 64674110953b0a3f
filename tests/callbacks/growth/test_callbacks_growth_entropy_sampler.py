"""Entropy is sampled on the last batches alone, leaves nothing behind, and says so where there is nothing to sample."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_evo.callbacks.growth.observation import EntropySampler
from lightning_evo.functional.entropy import covariance_entropy, histogram_entropy


def network(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(inplace)
    )


def batches(count: int, size: int = 16) -> torch.Tensor:
    return torch.randn(count, size, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def run(sampler: EntropySampler, net: nn.Module, data: torch.Tensor, total: float | None = None) -> list[int]:
    """One epoch; returns which batches were sampled."""
    sampled = []
    for number, batch in enumerate(data):
        if sampler.before_batch(number, len(data) if total is None else total):
            sampled.append(number)
        net(batch)
        sampler.after_batch()
    return sampled


def hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


def test_it_gives_the_entropies_of_the_last_batches_outputs_together():
    net, data = network(), batches(5)
    sampler = EntropySampler(batches=2, max_samples=10**6)
    sampler.arm({"conv": net[0], "linear": net[4]})
    assert run(sampler, net, data) == [3, 4]
    values = sampler.values()
    together = data[3:].flatten(0, 1)
    assert list(values) == ["conv", "linear"]
    assert values["conv"] == pytest.approx(covariance_entropy(net[0](together)).item(), abs=1e-5)
    assert values["linear"] == pytest.approx(covariance_entropy(net[:5](together)).item(), abs=1e-5)


def test_histograms_are_of_the_same_outputs():
    net, data = network(), batches(3)
    sampler = EntropySampler("histogram", batches=1, max_samples=10**6, bins=20)
    sampler.arm({"linear": net[4]})
    run(sampler, net, data)
    expected = histogram_entropy(net[:5](data[-1]), bins=20).item()
    assert sampler.values()["linear"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("entropy", ["covariance", "histogram"])
def test_an_activation_in_place_does_not_change_what_was_sampled(entropy):
    values = []
    for inplace in (False, True):
        net = network(inplace)
        sampler = EntropySampler(entropy)
        sampler.arm({"conv": net[0], "linear": net[4]})
        run(sampler, net, batches(2))
        values.append(sampler.values())
    assert values[0] == values[1]


def test_hooks_are_there_during_sampled_batches_alone():
    net = network()
    sampler = EntropySampler(batches=2)
    sampler.arm({"conv": net[0], "linear": net[4]})
    there = []
    for number in range(5):
        sampler.before_batch(number, 5)
        there.append(hooks(net))
        sampler.after_batch()
        assert hooks(net) == 0
    assert there == [0, 0, 0, 2, 2]


def test_an_epoch_of_fewer_batches_is_sampled_whole_and_one_of_unknown_length_at_its_beginning():
    net = network()
    sampler = EntropySampler(batches=2)
    sampler.arm({"conv": net[0]})
    assert run(sampler, net, batches(1)) == [0]
    assert run(sampler, net, batches(4), total=math.inf) == [0, 1]


def test_each_epoch_starts_anew():
    net = network()
    sampler = EntropySampler(batches=1)
    sampler.arm({"conv": net[0]})
    run(sampler, net, batches(2))
    first = sampler.values()
    assert math.isnan(sampler.values()["conv"])
    run(sampler, net, batches(2))
    assert sampler.values() == first


def test_a_layer_that_does_not_run_or_puts_out_no_floats_is_nan():
    net = network()

    class Whole(nn.Module):
        def forward(self, inputs):
            return inputs.long()

    whole, idle, unbatched = Whole(), nn.Linear(3, 3), nn.Linear(3, 3)
    sampler = EntropySampler()
    sampler.arm({"idle": idle, "whole": whole, "unbatched": unbatched, "conv": net[0]})
    sampler.before_batch(0, 1)
    net(batches(1)[0])
    whole(torch.ones(4, 4))
    unbatched(torch.ones(3))
    sampler.after_batch()
    values = sampler.values()
    assert [math.isnan(values[name]) for name in ("idle", "whole", "unbatched", "conv")] == [True, True, True, False]


def test_nothing_armed_is_nothing_sampled():
    sampler = EntropySampler()
    assert not sampler.before_batch(0, 1)
    assert sampler.values() == {}


def test_channels_of_sequences_are_last_and_of_a_tuple_the_first_output_counts():
    torch.manual_seed(0)
    recurrent, linear = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)
    inputs = torch.randn(8, 7, 3)
    sampler = EntropySampler()
    sampler.arm({"recurrent": recurrent, "linear": linear})
    sampler.before_batch(0, 1)
    hidden = recurrent(inputs)[0]
    out = linear(hidden)
    sampler.after_batch()
    values = sampler.values()
    assert values["recurrent"] == pytest.approx(covariance_entropy(hidden, channel=-1).item(), abs=1e-5)
    assert values["linear"] == pytest.approx(covariance_entropy(out, channel=-1).item(), abs=1e-5)


def test_a_layer_that_runs_twice_counts_twice():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    inputs = torch.randn(16, 4)
    sampler = EntropySampler()
    sampler.arm({"layer": layer})
    sampler.before_batch(0, 1)
    outputs = [layer(inputs)]
    outputs.append(layer(outputs[0]))
    sampler.after_batch()
    assert sampler.values()["layer"] == pytest.approx(covariance_entropy(torch.cat(outputs)).item(), abs=1e-5)


def test_half_precision_outputs_are_sampled():
    net = network()
    sampler = EntropySampler()
    sampler.arm({"conv": net[0], "linear": net[4]})
    sampler.before_batch(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        net(batches(1)[0])
    sampler.after_batch()
    assert all(0 < value <= 1 for value in sampler.values().values())


def test_samples_and_channels_are_limited():
    layer = nn.Conv2d(1, 40, 3)
    sampler = EntropySampler(max_samples=50, max_channels=10)
    sampler.arm({"layer": layer})
    sampler.before_batch(0, 1)
    out = layer(batches(1)[0])
    sampler.after_batch()
    expected = covariance_entropy(out, max_samples=50, max_channels=10).item()
    assert sampler.values()["layer"] == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(covariance_entropy(out).item(), abs=1e-3)


def test_ranks_are_averaged_by_one_reduction():
    net = network()
    sampler = EntropySampler()
    sampler.arm({"conv": net[0], "linear": net[4]})
    run(sampler, net, batches(2))
    calls = []

    def reduce(vector):
        calls.append(vector.shape)
        return vector / 2

    halved = sampler.values(reduce)
    run(sampler, net, batches(2))
    whole = sampler.values()
    assert calls == [(2,)]
    assert list(halved.values()) == pytest.approx([value / 2 for value in whole.values()], abs=1e-6)


def test_after_an_exception_disarming_takes_the_hooks_off():
    net = network()
    sampler = EntropySampler()
    sampler.arm({"conv": net[0]})
    sampler.before_batch(0, 1)
    sampler.disarm()
    assert hooks(net) == 0
    assert sampler.values() == {}


def test_training_is_the_same_with_and_without():
    def train(sampled: bool) -> list[torch.Tensor]:
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        sampler = EntropySampler()
        if sampled:
            sampler.arm({"conv": net[0], "linear": net[4]})
        for number, batch in enumerate(batches(4)):
            sampler.before_batch(number, 4)
            optimizer.zero_grad()
            nn.functional.dropout(net(batch), 0.5).square().mean().backward()
            optimizer.step()
            sampler.after_batch()
        sampler.values()
        return list(net.parameters())

    assert all(torch.equal(one, other) for one, other in zip(train(True), train(False), strict=True))


class Child(nn.Module):
    """A module with code of its own around another."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


@pytest.mark.parametrize("inner", [False, True], ids=["whole", "child"])
def test_a_compiled_network_is_sampled_and_not_compiled_again(inner):
    compiled = []

    def backend(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    net = network()
    expected = covariance_entropy(net[0](batches(3)[-1])).item()
    if inner:
        child = Child(net)  # torch 2.6 doesn't compile torch's own classes in place
        child.compile(backend=backend)
        whole: nn.Module = nn.Sequential(child)
    else:
        whole = torch.compile(net, backend=backend)
    sampler = EntropySampler(batches=1, max_samples=10**6)
    sampler.arm({"conv": net[0]})
    data = batches(3)
    run(sampler, whole, data)
    once = len(compiled)
    assert once >= 1
    assert sampler.values()["conv"] == pytest.approx(expected, abs=1e-5)
    run(sampler, whole, data)
    assert len(compiled) == once
    assert sampler.values()["conv"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entropy": "other"}, "entropy: 'other' is not 'covariance' or 'histogram'"),
        ({"batches": 0}, "batches: 0 is not at least 1"),
        ({"max_samples": 1}, "max_samples: 1 is not at least 2"),
        ({"max_channels": 1}, "max_channels: 1 is not at least 2"),
        ({"bins": 1}, "bins: 1 is not at least 2"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EntropySampler(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_batch_waits_for_the_device():
    net, data = network().cuda(), batches(3).cuda()
    sampler = EntropySampler(batches=2)
    sampler.arm({"conv": net[0], "linear": net[4]})
    mode = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        assert run(sampler, net, data) == [1, 2]
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert all(0 < value <= 1 for value in sampler.values().values())
