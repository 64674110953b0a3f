"""Is what the user gave usable? Checks that several algorithms share."""

from __future__ import annotations

from lightning_evo.genome import Json, SearchSpace, SpaceError

__all__ = ["check_at_least", "check_initial", "check_probability"]


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise ``ValueError`` unless ``value`` is at least ``least``."""
    if not value >= least:
        raise ValueError(f"{name} {value!r} is not at least {least}")


def check_probability(name: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value`` lies between 0 and 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value!r} is not a probability between 0 and 1")


def check_initial(initial: list[dict[str, Json]], space: SearchSpace) -> None:
    """Every value given must be in range, and switched on by the other values given."""
    for i, values in enumerate(initial):
        for path, value in values.items():
            if path not in space:
                raise SpaceError(f"initial[{i}].{path}: not in the search space, which has {', '.join(space)}")
            if not space.active(path, values):
                raise SpaceError(
                    f"initial[{i}].{path}: is active only when {space[path].when}; give those genes such values as well"
                )
            try:
                space[path].validate(value)
            except ValueError as error:
                raise SpaceError(f"initial[{i}].{path}: {error}") from None
