"""What may be wished of a step? Its settings as they were given, checked; each error says where and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from lightning_evo.functional.growth_steps import GrowthError, Operation

__all__ = ["Wishes", "check_operation", "check_wish", "number"]


def check_operation(operation: Any) -> None:
    """Refuse what is no operation's name."""
    if operation not in get_args(Operation):
        raise GrowthError(f"operation: {operation!r} is none of {', '.join(get_args(Operation))}")


def number(where: str, value: Any) -> float:
    """A finite number; an error that begins with ``where`` if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise GrowthError(f"{where}: {value!r} is not a number")
    return value


def check_wish(wish: Any) -> None:
    """Refuse what doesn't say what is wished where."""
    said = {name for name, value in wish.items() if value is not None} if isinstance(wish, Mapping) else set()
    strange = said - {"operation", "place", "layer", "ratio", "settings"}
    if strange or "operation" not in said or ("place" in said) == ("layer" in said):
        raise GrowthError(
            f"a wish has an operation, and either a layer or a place, beside them ratio and settings; this is {wish!r}"
        )
    check_operation(wish["operation"])
    if not isinstance(wish.get("settings") or {}, Mapping):
        raise GrowthError(f"settings: {wish['settings']!r} is not a mapping")
    if "place" in said and not 0 <= number("place", wish["place"]) <= 1:
        raise GrowthError(f"place: {wish['place']!r} is not from 0 to 1")


@dataclass(frozen=True)
class Wishes:
    """What is wished of one step.

    Args:
        where: Path of the layer and the operation, with which errors begin.
        settings: The wishes.
        max_added: How many parameters the step may add; ``None``: any number.
    """

    where: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    max_added: int | None = None

    def refuse(self, reason: str) -> GrowthError:
        """The error to raise."""
        return GrowthError(f"{self.where}: {reason}")

    def only(self, *names: str) -> None:
        """Refuse settings of other names."""
        strange = [name for name in self.settings if name not in names]
        if strange:
            raise self.refuse(f"settings: {strange[0]!r} is none of {', '.join(names)}")

    def number(self, name: str, default: int, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refuse(f"{name}: {value!r} is not a whole number of at least {least}")
        return value

    def kernel(self, default: int) -> int:
        """The side of a kernel that leaves maps their size."""
        side = self.number("kernel", default)
        if side % 2 == 0:
            raise self.refuse(f"kernel: {side} is not odd: maps would not keep their size")
        return side

    def allows(self, added: int) -> bool:
        """Whether so many parameters may be added."""
        return self.max_added is None or added <= self.max_added

    def check(self, least: int) -> None:
        """Refuse a step if not even the least that it adds is allowed."""
        if not self.allows(least):
            raise self.refuse(f"the least it adds is {least:,} parameters, allowed are {self.max_added:,}")
