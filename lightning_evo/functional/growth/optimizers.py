"""Optimizers and schedulers that follow the growth of the network they train, with all of their state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR

from lightning_evo._compat.torch import LAST_RATES, chained_schedulers
from lightning_evo.functional.growth.steps import Added, Growth, GrowthError, Moved
from lightning_evo.functional.inheritance.placement import TensorMap

__all__ = [
    "NewGroup",
    "extend_scheduler",
    "grow_optimizer",
    "grow_optimizers",
    "like_group",
    "why_not_extendable",
    "why_not_growable",
]

RATES = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
"""Entries of a parameter group that are learning rates."""

_SIZES = frozenset(
    ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf", "variance", "row_var", "col_var")
) | {"step_size"}
"""State per weight that tells how large its gradients or steps have been. For new weights it is set to the tensor's mean:
with 0, and a count of steps that goes on, Adam's first steps would be several times the learning rate."""

_SOURCE = "grown_from"
"""Key in a group that growth has added: the number of the group whose settings it has."""
_WEIGHTS = frozenset(("ax", "z", "slow_buffer"))
"""State per weight that is another version of the weight. For new weights it is set to their value."""


@dataclass(frozen=True)
class NewGroup:
    """A parameter group that growth has added.

    Args:
        optimizer: The number of its optimizer, from 0.
        source: The group whose settings it has, except the learning rates.
    """

    optimizer: int
    source: int


def grow_optimizer(optimizer: Optimizer, growth: Growth, *, rate: float = 1.0) -> tuple[str, ...]:
    """Update an optimizer, in place, after a step of growth; see :func:`grow_optimizers`.

    New parameters whose neighbor (:attr:`Added.beside`) it doesn't hold are ignored.

    Args:
        optimizer: The optimizer, with any number of parameter groups, before or during training.
        growth: The result of :func:`~lightning_evo.functional.grow`.
        rate: Learning rate of new parameters, relative to their neighbors'.

    Returns:
        The names of the new parameters it now holds.

    Raises:
        GrowthError: If its state can't follow. It is then unchanged.

    >>> from lightning_evo.functional.growth.steps import GrowthStep
    >>> layer, wider = nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False)
    >>> sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> sgd.step()
    >>> moved = Moved("weight", layer.weight, wider.weight, TensorMap(torch.tensor([0, 1, -1]), torch.tensor([[0, 1]])))
    >>> grow_optimizer(sgd, Growth(GrowthStep("widen", ""), 4, 6, moved=(moved,)))
    ()
    >>> sgd.param_groups[0]["params"][0] is wider.weight
    True
    >>> sgd.state[wider.weight]["momentum_buffer"]
    tensor([[1., 1.],
            [1., 1.],
            [0., 0.]])
    """
    plan = _plan([optimizer], growth, None, rate)
    _apply([optimizer], growth, plan, rate)
    return tuple(added.name for added, *_ in plan.additions)


def grow_optimizers(
    optimizers: Sequence[Optimizer], growth: Growth, module: nn.Module, *, rate: float = 1.0
) -> tuple[NewGroup, ...]:
    """Update all optimizers of a training, in place, after a step of growth.

    Parameters are identified by object. A parameter that replaces another takes over its position in its group, its gradient
    and its state: moments follow their weights, and are 0 for new weights; second moments (Adam's ``exp_avg_sq`` and the
    like) of new weights are the mean of the tensor's; counts of steps go on. Removed parameters are dropped. New ones join
    the end of the group of their neighbor (:attr:`Added.beside`); with another ``rate`` they share an additional group for
    each group with neighbors, which differs from it in the learning rate. A new parameter whose neighbor no optimizer
    holds joins the group of the nearest parameter of the network that an optimizer holds. What no optimizer held (frozen
    weights) stays without one.

    Args:
        optimizers: All optimizers of ``module``.
        growth: The result of :func:`~lightning_evo.functional.grow`.
        module: The network as it is now.
        rate: Learning rate of new parameters, relative to their neighbors', above 0. If it isn't 1, groups may be added, to
            which schedulers are extended by :func:`~lightning_evo.functional.extend_scheduler`.

    Returns:
        The groups that were added.

    Raises:
        GrowthError: If a state can't follow; the message names optimizer, parameter and entry. Nothing is changed then.
    """
    plan = _plan(optimizers, growth, module, rate)
    return _apply(optimizers, growth, plan, rate)


