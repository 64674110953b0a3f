"""Stacked optimizer steps are each particle's own: the same numbers as torch.optim gives it alone."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from lightning_evo.functional.stacking.optimizers import (
    can_stack,
    clip_gradient_norms,
    clip_gradient_values,
    finite_gradients,
    gradient_norms,
    stacked_step,
)

SHAPES = ((4, 3), (4,), ())
PARTICLES = 3


def gradient(seed: int, particle: int, step: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(10_000 * seed + 100 * particle + step)
    return torch.randn(shape, generator=generator)


class Both:
    """The same particles, trained by one optimizer each and by stacked steps."""

    def __init__(self, kind: type[Optimizer], options: list[dict[str, Any]], seed: int = 0) -> None:
        self.seed, self.steps = seed, 0
        weights = [[gradient(seed, particle, 99, shape) for shape in SHAPES] for particle in range(len(options))]
        self.alone = [[nn.Parameter(w.clone()) for w in particle] for particle in weights]
        self.optimizers = [kind(p, **o) for p, o in zip(self.alone, options, strict=True)]
        self.stacked = [nn.Parameter(torch.stack(tensors)) for tensors in zip(*weights, strict=True)]
        self.states: list[dict[str, Tensor]] = [{} for _ in SHAPES]

    def step(self, take: list[int] | None = None, bad: int | None = None) -> None:
        self.steps += 1
        particles = range(len(self.alone))
        for particle in particles:
            for p, shape in zip(self.alone[particle], SHAPES, strict=True):
                p.grad = gradient(self.seed, particle, self.steps, shape)
                if particle == bad:
                    p.grad.fill_(math.nan)
        for number, p in enumerate(self.stacked):
            p.grad = torch.stack([self.alone[particle][number].grad for particle in particles])
        mask = None if take is None else torch.tensor([particle in take for particle in particles])
        stacked_step(self.optimizers, [self.stacked], [self.states], take=mask)
        for particle in particles:
            if take is None or particle in take:
                self.optimizers[particle].step()

    def check(self, but: int | None = None) -> None:
        for particle, weights in enumerate(self.alone):
            if particle != but:
                for p, stack in zip(weights, self.stacked, strict=True):
                    torch.testing.assert_close(stack[particle], p, rtol=1e-5, atol=1e-6)


rates = st.floats(1e-4, 0.5)
decays = st.sampled_from([0.0, 0.01, 0.3])


@settings(max_examples=40, deadline=None)
@given(
    each=st.lists(
        st.fixed_dictionaries({"lr": rates, "weight_decay": decays, "momentum": st.sampled_from([0.0, 0.5, 0.9])}),
        min_size=1,
        max_size=PARTICLES,
    ),
    dampening=st.sampled_from([0.0, 0.4]),
    maximize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sgd_steps_equal_torchs(each: list[dict[str, float]], dampening: float, maximize: bool, seed: int) -> None:
    both = Both(SGD, [{**one, "dampening": dampening, "maximize": maximize} for one in each], seed)
    assert can_stack(both.optimizers) is None
    for _ in range(4):
        both.step()
    both.check()


@settings(max_examples=20, deadline=None)
@given(each=st.lists(st.tuples(rates, st.sampled_from([0.5, 0.9]), decays), min_size=2, max_size=PARTICLES))
def test_nesterov_steps_equal_torchs(each: list[tuple[float, float, float]]) -> None:
    both = Both(SGD, [{"lr": lr, "momentum": m, "weight_decay": decay, "nesterov": True} for lr, m, decay in each])
    for _ in range(4):
        both.step()
    both.check()


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([Adam, AdamW]),
    each=st.lists(
        st.fixed_dictionaries(
            {
                "lr": rates,
                "weight_decay": decays,
                "betas": st.tuples(st.sampled_from([0.8, 0.9]), st.sampled_from([0.95, 0.999])),
                "eps": st.sampled_from([1e-8, 1e-4]),
            }
        ),
        min_size=1,
        max_size=PARTICLES,
    ),
    amsgrad=st.booleans(),
    maximize=st.booleans(),
    seed=st.integers(0, 99),
)
def test_adam_steps_equal_torchs(
    kind: type[Optimizer], each: list[dict[str, Any]], amsgrad: bool, maximize: bool, seed: int
) -> None:
    both = Both(kind, [{**one, "amsgrad": amsgrad, "maximize": maximize} for one in each], seed)
    assert can_stack(both.optimizers) is None
    for _ in range(4):
        both.step()
    both.check()


OPTIONS = [
    (SGD, {"momentum": 0.9, "dampening": 0.5}),
    (Adam, {"weight_decay": 0.1}),
    (AdamW, {"amsgrad": True}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_settings_that_a_scheduler_changes_hold_from_the_next_step_on(kind: type[Optimizer], options: Any) -> None:
    both = Both(kind, [{"lr": 0.1, **options} for _ in range(PARTICLES)])
    for step in range(4):
        for particle, optimizer in enumerate(both.optimizers):
            optimizer.param_groups[0]["lr"] = 0.1 / (1 + step * particle)
        both.step()
    both.check()


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_a_particle_that_takes_no_step_stays_as_it_is_and_can_begin_later(kind: type[Optimizer], options: Any) -> None:
    both = Both(kind, [{"lr": 0.1, **options} for _ in range(PARTICLES)])
    for take in ([0, 2], [0], [], [0, 1, 2], [1, 2]):
        both.step(take)
        both.check()


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_gradients_that_are_not_finite_spoil_their_own_particle_alone(kind: type[Optimizer], options: Any) -> None:
    both = Both(kind, [{"lr": 0.1 * (1 + place), **options} for place in range(PARTICLES)])
    both.step()
    both.step(bad=1)
    both.step()
    both.check(but=1)
    assert all(stack[1].isnan().all() for stack in both.stacked)


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_parameters_in_half_precision_keep_to_torchs_own_steps(kind: type[Optimizer], options: Any) -> None:
    alone = [nn.Parameter(gradient(1, i, 0, (50,)).bfloat16()) for i in range(PARTICLES)]
    optimizers = [kind([p], lr=0.01 * (1 + i), **options) for i, p in enumerate(alone)]
    stack, state = nn.Parameter(torch.stack([p.detach() for p in alone])), {}
    for step in range(5):
        for i, p in enumerate(alone):
            p.grad = gradient(2, i, step, (50,)).bfloat16()
        stack.grad = torch.stack([p.grad for p in alone])
        stacked_step(optimizers, [[stack]], [[state]])
        for optimizer in optimizers:
            optimizer.step()
    assert stack.dtype == torch.bfloat16
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]), rtol=0.03, atol=0.01)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    weight, other = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.ones(2, 3)
    optimizers = [Adam([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))], lr=0.1) for _ in range(2)]
    states: list[dict[str, Tensor]] = [{}, {}]
    stacked_step(optimizers, [[weight, other]], [states])
    assert (weight < 1).all()
    assert (other == 1).all()
    assert not states[1]


def test_parameter_groups_keep_their_own_settings() -> None:
    alone = [[nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))] for _ in range(2)]
    optimizers = [
        AdamW([{"params": [a], "lr": 0.1 * (1 + i)}, {"params": [b], "weight_decay": 0.5}], lr=0.01)
        for i, (a, b) in enumerate(alone)
    ]
    stacked = [[nn.Parameter(torch.ones(2, 2))], [nn.Parameter(torch.ones(2, 3))]]
    states: list[list[dict[str, Tensor]]] = [[{}], [{}]]
    for _ in range(3):
        for p in (*(p for pair in alone for p in pair), *(p for group in stacked for p in group)):
            p.grad = torch.full_like(p, 0.3)
        stacked_step(optimizers, stacked, states)
        for optimizer in optimizers:
            optimizer.step()
    for i, pair in enumerate(alone):
        for p, (stack,) in zip(pair, stacked, strict=True):
            torch.testing.assert_close(stack[i], p)


@pytest.mark.parametrize(
    ("optimizers", "reason"),
    [
        (lambda p, q: [SGD([p], lr=0.1), Adam([q])], "particle 0 is trained by SGD, particle 1 by Adam"),
        (lambda p, q: [RMSprop([p]), RMSprop([q])], "RMSprop has no stacked form"),
        (lambda p, q: [Adam([p], amsgrad=True), Adam([q])], "amsgrad is False, for particle 0 it is True"),
        (lambda p, q: [SGD([p], lr=0.1), SGD([q], lr=0.1, maximize=True)], "maximize"),
        (lambda p, q: [Adam([p], differentiable=True), Adam([q], differentiable=True)], "differentiable"),
        (lambda p, q: [SGD([p], lr=0.1), SGD([nn.Parameter(torch.ones(5))], lr=0.1)], "parameters"),
        (lambda p, q: [SGD([p], lr=0.1), SGD([{"params": [q]}, {"params": []}], lr=0.1)], "parameter groups"),
    ],
)
def test_optimizers_that_have_no_stacked_form_are_named_with_the_reason(optimizers: Any, reason: str) -> None:
    given_optimizers = optimizers(nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3)))
    assert reason in (can_stack(given_optimizers) or "")


def test_an_optimizer_of_the_users_own_is_not_taken_for_the_class_it_extends() -> None:
    class Lookahead(Adam):
        pass

    assert "Lookahead has no stacked form" in (can_stack([Lookahead([nn.Parameter(torch.ones(1))])]) or "")


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_gradients_are_clipped_by_each_particles_own_norm(norm_type: float) -> None:
    gradients = [torch.stack([10**i * gradient(i, 0, 0, shape) for i in range(PARTICLES)]) for shape in SHAPES]
    alone = [[nn.Parameter(torch.zeros(shape)) for shape in SHAPES] for _ in range(PARTICLES)]
    norms = []
    for particle, weights in enumerate(alone):
        for p, stack in zip(weights, gradients, strict=True):
            p.grad = stack[particle].clone()
        norms.append(nn.utils.clip_grad_norm_(weights, 5.0, norm_type))
    torch.testing.assert_close(gradient_norms(gradients, norm_type), torch.stack(norms))
    torch.testing.assert_close(clip_gradient_norms(gradients, 5.0, norm_type), torch.stack(norms))
    for particle, weights in enumerate(alone):
        for p, stack in zip(weights, gradients, strict=True):
            torch.testing.assert_close(stack[particle], p.grad)


def test_clipping_and_checking_keep_particles_apart() -> None:
    gradients = [torch.tensor([[math.inf, 1.0], [3.0, 4.0]])]
    assert finite_gradients(gradients).tolist() == [False, True]
    clip_gradient_norms(gradients, 1.0)
    torch.testing.assert_close(gradients[0][1], torch.tensor([0.6, 0.8]))
    clip_gradient_values(gradients, 0.7)
    torch.testing.assert_close(gradients[0][1], torch.tensor([0.6, 0.7]))
