"""Networks as vectors: they add up, scale, and never share memory with anything."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_evo.functional import Particle


def net(seed=0, width=3, counted=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    module[1].running_mean.normal_()
    module[1].num_batches_tracked.fill_(counted)
    return module


coefficients = st.floats(-4, 4, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-3)
particles = st.integers(0, 5).map(lambda seed: Particle.of(net(seed, counted=seed)))
stacks = st.integers(0, 3).map(lambda seed: Particle.stack([net(seed + at, counted=at) for at in range(3)]))


def assert_close(one, other):
    """Equal up to rounding where they hold floats."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, other[name], atol=1e-5, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.tuples(particles, particles, particles), st.tuples(stacks, stacks, stacks)), coefficients, coefficients
)
def test_particles_are_a_vector_space(three, x, y):
    a, b, c = three
    assert_close(a + b, b + a)
    assert_close((a + b) + c, a + (b + c))
    assert_close(a + a.zeros_like(), a)
    assert_close(a - a, a.zeros_like())
    assert_close(a - b, a + -b)
    assert_close(x * (a + b), x * a + x * b)
    assert_close((x + y) * a, x * a + y * a)
    assert_close(x * (y * a), (x * y) * a)
    assert_close(1.0 * a, a)
    assert_close(a / 4, 0.25 * a)
    assert_close(a * x, x * a)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(coefficients, st.integers(0, 9)), min_size=1, max_size=4), st.randoms())
def test_integers_come_from_the_largest_coefficient_in_whatever_order_the_terms_stand(terms, random):
    def combined(order):
        total = order[0][0] * Particle.of(net(0, counted=order[0][1]))
        for coefficient, count in order[1:]:
            total = total + coefficient * Particle.of(net(0, counted=count))
        return int(total["1.num_batches_tracked"])

    largest = max(abs(coefficient) for coefficient, _ in terms)
    expected = max(count for coefficient, count in terms if abs(coefficient) == largest)
    shuffled = list(terms)
    random.shuffle(shuffled)
    assert combined(terms) == combined(shuffled) == expected


def test_half_of_one_and_half_of_another_is_the_network_in_between():
    one, other, between = net(1), net(2), net(3)
    (0.5 * Particle.of(one) + 0.5 * Particle.of(other)).load_into(between)
    for name, tensor in between.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (one.state_dict()[name] + other.state_dict()[name]) / 2)


@pytest.mark.parametrize(
    "operation",
    [
        lambda a: a + a,
        lambda a: a - a,
        lambda a: 1.0 * a,
        lambda a: -a,
        lambda a: +a,
        lambda a: a.clone(),
        lambda a: a.random_like(),
        lambda a: a.zeros_like(),
        lambda a: Particle.of(a),
        lambda a: Particle.stack([a, a]),
        lambda a: Particle.stack([a, a]).unstack()[0],
        copy.deepcopy,
        lambda a: pickle.loads(pickle.dumps(a)),
    ],
)
def test_nothing_a_particle_makes_shares_memory_with_it_or_its_module(operation):
    module = net()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    a = Particle.of(module)
    made = operation(a)
    for tensor in made.values():
        tensor.fill_(7)
    assert all(torch.equal(a[name], tensor) for name, tensor in state.items())
    for tensor in a.values():
        tensor.fill_(5)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in state.items())


def test_writing_into_a_module_keeps_its_parameters_gradients_and_autograd():
    module, source = net(1), net(2)
    module[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.ones(4, 2)).sum().backward()
    parameters, gradient = list(module.parameters()), module[0].weight.grad.clone()
    Particle.of(source).load_into(module)
    assert all(one is other for one, other in zip(parameters, module.parameters(), strict=True))
    assert optimizer.param_groups[0]["params"][0] is module[0].weight
    assert torch.equal(module[0].weight, source[0].weight)
    assert torch.equal(module[0].weight.grad, gradient)
    assert module[0].weight.requires_grad
    assert not module[0].bias.requires_grad
    assert module[0].weight.is_leaf


def test_values_are_unknown_to_autograd():
    a = Particle.of(net())
    assert not any(tensor.requires_grad for tensor in (a + 2.0 * a).values())


def test_half_precision_stays_half_and_is_computed_wider():
    a = Particle({"w": torch.tensor([60000.0], dtype=torch.float16)})
    halved = 0.5 * a + 0.5 * a
    assert halved["w"].dtype == torch.float16
    assert halved["w"].item() == 60000.0