def why_not_growable(optimizer: Any) -> str:
    """Return why an optimizer can't follow a network that grows; empty if it can.

    >>> layer = nn.Linear(2, 2)
    >>> why_not_growable(torch.optim.Adam(layer.parameters()))
    ''
    >>> why_not_growable(torch.optim.LBFGS(layer.parameters()))
    'LBFGS keeps its parameters outside its parameter groups, in _params'
    """
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        return f"{name} is no torch.optim.Optimizer: it has no parameter groups that could be extended"
    ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for attribute, value in vars(optimizer).items():
        if isinstance(value, Optimizer):
            return f"{name} holds another optimizer, in {attribute}"
        if attribute not in ("param_groups", "state") and any(id(one) in ours for one in _held(value)):
            return f"{name} keeps its parameters outside its parameter groups, in {attribute}"
    return ""


def like_group(groups: Sequence[Mapping[str, Any]], source: int, rate: float) -> dict[str, Any]:
    """Return a parameter group without parameters, with the settings of another and scaled learning rates.

    Args:
        groups: All groups of an optimizer.
        source: The number of the group whose settings are used.
        rate: Factor of its learning rates.
    """
    group = groups[source]
    like = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    for name in RATES:
        if name in like:
            like[name] = like[name] * rate
    return {**like, _SOURCE: source, "params": [], **({"param_names": []} if "param_names" in group else {})}


# How optimizers follow


@dataclass
class _Plan:
    """All changes, planned before anything is changed."""

    moves: list[tuple[Moved, int, int, int]] = field(default_factory=list)  # optimizer, group, position
    states: list[dict[str, Any] | None] = field(default_factory=list)  # of each move
    additions: list[tuple[Added, int, int | NewGroup]] = field(default_factory=list)  # optimizer, group


def _plan(optimizers: Sequence[Optimizer], growth: Growth, module: nn.Module | None, rate: float) -> _Plan:
    if not rate > 0:
        raise GrowthError(f"rate: {rate!r} is not above 0")
    for optimizer in optimizers:
        if reason := why_not_growable(optimizer):
            raise GrowthError(reason)
    homes = {
        id(p): (i, j, k)
        for i, optimizer in enumerate(optimizers)
        for j, group in enumerate(optimizer.param_groups)
        for k, p in enumerate(group["params"])
    }
    plan = _Plan()
    for moved in growth.moved:
        if id(moved.old) in homes:
            i, j, k = homes[id(moved.old)]
            plan.moves.append((moved, i, j, k))
            state = optimizers[i].state.get(moved.old)
            plan.states.append(None if state is None else _followed(state, moved, type(optimizers[i]).__name__))
    now = homes | {id(moved.new): (i, j, k) for moved, i, j, k in plan.moves}
    for added in growth.added:
        home = now.get(id(added.beside)) if added.beside is not None else None
        if home is None and module is not None and added.new.requires_grad:
            home = _nearest(added.new, module, now)
            if home is None:
                raise GrowthError(
                    f"{added.name}: no optimizer holds any parameter of the network, so none can train it"
                )
        if home is not None:
            optimizer = optimizers[home[0]]
            if type(optimizer).__name__ == "Muon" and added.new.ndim != 2:
                raise GrowthError(f"{added.name}: Muon trains matrices only, and it has {added.new.ndim} dimensions")
            plan.additions.append((added, home[0], _target(optimizer, home[1], rate)))
    return plan


