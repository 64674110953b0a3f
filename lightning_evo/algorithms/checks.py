"""Checks of arguments that several algorithms and predictors share."""

from __future__ import annotations

from lightning_evo.genome import Json, SearchSpace, SpaceError, Value

__all__ = ["check_at_least", "check_probability", "read_initial"]


MOST = 1_000_000
"""Above it, a number of individuals, draws or rounds is a slip, and loops without end."""


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ``ValueError`` unless ``value`` is at least ``least``, and at most a million."""
    if not value >= least:
        raise ValueError(f"{name}: {value!r} is not at least {least}")
    if value > MOST:
        raise ValueError(f"{name}: {value!r} is not at most {MOST}")


def check_probability(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: {value!r} is not a probability between 0 and 1")


def read_initial(initial: list[dict[str, Json]], space: SearchSpace) -> list[dict[str, Value]]:
    """Convert the genomes to start from to the space's own values (see ``Gene.read``).

    Raises:
        SpaceError: If a value is out of range, or not switched on by the other values given.
    """
    read: list[dict[str, Value]] = []
    for i, values in enumerate(initial):
        read.append({})
        for path, value in values.items():
            if path not in space:
                raise SpaceError(f"initial[{i}].{path}: not in the search space, which has {', '.join(space)}")
            if not space.active(path, values):
                raise SpaceError(
                    f"initial[{i}].{path}: is active only when {space[path].when}; give those genes such values too"
                )
            try:
                read[i][path] = space[path].read(value)
                space[path].validate(read[i][path])
            except ValueError as error:
                raise SpaceError(f"initial[{i}].{path}: {error}") from None
    return read