def test_norms_products_and_distances_are_those_of_one_long_vector():
    a, b = Particle.of(net(1)), Particle.of(net(2))
    flat = [torch.cat([t.flatten().double() for t in one.values() if t.is_floating_point()]) for one in (a, b)]
    for p in (1.0, 2.0, 3.0, float("inf")):
        torch.testing.assert_close(a.norm(p), flat[0].norm(p).float())
    torch.testing.assert_close(a.dot(b), flat[0] @ flat[1])
    torch.testing.assert_close(a.distance(b), (flat[0] - flat[1]).norm().float())
    with pytest.raises(ValueError, match=r"p: 0.5 is not at least 1"):
        a.norm(0.5)


def test_a_stack_does_for_each_network_what_it_would_do_alone():
    nets = [net(seed, counted=seed) for seed in range(3)]
    stack, alone = Particle.stack(nets), [Particle.of(one) for one in nets]
    factors = torch.tensor([0.5, -1.0, 2.0])
    for scaled, factor, one in zip((factors * stack).unstack(), factors.tolist(), alone, strict=True):
        assert_close(scaled, factor * one)
    torch.testing.assert_close(stack.norm(), torch.stack([one.norm() for one in alone]))
    torch.testing.assert_close(stack.dot(stack), torch.stack([one.dot(one) for one in alone]))
    assert all(one == other for one, other in zip(stack.unstack(), alone, strict=True))


def test_a_stack_is_written_into_as_many_modules_or_none():
    nets = [net(seed) for seed in range(3)]
    mean = Particle.of(nets[0]) / 3 + Particle.of(nets[1]) / 3 + Particle.of(nets[2]) / 3
    Particle.stack([mean] * 3).load_into(nets)
    for one in nets:
        assert all(torch.equal(tensor, mean[name]) for name, tensor in one.state_dict().items())
    stack = Particle.stack([net(7)] * 3)
    for target, said in ((nets[0], "a stack of 3 can't be written into a module"), (nets[:2], "into 2 modules")):
        with pytest.raises(ValueError, match=said):
            stack.load_into(target)
    with pytest.raises(ValueError, match=r"differ in 0\.weight"):
        stack.load_into([nets[0], nets[1], net(width=4)])
    assert torch.equal(nets[0][0].weight, mean["0.weight"])
    with pytest.raises(ValueError, match="a single network can't be written into 3 modules"):
        mean.load_into(nets)


def test_a_random_particle_follows_from_its_generator_alone():
    a = Particle.of(net(counted=4))
    state = torch.random.get_rng_state()
    drawn = [a.random_like(torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert drawn[0] == drawn[1] != a
    assert int(drawn[0]["1.num_batches_tracked"]) == 4


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (net(width=4), r"differ in 0.weight: shape \(3, 2\) and \(4, 2\)"),
        (nn.Linear(2, 1), r"different architectures: 0.weight and \d+ more is in one of them only"),
        (net().half(), r"differ in 0.weight: dtype torch.float32 and torch.float16"),
        (net().to("meta"), "differ in 0.weight: on cpu and meta"),
    ],
)
def test_networks_that_differ_are_refused_and_the_first_difference_named(other, said):
    with pytest.raises(ValueError, match=said):
        Particle.of(net()) + Particle.of(other)
    if "meta" not in said:
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(ValueError, match=said):
            Particle.of(net()).load_into(other)
        assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())


def test_what_is_no_vector_is_refused():
    a, stack = Particle.of(net()), Particle.stack([net(), net()])
    with pytest.raises(ValueError, match="one is a single network, the other a stack of 2"):
        a + stack
    with pytest.raises(ValueError, match=r"a coefficient of shape \(3,\) does not fit a stack of 2"):
        torch.ones(3) * stack
    with pytest.raises(ValueError, match=r"a coefficient of shape \(2,\) does not fit a single network"):
        a * torch.ones(2)
    with pytest.raises(ValueError, match="not a stack"):
        a.unstack()
    with pytest.raises(ValueError, match="no network to stack"):
        Particle.stack([])
    with pytest.raises(TypeError, match="w is a float, not a tensor"):
        Particle({"w": 1.0})
    with pytest.raises(ValueError, match="at least one tensor"):
        Particle.of(nn.ReLU())
    with pytest.raises(ValueError, match="has no shape yet"):
        Particle.of(nn.LazyLinear(2))
    for operation in (lambda: a + 1, lambda: a * "2", lambda: a * a, lambda: torch.add(torch.ones(2), a)):
        with pytest.raises(TypeError):
            operation()