def _target(optimizer: Optimizer, home: int, rate: float) -> int | NewGroup:
    """Return the group that new parameters beside those of group ``home`` join, or the one to be added for them."""
    if rate == 1:
        return home
    source = optimizer.param_groups[home].get(_SOURCE, home)
    there = [j for j, group in enumerate(optimizer.param_groups) if group.get(_SOURCE) == source]
    return there[0] if there else NewGroup(-1, source)


@torch.no_grad()
def _apply(optimizers: Sequence[Optimizer], growth: Growth, plan: _Plan, rate: float) -> tuple[NewGroup, ...]:
    for (moved, i, j, k), state in zip(plan.moves, plan.states, strict=True):
        optimizer = optimizers[i]
        if moved.old.grad is not None:  # not used in a step yet, where a module accumulates gradients itself
            moved.new.grad = moved.map.moments(moved.old.grad, moved.new)
        optimizer.param_groups[j]["params"][k] = moved.new
        optimizer.state.pop(moved.old, None)
        if state is not None:
            optimizer.state[moved.new] = state
    gone = {id(p) for p in growth.removed}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            _rename(group, growth.renamed)
            _remove(group, gone)
        for parameter in growth.removed:
            optimizer.state.pop(parameter, None)
    new: dict[NewGroup, dict[str, Any]] = {}
    for added, i, target in plan.additions:
        groups = optimizers[i].param_groups
        if isinstance(target, NewGroup):
            key = NewGroup(i, target.source)
            group = new.setdefault(key, like_group(groups, target.source, rate))
        else:
            group = groups[target]
        group["params"].append(added.new)
        if "param_names" in group:
            group["param_names"].append(added.name)
    for key, group in new.items():
        # Not by `add_param_group`, which some optimizers allow only while they are constructed.
        optimizers[key.optimizer].param_groups.append(group)
    return tuple(new)


def _followed(state: Mapping[str, Any], moved: Moved, name: str) -> dict[str, Any]:
    """Return a parameter's state for the one that replaced it."""
    old, new = moved.old, moved.new
    followed: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or (value.numel() == 1 and old.numel() != 1):
            if isinstance(value, (list, tuple, dict)) and any(isinstance(one, Tensor) for one in _held(value)):
                raise GrowthError(f"{name} keeps {key} of {moved.name} as a {type(value).__name__} of tensors")
            followed[key] = value  # a count of steps, a setting
        elif value.shape == old.shape:
            followed[key] = _remapped(key, value, moved.map, new)
        elif value.ndim == old.ndim and all(a in (1, b) for a, b in zip(value.shape, old.shape, strict=True)):
            followed[key] = _remapped_reduced(key, value, moved)
        else:
            raise GrowthError(
                f"{name} keeps {key} of {moved.name} in the shape {tuple(value.shape)}, where the parameter has"
                f" {tuple(old.shape)}: how it follows a parameter that grows is not known"
            )
    return followed


def _remapped(key: str, value: Tensor, plan: TensorMap, new: nn.Parameter) -> Tensor:
    """Return a state tensor of its parameter's shape for the new parameter."""
    like = torch.empty_like(new, dtype=value.dtype, device=value.device)
    laid = plan.moments(value, like)
    if key in _SIZES | _WEIGHTS:
        kept = plan.moments(torch.ones_like(value), like) != 0
        return torch.where(kept, laid, new.detach().to(value) if key in _WEIGHTS else value.mean())
    return laid


