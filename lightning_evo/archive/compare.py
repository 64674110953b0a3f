"""The differences between a stored and an asked search, by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_evo.utils.imports import current_name

__all__ = ["compare_search"]


def compare_search(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Lines naming what differs between two nested configurations; none where they are the same.

    ``1`` and ``1.0`` are the same, ``1`` and ``True`` are not; lists and tuples are the same. A class's public name and the
    name that an earlier version stored are the same, except among a gene's choices, which are values that genomes hold.

    >>> compare_search({"space": {"lr": {"high": 0.1}}}, {"space": {"lr": {"high": 0.2}}})
    ['space.lr.high: 0.1 in the archive, 0.2 asked']
    """
    return list(_differences("", stored, asked, names=True))


def _differences(path: str, stored: Any, asked: Any, names: bool) -> list[str]:
    one, two = _items(stored), _items(asked)
    if one is not None and two is not None and isinstance(stored, Mapping) == isinstance(asked, Mapping):
        return [
            line
            for key in {**one, **two}
            for line in _differences(
                f"{path}.{key}" if path else key,
                one.get(key, _ABSENT),
                two.get(key, _ABSENT),
                names and key != "choices",
            )
        ]
    if _same(stored, asked) or (names and _same(_current(stored), _current(asked))):
        return []
    return [f"{path}: {_shown(stored)} in the archive, {_shown(asked)} given"]


def _items(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return {str(index): item for index, item in enumerate(value)}
    return None


def _same(one: Any, two: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(two, float) and one != one and two != two
    return both_nan or (one == two and isinstance(one, bool) == isinstance(two, bool))


def _current(value: Any) -> Any:
    return current_name(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else repr(value)


_ABSENT = object()
