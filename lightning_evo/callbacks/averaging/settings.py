"""Settings of averaging: the methods with their defaults, and the checks of what is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_evo.swarms.errors import SwarmError

__all__ = [
    "METHODS",
    "BatchNorm",
    "Keep",
    "Method",
    "MethodDefaults",
    "Mode",
    "OptimizerState",
    "SoupKind",
    "check_choices",
    "check_method",
    "check_numbers",
    "check_weights_suffice",
]

Method = Literal["apso", "pso", "papa", "papa_all", "papa_pairs"]
SoupKind = Literal["uniform", "greedy"]
Keep = Literal["always", "if_not_worse"]
OptimizerState = Literal["own", "reset", "averaged"]
BatchNorm = Literal["averaged", "reestimated", "own"]
Mode = Literal["min", "max"]


@dataclass(frozen=True)
class MethodDefaults:
    """Defaults of a method.

    Args:
        alpha: How far particles move; ``None``: the method has no such parameter.
        every_n_steps: Optimizer steps between averagings; ``None``: it counts epochs.
        every_n_epochs: Epochs between averagings; ``None``: it counts steps.
        batchnorm: How running statistics are handled.
    """

    alpha: float | None
    every_n_steps: int | None
    every_n_epochs: int | None
    batchnorm: BatchNorm


METHODS: dict[Method, MethodDefaults] = {
    # The Nytorch tutorial's own numbers.
    "apso": MethodDefaults(0.5, 16, None, "averaged"),
    # A velocity could make a running variance negative: statistics aren't part of a particle's position.
    "pso": MethodDefaults(None, 16, None, "own"),
    # The paper's numbers: alpha_PAPA 0.99 every 10 steps; means every 5 epochs, which need new statistics.
    "papa": MethodDefaults(0.01, 10, None, "averaged"),
    "papa_all": MethodDefaults(None, None, 5, "reestimated"),
    "papa_pairs": MethodDefaults(None, None, 5, "reestimated"),
}


_CHOICES: dict[str, tuple[Any, ...]] = {
    "method": (*get_args(Method), None),
    "soup": (*get_args(SoupKind), None),
    "keep": (*get_args(Keep), None),
    "optimizer_state": get_args(OptimizerState),
    "batchnorm": (*get_args(BatchNorm), None),
    "mode": get_args(Mode),
}
_LEAST = {"every_n_steps": 1, "every_n_epochs": 1, "subset": 2, "batchnorm_batches": 1, "cognitive": 0.0, "social": 0.0}


def check_choices(**given: object) -> None:
    """Raise ``ValueError`` for a setting that isn't one of the accepted values.

    >>> check_choices(soup="tomato")
    Traceback (most recent call last):
    ValueError: soup: 'tomato' is not one of 'uniform', 'greedy', None
    """
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(repr, _CHOICES[name]))}")


def check_numbers(**given: float | None) -> None:
    """Raise ``ValueError`` for a number out of its range; ``None`` is accepted.

    >>> check_numbers(subset=1)
    Traceback (most recent call last):
    ValueError: subset: 1 is not at least 2
    """
    for name, value in given.items():
        if value is None:
            continue
        if name == "alpha":
            if not 0 < value < 1:
                raise ValueError(f"alpha: {value!r} is not above 0 and below 1")
        elif name == "inertia":
            if not 0 <= value < 1:
                raise ValueError(f"inertia: {value!r} is not in [0, 1)")
        elif not value >= _LEAST[name]:
            raise ValueError(f"{name}: {value!r} is not at least {_LEAST[name]:g}")
        elif value == math.inf:
            raise ValueError(f"{name}: {value!r} is not a finite number")


def check_method(
    method: Method | None, soup: SoupKind | None, optimizer_state: OptimizerState, settings: Mapping[str, float | None]
) -> None:
    """Raise ``ValueError`` for settings that a method doesn't have, or that are incompatible.

    Args:
        method: The method.
        soup: The soup.
        optimizer_state: How optimizers' moments are handled.
        settings: ``alpha``, ``subset``, ``every_n_steps`` and ``every_n_epochs``; ``None`` where not given.
    """
    if method is None and soup is None:
        raise ValueError("method: None averages nothing, and soup: None makes no soup; set one of them")
    given = {name: value for name, value in settings.items() if value is not None}
    if "every_n_steps" in given and "every_n_epochs" in given:
        raise ValueError(
            f"every_n_steps: {given['every_n_steps']} and every_n_epochs: {given['every_n_epochs']} are both set; set one"
        )
    if method is None and given:
        name, value = next(iter(given.items()))
        raise ValueError(f"{name}: {value} has no effect without a method")
    if method == "pso" and optimizer_state == "averaged":
        raise ValueError(
            "optimizer_state: averaged has no meaning for pso, which averages nothing; choose own or reset"
        )
    if method is not None and "alpha" in given and METHODS[method].alpha is None:
        raise ValueError(f"alpha: {given['alpha']} has no meaning for {method}, only for apso and papa")


def check_weights_suffice(
    method: Method | None, soup: SoupKind | None, optimizer_state: OptimizerState, common_start: bool
) -> None:
    """Raise ``SwarmError`` for settings that need more from other particles than their losses and weights."""
    for name, given, needs_more in (
        ("method", method, method == "pso"),
        ("soup", soup, soup is not None),
        ("optimizer_state", optimizer_state, optimizer_state == "averaged"),
        ("common_start", common_start, common_start),
    ):
        if needs_more:
            raise SwarmError(
                f"{name}: {given} needs all particles in one training; candidates of a search exchange only weights: train "
                "them as one stack (workers: {stack: auto}), or remove this setting"
            )
