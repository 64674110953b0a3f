"""What may be wished of a step? Its settings as they were given, checked; each error says where and what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_evo.functional.growth_steps import GrowthError

__all__ = ["Wishes"]


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
