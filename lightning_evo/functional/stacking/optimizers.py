"""Steps of N optimizers computed at once: the updates of ``torch.optim``, stacked, with each particle's own settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lightning_evo._compat.torch import (
    foreach_add,
    foreach_add_,
    foreach_addcdiv_,
    foreach_addcmul,
    foreach_addcmul_,
    foreach_div,
    foreach_div_,
    foreach_lerp_,
    foreach_maximum_,
    foreach_mul,
    foreach_mul_,
    foreach_neg,
    foreach_sqrt,
)

__all__ = [
    "can_stack",
    "clip_gradient_norms",
    "clip_gradient_values",
    "finite_gradients",
    "gradient_norms",
    "stacked_step",
]

_Group = Mapping[str, Any]
_Factor = float | list[Tensor]
"""One number for all particles, or for each parameter a tensor (N, 1, ...) with one for each particle."""

_ALIKE = {
    SGD: ("nesterov", "maximize"),
    Adam: ("amsgrad", "maximize", "decoupled_weight_decay"),
    AdamW: ("amsgrad", "maximize", "decoupled_weight_decay"),
}
"""Settings that select the computation, and so must be equal for all particles."""

_REFUSED = ("differentiable", "capturable")


def can_stack(optimizers: Sequence[Optimizer]) -> str | None:
    """Why :func:`stacked_step` can't take the steps of these optimizers, one per particle; ``None`` if it can.

    It covers SGD, Adam and AdamW of ``torch.optim``, with any learning rates, weight decays, momenta, dampenings, betas and
    eps; switches (``nesterov``, ``maximize``, ``amsgrad``) must be equal.

    >>> parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    >>> can_stack([SGD([p], lr=lr) for p, lr in zip(parameters, (0.1, 0.2))])
    >>> can_stack([SGD([parameters[0]], lr=0.1), Adam([parameters[1]])])
    'particle 0 is trained by SGD, particle 1 by Adam'
    """
    first = optimizers[0]
    for place, optimizer in enumerate(optimizers):
        if type(optimizer) is not type(first):
            return f"particle 0 is trained by {type(first).__name__}, particle {place} by {type(optimizer).__name__}"
        if len(optimizer.param_groups) != len(first.param_groups):
            return (
                f"the optimizer of particle 0 has {len(first.param_groups)} parameter groups,"
                f" that of particle {place} {len(optimizer.param_groups)}"
            )
    if type(first) not in _ALIKE:
        return f"{type(first).__name__} has no stacked form; SGD, Adam and AdamW have"
    for place, optimizer in enumerate(optimizers):
        for number, (group, model) in enumerate(zip(optimizer.param_groups, first.param_groups, strict=True)):
            reason = _group_reason(group, model, _ALIKE[type(first)])
            if reason is not None:
                return f"parameter group {number} of particle {place}'s {type(first).__name__}: {reason}"
    return None


def _group_reason(group: _Group, model: _Group, alike: Iterable[str]) -> str | None:
    if [p.shape for p in group["params"]] != [p.shape for p in model["params"]]:
        return "its parameters aren't those of particle 0"
    for name in alike:
        if group.get(name) != model.get(name):
            return f"{name} is {group.get(name)}, for particle 0 it is {model.get(name)}"
    for name in _REFUSED:
        if group.get(name):
            return f"{name} has no stacked form"
    if isinstance(group["lr"], Tensor) and group["lr"].device.type != "cpu":
        return "its learning rate is a tensor on the device"
    if any(p.is_complex() for p in group["params"]):
        return "its parameters are complex"
    return None


@torch.no_grad()
def stacked_step(
    optimizers: Sequence[Optimizer],
    parameters: Sequence[Sequence[Tensor]],
    states: Sequence[Sequence[dict[str, Tensor]]],
    *,
    take: Tensor | None = None,
) -> None:
    """Take one step of every particle, in place, as its own optimizer would: equal up to rounding.

    Particles don't affect each other: gradients that aren't finite spoil only their own particle.

    Args:
        optimizers: One per particle; :func:`can_stack` must return ``None`` for them. Only the settings in their
            ``param_groups`` are read, which may differ between particles and change between steps.
        parameters: For each parameter group its parameters, each stacked, (N, ...), with stacked gradients; those without
            a gradient don't change.
        states: For each parameter the optimizers' state, stacked, (N, ...), under ``torch.optim``'s names: ``exp_avg``,
            ``exp_avg_sq``, ``max_exp_avg_sq``, ``momentum_buffer``, and ``step``, (N,) on the CPU. Empty before the first
            step; filled and changed in place. SGD's has a ``step``, too: a particle has momentum only after its first step.
        take: Which particles take the step, (N,) bool; all by default. Weights and states of the others don't change.

    >>> w = torch.zeros(2, 3, requires_grad=True)  # two particles of three weights
    >>> w.grad = torch.ones(2, 3)
    >>> optimizers = [SGD([torch.nn.Parameter(torch.zeros(3))], lr=lr) for lr in (0.1, 0.5)]
    >>> stacked_step(optimizers, [[w]], [[{}]])
    >>> w
    tensor([[-0.1000, -0.1000, -0.1000],
            [-0.5000, -0.5000, -0.5000]], requires_grad=True)
    """
    kind = type(optimizers[0])
    rows = None if take is None or bool(take.all()) else take.nonzero().flatten().tolist()
    if rows == []:
        return
    for number, (group_parameters, group_states) in enumerate(zip(parameters, states, strict=True)):
        groups: list[_Group] = [optimizer.param_groups[number] for optimizer in optimizers]
        pairs = [(p, state) for p, state in zip(group_parameters, group_states, strict=True) if p.grad is not None]
        if not pairs:
            continue
        for p, state in pairs:
            _add_missing_state(kind, groups, p, state)
        gradients = [p.grad for p, _ in pairs if p.grad is not None]
        if rows is None:
            _UPDATES[kind](groups, [p for p, _ in pairs], gradients, [state for _, state in pairs])
        else:
            _update_rows(_UPDATES[kind], groups, pairs, gradients, rows)


_Update = Callable[[list[_Group], list[Tensor], list[Tensor], list[dict[str, Tensor]]], None]


def _update_rows(
    update: _Update,
    groups: list[_Group],
    pairs: list[tuple[Tensor, dict[str, Tensor]]],
    gradients: list[Tensor],
    rows: list[int],
) -> None:
    """The update of some particles' rows, on copies that are written back: rarely needed, so simplicity comes first."""
    chosen = [p[rows] for p, _ in pairs]
    states = [{name: value[rows] for name, value in state.items()} for _, state in pairs]
    update([groups[row] for row in rows], chosen, [gradient[rows] for gradient in gradients], states)
    for (p, state), new, new_state in zip(pairs, chosen, states, strict=True):
        p[rows] = new
        for name, value in new_state.items():
            state[name][rows] = value


