"""Which settings has a network's growth? Their choices and ranges; each error names the argument and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from lightning_evo.callbacks.growth_triggers import AllOf, AnyOf, GrowthTrigger, Not
from lightning_evo.functional.growth import GrowthError, Operation

__all__ = [
    "Entropy",
    "Mode",
    "check_above_zero",
    "check_choices",
    "check_layer_names",
    "check_operations",
    "check_whole",
    "triggers_in",
]

Entropy = Literal["covariance", "histogram"]
Mode = Literal["max", "min"]


def check_choices(**choices: tuple[Any, Any]) -> None:
    """Refuse a value that is none of a ``Literal``."""
    for name, (value, kind) in choices.items():
        if value not in get_args(kind):
            raise GrowthError(f"{name}: {value!r} is none of {', '.join(get_args(kind))}")


def check_operations(operations: Sequence[str]) -> None:
    """Refuse no operation, and unknown ones."""
    if isinstance(operations, str) or not operations:
        raise GrowthError(
            f"operations: {operations!r} is not a list of one operation or more; there are {', '.join(get_args(Operation))}"
        )
    for operation in operations:
        check_choices(operations=(operation, Operation))


def check_layer_names(layers: Sequence[str] | None) -> None:
    """Refuse what is no list of names."""
    if isinstance(layers, str) or (layers is not None and not layers):
        raise GrowthError(f"layers: {layers!r} is not a list of one layer's name or more")


def check_above_zero(**numbers: float) -> None:
    """Refuse numbers that aren't above 0."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise GrowthError(f"{name}: {value!r} is not above 0")


def check_whole(**numbers: int) -> None:
    """Refuse what is no whole number of at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GrowthError(f"{name}: {value!r} is not a whole number of at least 1")


def triggers_in(trigger: GrowthTrigger) -> list[GrowthTrigger]:
    """A trigger, or those that it combines."""
    if isinstance(trigger, (AllOf, AnyOf)):
        return [part for one in trigger.triggers for part in triggers_in(one)]
    return triggers_in(trigger.trigger) if isinstance(trigger, Not) else [trigger]