def _remapped_reduced(key: str, value: Tensor, moved: Moved) -> Tensor:
    """Return a state tensor with some axes reduced to one (Adafactor's rows and columns) for the new parameter."""
    axes = tuple(at for at, (a, b) in enumerate(zip(value.shape, moved.old.shape, strict=True)) if a != b)
    like = torch.empty_like(moved.new, dtype=value.dtype, device=value.device)
    whole = value.expand(moved.old.shape).contiguous()
    laid, kept = (moved.map.moments(one, like) for one in (whole, torch.ones_like(whole)))
    count = kept.sum(axes, keepdim=True)
    means = laid.sum(axes, keepdim=True) / count.clamp(min=1)
    return torch.where(count > 0, means, value.mean() if key in _SIZES else torch.zeros_like(means))


def _nearest(
    parameter: nn.Parameter, module: nn.Module, homes: Mapping[int, tuple[int, int, int]]
) -> tuple[int, int, int] | None:
    """Return where the held parameter is that is nearest in the order of registration; of two the earlier."""
    order = [id(p) for p in module.parameters()]
    at = order.index(id(parameter)) if id(parameter) in order else len(order)
    held = [(abs(at - place), place, one) for place, one in enumerate(order) if one in homes]
    return homes[min(held)[2]] if held else None


def _remove(group: dict[str, Any], gone: set[int]) -> None:
    stays = [id(p) not in gone for p in group["params"]]
    if all(stays):
        return
    for key in ("params", "param_names"):
        if key in group:
            group[key][:] = [one for one, kept in zip(group[key], stays, strict=True) if kept]


def _rename(group: dict[str, Any], renamed: Mapping[str, str]) -> None:
    if "param_names" in group:
        group["param_names"][:] = [renamed.get(name, name) for name in group["param_names"]]


def _held(value: Any, depth: int = 2) -> Iterator[Any]:
    """Yield the contents of a container, and of containers in it."""
    if depth and isinstance(value, (list, tuple, set, frozenset, dict)):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            yield one
            yield from _held(one, depth - 1)


# Schedulers

_RATES = ("base_lrs", LAST_RATES, "max_lrs", "min_lrs")
"""Attributes with one learning rate for each parameter group."""
_ALIKE = ("lr_lambdas", "base_momentums", "max_momentums")
"""Attributes with one function or number for each parameter group, of which a new group gets its source's."""

_KNOWN = (
    lr_scheduler.LambdaLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.CyclicLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
    SWALR,
)


def extend_scheduler(scheduler: Any, source: int, rate: float) -> None:
    """Extend a scheduler, in place, to one more parameter group, its optimizer's last.

    Args:
        scheduler: A scheduler of ``torch.optim``, after any number of steps.
        source: The group that the new one was copied from.
        rate: The new group's learning rate, relative to the source's.

    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.4)
    >>> schedule = lr_scheduler.LambdaLR(sgd, lambda epoch: 0.5**epoch)
    >>> sgd.param_groups.append({**sgd.param_groups[0], "params": [], "lr": 0.2, "initial_lr": 0.2})
    >>> extend_scheduler(schedule, 0, 0.5)
    >>> sgd.step(); schedule.step(); schedule.get_last_lr()
    [0.2, 0.1]
    """
    for name in _RATES:
        rates = vars(scheduler).get(name)
        if isinstance(rates, list):  # before the first validation, a plateau's has no last rates
            rates.append(rates[source] * rate)
    for name in _ALIKE:
        if name in vars(scheduler):
            getattr(scheduler, name).append(getattr(scheduler, name)[source])
    for part in chained_schedulers(scheduler):
        extend_scheduler(part, source, rate)


def why_not_extendable(scheduler: Any) -> str:
    """Return why a scheduler can't be extended to more parameter groups; empty if it can.

    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> why_not_extendable(lr_scheduler.StepLR(sgd, 1))
    ''
    """
    # A subclass may keep other attributes for each group.
    if type(scheduler) not in _KNOWN and not type(scheduler).__module__.startswith("lightning."):
        return f"{type(scheduler).__name__} may be bound to the number of parameter groups; torch.optim's own aren't"
    return next((why for part in chained_schedulers(scheduler) if (why := why_not_extendable(part))), "")