def _add_missing_state(kind: type[Optimizer], groups: list[_Group], p: Tensor, state: dict[str, Tensor]) -> None:
    """Add zeros where a parameter has no state yet."""
    names = ["exp_avg", "exp_avg_sq"] if kind is not SGD else []
    if kind is SGD and any(group["momentum"] for group in groups):
        names.append("momentum_buffer")
    if kind is not SGD and groups[0]["amsgrad"]:
        names.append("max_exp_avg_sq")
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(p, memory_format=torch.preserve_format, requires_grad=False)
    if names and "step" not in state:
        state["step"] = torch.zeros(len(p))


def _sgd(
    groups: list[_Group], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]]
) -> None:
    factors = _Factors(parameters)
    updates = _with_decay(groups, parameters, _ascending(groups, gradients), factors)
    momenta = [float(group["momentum"]) for group in groups]
    if any(momenta):
        buffers = [state["momentum_buffer"] for state in states]
        begun = [state["step"] > 0 for state in states]
        # The first step uses the plain gradient, and so does every step of a particle without momentum.
        shares = [1 - float(group["dampening"]) if group["momentum"] else 1.0 for group in groups]
        first = [[share if old else 1.0 for share, old in zip(shares, b.tolist(), strict=True)] for b in begun]
        foreach_mul_(buffers, factors(momenta))
        _add(buffers, updates, factors.each(first))
        for state in states:
            state["step"] += 1
        updates = _sum(updates, buffers, factors(momenta)) if groups[0]["nesterov"] else buffers
    _add(parameters, updates, factors([-float(group["lr"]) for group in groups]))


def _adam(
    groups: list[_Group],
    parameters: list[Tensor],
    gradients: list[Tensor],
    states: list[dict[str, Tensor]],
    decoupled: bool = False,
) -> None:
    factors = _Factors(parameters)
    rates = [float(group["lr"]) for group in groups]
    gradients = _ascending(groups, gradients)
    if groups[0].get("decoupled_weight_decay", decoupled):  # torch 2.6 has no such setting
        kept = [1 - rate * group["weight_decay"] for rate, group in zip(rates, groups, strict=True)]
        if any(factor != 1 for factor in kept):
            foreach_mul_(parameters, factors(kept))
    else:
        gradients = _with_decay(groups, parameters, gradients, factors)
    beta1, beta2 = ([float(group["betas"][i]) for group in groups] for i in (0, 1))
    for state in states:
        state["step"] += 1
    steps = [state["step"].tolist() for state in states]
    means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]

    new = factors([1 - beta for beta in beta1])
    if isinstance(new, float):
        foreach_lerp_(means, gradients, new)
    else:  # foreach_lerp takes only weights of the parameters' own data type
        foreach_mul_(means, factors(beta1))
        foreach_addcmul_(means, gradients, new)
    foreach_mul_(squares, factors(beta2))
    added = factors([1 - beta for beta in beta2])
    if isinstance(added, float):
        foreach_addcmul_(squares, gradients, gradients, value=added)
    else:
        foreach_addcmul_(squares, foreach_mul(gradients, gradients), added)
    if groups[0]["amsgrad"]:
        largest = [state["max_exp_avg_sq"] for state in states]
        foreach_maximum_(largest, squares)
        squares = largest
    roots = foreach_sqrt(squares)
    corrections = [[math.sqrt(1 - beta**t) for beta, t in zip(beta2, at, strict=True)] for at in steps]
    foreach_div_(roots, factors.each(corrections))
    foreach_add_(roots, factors([float(group["eps"]) for group in groups]))
    sizes = factors.each(
        [[-rate / (1 - beta**t) for rate, beta, t in zip(rates, beta1, at, strict=True)] for at in steps]
    )
    if isinstance(sizes, float):
        foreach_addcdiv_(parameters, means, roots, value=sizes)
    else:
        _add(parameters, list(foreach_div(means, roots)), sizes)


