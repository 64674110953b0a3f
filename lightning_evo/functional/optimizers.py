"""Settings of optimizers and schedulers, read and changed in the middle of a training while their state stays."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_evo._compat.torch import LAST_RATES, SCHEDULER_STEPS, chained_schedulers, set_last_rates

__all__ = ["OptimizerSettings", "adopt_functions", "change_settings", "optimizer_settings"]

_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_CYCLED = ("momentum", "betas", "max_momentum", "base_momentum")
_POSITION = ("last_epoch", SCHEDULER_STEPS, LAST_RATES)
_PROBES = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]
"""Steps at which two functions of the step are compared."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Hyperparameters of optimizers and schedulers as they were made, before a step; plain data.

    Args:
        groups: For each optimizer its parameter groups, without the parameters.
        schedules: For each scheduler its state.
        kinds: The classes' names: the optimizers', then the schedulers'.
        functions: For each scheduler what its functions of the step give at certain steps (``LambdaLR``), as no state holds
            the functions themselves.
    """

    groups: list[list[dict[str, Any]]]
    schedules: list[dict[str, Any]]
    kinds: list[str]
    functions: list[list[float | None]]

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that a checkpoint can hold; ``OptimizerSettings(**mapping)`` reads it."""
        return asdict(self)


def optimizer_settings(optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> OptimizerSettings:
    """The settings of optimizers and schedulers that were just made.

    Args:
        optimizers: Without a step taken.
        schedulers: Attached to them.

    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5, momentum=0.9)
    >>> optimizer_settings([sgd], []).groups[0][0]["momentum"]
    0.9
    """
    groups = [[{k: v for k, v in g.items() if k != "params"} for g in one.param_groups] for one in optimizers]
    schedules = [copy.deepcopy(one.state_dict()) for one in schedulers]
    kinds = [type(one).__name__ for one in (*optimizers, *schedulers)]
    return OptimizerSettings(copy.deepcopy(groups), schedules, kinds, [_probed(one) for one in schedulers])


def change_settings(
    optimizers: Sequence[Optimizer],
    schedulers: Sequence[Any],
    before: OptimizerSettings,
    now: OptimizerSettings,
    rescale: Sequence[float] | None = None,
) -> list[str]:
    """Have optimizers and schedulers in mid-training follow what differs between two settings; all else stays as it is.

    A hyperparameter that differs is set. The learning rate is what the schedule as it is now gives at the position it
    has reached: schedulers made with the settings ``now`` are stepped there. Where that isn't possible (a
    ``ReduceLROnPlateau``, whose position depends on metrics, or no scheduler at all), the rate reached is multiplied by
    new over old. Moments and other state stay.

    Args:
        optimizers: Changed in place.
        schedulers: Changed in place; attached to ``optimizers``.
        before: The settings with which they were made, or to which they were changed last.
        now: The settings they are to have.
        rescale: For each scheduler, by what to multiply its position where it is itself another one now (a schedule over
            all steps of the training, of which an epoch now has more or fewer). Default: 1.

    Returns:
        The names of what was changed: ``weight_decay``, ``lr``, ``schedule``, ...; sorted.

    Raises:
        ValueError: If optimizers or schedulers differ in number, class or number of parameter groups.

    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.5)
    >>> step = torch.optim.lr_scheduler.StepLR(sgd, step_size=1, gamma=0.1)
    >>> before = optimizer_settings([sgd], [step])
    >>> sgd.step(); step.step()
    >>> other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    >>> now = optimizer_settings([other], [torch.optim.lr_scheduler.StepLR(other, step_size=1, gamma=0.1)])
    >>> change_settings([sgd], [step], before, now), sgd.param_groups[0]["lr"]
    (['lr', 'schedule'], 0.1)
    """
    made = [_described(settings) for settings in (before, now)]
    if made[0] != made[1]:
        raise ValueError(f"what trains was {made[0]} and is {made[1]} now: a training can't go on with another")
    factors = rescale or [1.0] * len(schedulers)
    changed: set[str] = set()
    for i, optimizer in enumerate(optimizers):
        own = [j for j, scheduler in enumerate(schedulers) if scheduler.optimizer is optimizer]
        differing = [_differing(old, new) for old, new in zip(before.groups[i], now.groups[i], strict=True)]
        schedule = any(
            not _same(before.schedules[j], now.schedules[j]) or before.functions[j] != now.functions[j] for j in own
        )
        names = {name for names in differing for name in names}
        if not names and not schedule:
            continue
        cycled = names & set(_CYCLED) and any("max_momentum" in group for group in optimizer.param_groups)
        attached = [schedulers[j] for j in own]
        for group, new, named in zip(optimizer.param_groups, now.groups[i], differing, strict=True):
            group.update({name: new[name] for name in named if name not in _RATES})
        if schedule or names & set(_RATES) or cycled:
            if own and all(_position(one) is not None for one in attached):
                steps = [_steps(one, j, before, now, factors[j]) for one, j in zip(attached, own, strict=True)]
                _replay(optimizer, attached, now.groups[i], [now.schedules[j] for j in own], steps)
            else:
                _multiply(optimizer, before.groups[i], now.groups[i])
                for one, j in zip(attached, own, strict=True):
                    one.load_state_dict(_merged(one.state_dict(), before.schedules[j], now.schedules[j]))
                    set_last_rates(one, [group["lr"] for group in optimizer.param_groups])
        changed |= {"lr" if name in _RATES else name for name in names} | ({"schedule"} if schedule else set())
    return sorted(changed)


def adopt_functions(schedulers: Sequence[Any], made: Sequence[Any]) -> None:
    """Have schedulers take over the functions of others, which no state holds (``LambdaLR``); nothing else changes."""
    for scheduler, other in zip(schedulers, made, strict=True):
        if hasattr(scheduler, "lr_lambdas"):
            scheduler.lr_lambdas = other.lr_lambdas
        adopt_functions(chained_schedulers(scheduler), chained_schedulers(other))


def _position(scheduler: Any) -> int | None:
    """How often a scheduler was stepped; ``None`` where that doesn't say what it gives."""
    parts = chained_schedulers(scheduler)
    if isinstance(scheduler, ReduceLROnPlateau) or any(isinstance(part, ReduceLROnPlateau) for part in parts):
        return None
    at = getattr(scheduler, "last_epoch", None)
    return _position(parts[0]) if at is None and parts else at


def _steps(scheduler: Any, i: int, before: OptimizerSettings, now: OptimizerSettings, factor: float) -> int:
    """How often the ``i``-th scheduler, made anew, is stepped until it is where this one is."""
    at = _position(scheduler)
    assert at is not None
    # A schedule over all steps of the training shows by itself that they have become more or fewer.
    own = set(_differing(before.schedules[i], now.schedules[i])) - {"base_lrs", LAST_RATES}
    return round(at * factor) if own or before.functions[i] != now.functions[i] else at


def _probed(scheduler: Any) -> list[float | None]:
    """Return the values of a scheduler's functions of the step at :data:`_PROBES`; ``None`` where one isn't defined."""
    values: list[float | None] = []
    for function in getattr(scheduler, "lr_lambdas", []):
        for step in _PROBES:
            try:
                values.append(float(function(step)))
            except Exception:
                # A user's function may end with the training, such as one that reads a list.
                values.append(None)
    return values + [value for part in chained_schedulers(scheduler) for value in _probed(part)]


def _replay(
    optimizer: Optimizer,
    schedulers: Sequence[Any],
    groups: Sequence[Mapping[str, Any]],
    schedules: Sequence[Mapping[str, Any]],
    steps: Sequence[int],
) -> None:
    """Step a copy of the schedulers, made new, to their positions; the originals take over what comes out."""
    # Neither parameters nor moments are copied: schedulers look at neither.
    memo: dict[int, Any] = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    memo[id(optimizer.state)] = {}
    double, copies = copy.deepcopy((optimizer, list(schedulers)), memo)
    for group, new in zip(double.param_groups, groups, strict=True):
        group.update(copy.deepcopy(dict(new)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer stepped before
        for scheduler, state, count in zip(copies, schedules, steps, strict=True):
            scheduler.load_state_dict(copy.deepcopy(dict(state)))
            for _ in range(count):
                scheduler.step()
    for group, replayed, new in zip(optimizer.param_groups, double.param_groups, groups, strict=True):
        driven = {name for name in new if name in _RATES or not _same(replayed[name], new[name])}
        group.update({name: replayed[name] for name in driven})
    for scheduler, replayed in zip(schedulers, copies, strict=True):
        scheduler.load_state_dict(replayed.state_dict())


def _multiply(optimizer: Optimizer, before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Multiply the learning rates reached by new over old."""
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        base = "initial_lr" if "initial_lr" in old else "lr"
        rate = group["lr"]
        for name in _RATES:
            if name in new:
                group[name] = new[name]
        if not _same(rate, old["lr"]):
            group["lr"] = rate * (new[base] / old[base])


def _merged(state: Any, before: Any, now: Any) -> Any:
    """A scheduler's state with what differs between two others, its position aside."""
    if isinstance(state, Mapping) and isinstance(before, Mapping) and isinstance(now, Mapping):
        return {
            name: value
            if name in _POSITION or name not in before or name not in now
            else _merged(value, before[name], now[name])
            for name, value in state.items()
        }
    if isinstance(state, list) and state and isinstance(state[0], Mapping):
        return [_merged(*parts) for parts in zip(state, before, now, strict=True)]
    return state if _same(before, now) else copy.deepcopy(now)


def _described(settings: OptimizerSettings) -> str:
    counts = [len(groups) for groups in settings.groups]
    optimizers = [f"{kind} ({count} parameter groups)" for kind, count in zip(settings.kinds, counts, strict=False)]
    return ", ".join([*optimizers, *settings.kinds[len(counts) :]])


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in now.items() if name not in before or not _same(before[name], value)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return torch.equal(torch.as_tensor(one).cpu(), torch.as_tensor(other).cpu())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
