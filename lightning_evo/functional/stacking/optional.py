"""Optional parts of the stacked computation. Each can be turned off or deleted; results stay the same up to rounding.

A part registers itself in :data:`PARTS` when it is imported. The core (:mod:`~lightning_evo.functional.stacking.stacking`,
``rules``, ``convolution``) never imports one. To delete a part, delete its file and its import in this package's
``__init__.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

__all__ = ["PARTS", "Autotuning", "Call", "Fusion", "OptionalParts"]

Call = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Makes a call of torch: ``call(function, args, kwargs)``."""


class Fusion(Protocol):
    """Replaces sequences of a network's calls by cheaper ones."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the call, or a placeholder for it."""

    def settled(self, values: Any) -> Any:
        """The same values (a tensor, or lists, tuples and dicts of any) without placeholders."""


class Autotuning(Protocol):
    """Chooses among equal computations of a convolution."""

    def convolution(self, convolution: Any, operands: Any) -> tuple[Tensor, int]:
        """The convolution of all particles, and its axis of particles.

        Args:
            convolution: Its settings, a :class:`~lightning_evo.functional.stacking.convolution.Convolution`.
            operands: The stacked tensors, :class:`~lightning_evo.functional.stacking.convolution.Operands`.
        """

    def state_dict(self) -> dict[str, str]:
        """The choices made so far, by what they depend on."""

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Make these choices from now on."""


@dataclass
class OptionalParts:
    """The parts that are there; ``None`` for one that is missing or turned off."""

    fusion: Callable[[int, Call], Fusion] | None = None
    """Makes a :class:`Fusion` for so many particles, and for what makes the calls that it leaves alone."""

    autotuning: Autotuning | None = None

    allocator: Callable[[], bool] | None = None
    """Prepares the process's memory allocator; returns whether it could."""

    @contextmanager
    def disabled(self, *names: str) -> Iterator[None]:
        """Turn parts off inside the context, in the whole process.

        Raises:
            ValueError: There is no part of that name.

        >>> with PARTS.disabled("fusion"):
        ...     print(PARTS.fusion)
        None
        """
        accepted = [field.name for field in fields(self)]
        for name in names:
            if name not in accepted:
                raise ValueError(f"{name!r} is not an optional part; accepted are {', '.join(accepted)}")
        before = {name: getattr(self, name) for name in names}
        vars(self).update(dict.fromkeys(names))
        try:
            yield
        finally:
            vars(self).update(before)


PARTS = OptionalParts()