_UPDATES: dict[type[Optimizer], _Update] = {SGD: _sgd, Adam: _adam, AdamW: partial(_adam, decoupled=True)}


class _Factors:
    """One number for each particle, in a form that can be multiplied with stacked parameters."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def __call__(self, numbers: list[float]) -> _Factor:
        """One number if it is the same for all particles, which takes one kernel for all parameters; otherwise tensors."""
        return self.each([numbers] * len(self.parameters))

    def each(self, numbers: list[list[float]]) -> _Factor:
        """The same for N numbers for each parameter."""
        first = numbers[0][0]
        if all(number == first for row in numbers for number in row):
            return first
        return [self._tensor(tuple(row), p) for row, p in zip(numbers, self.parameters, strict=True)]

    def _tensor(self, numbers: tuple[float, ...], p: Tensor) -> Tensor:
        # A learning rate in half precision would be off by up to 0.4 percent; torch.optim uses Python numbers.
        dtype = torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype
        key = (numbers, dtype, p.device, p.dim())
        if key not in self._made:
            self._made[key] = torch.tensor(numbers, dtype=dtype, device=p.device).view(-1, *[1] * (p.dim() - 1))
        return self._made[key]


def _ascending(groups: list[_Group], gradients: list[Tensor]) -> list[Tensor]:
    return list(foreach_neg(gradients)) if groups[0]["maximize"] else gradients


def _with_decay(
    groups: list[_Group], parameters: list[Tensor], gradients: list[Tensor], factors: _Factors
) -> list[Tensor]:
    decays = [float(group["weight_decay"]) for group in groups]
    if not any(decays):
        return gradients
    return _sum(gradients, parameters, factors(decays))


def _add(tensors: list[Tensor], updates: list[Tensor], factor: _Factor) -> None:
    """``tensors += factor * updates``."""
    if isinstance(factor, float):
        foreach_add_(tensors, updates, alpha=factor)
    else:
        foreach_addcmul_(tensors, updates, factor)


def _sum(tensors: list[Tensor], updates: list[Tensor], factor: _Factor) -> list[Tensor]:
    """``tensors + factor * updates``."""
    if isinstance(factor, float):
        return list(foreach_add(tensors, updates, alpha=factor))
    return list(foreach_addcmul(tensors, updates, factor))


def gradient_norms(gradients: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all gradients of each particle together, (N,).

    Args:
        gradients: Stacked, each (N, ...).
        norm_type: The p of the p-norm; ``math.inf`` for the largest absolute value.

    >>> gradient_norms([torch.tensor([[3.0], [0.0]]), torch.tensor([[[4.0]], [[1.0]]])])
    tensor([5., 1.])
    """
    norms = [torch.linalg.vector_norm(_rows(gradient), norm_type, dim=1) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]), norm_type, dim=0)


@torch.no_grad()
def clip_gradient_norms(gradients: Sequence[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale each particle's gradients, in place, so that their norm is at most ``max_norm``; return the norms before, (N,).

    This is :func:`torch.nn.utils.clip_grad_norm_` for each particle. A norm that isn't finite affects no other particle.

    >>> gradients = [torch.tensor([[3.0, 4.0], [0.3, 0.4]])]
    >>> clip_gradient_norms(gradients, 1.0)
    tensor([5.0000, 0.5000])
    >>> gradients
    [tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])]
    """
    norms = gradient_norms(gradients, norm_type)
    factors = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.to(gradient).view(-1, *[1] * (gradient.dim() - 1)))
    return norms


@torch.no_grad()
def clip_gradient_values(gradients: Sequence[Tensor], clip_value: float) -> None:
    """Clamp every element of the gradients to ±``clip_value``, in place, as ``torch.nn.utils.clip_grad_value_`` does.

    >>> gradients = [torch.tensor([[3.0], [-0.5]])]
    >>> clip_gradient_values(gradients, 1.0)
    >>> gradients
    [tensor([[ 1.0000],
            [-0.5000]])]
    """
    for gradient in gradients:
        gradient.clamp_(-clip_value, clip_value)


def finite_gradients(gradients: Sequence[Tensor]) -> Tensor:
    """Which particles' gradients are all finite, (N,) bool.

    >>> finite_gradients([torch.tensor([[1.0], [float("nan")]])])
    tensor([ True, False])
    """
    return torch.stack([_rows(gradient).isfinite().all(1) for gradient in gradients]).all(0)


def _rows(gradient: Tensor) -> Tensor:
    return gradient.reshape(len(gradient), -1)
