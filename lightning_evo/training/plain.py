"""A parsed config as plain data that says the same in any process, in whatever folder its files were."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

from jsonargparse import Namespace, Path

__all__ = ["plain_config", "with_texts"]

Config = dict[str, Any]
Place = tuple[str | int, ...]
"""Where a value is: keys of sections, positions in lists."""


def plain_config(
    parsed: Namespace, dump: Callable[[Namespace], Config], parse: Callable[[Config], Namespace]
) -> Config:
    """A parsed config as plain data, from which parsing makes the same values again.

    Paths that are relative to the file they stand in become relative to the working directory. A value that would come
    back as another (a module, a function without a name or a NumPy number that is an argument's default) is left out.

    Args:
        parsed: The config.
        dump: Writes a config down as plain data.
        parse: Parses plain data.

    Raises:
        ValueError: If a value that is no argument's default can't be written down. The message begins with its path.
    """
    here = parsed
    doubtful: list[Place] = []
    for place, value in _odd_leaves(parsed):
        if not isinstance(value, Path):
            doubtful.append(_argument(parsed, place))
        elif not value.is_url and not value.is_fsspec and value.relative != "-":
            here = _put(here, place, _from_here(value))
    doubtful = list(dict.fromkeys(doubtful))
    if not doubtful:
        return dump(here)
    with suppress(Exception):  # whatever a type's own serializer raises
        written = dump(here)
        if _comes_back(written, parsed, doubtful, parse):
            return written
    bare = here
    for place in doubtful:
        bare = _put(bare, place, _GONE)
    written = dump(bare)
    for place in doubtful:
        trial = _put(bare, place, _at(here, place))
        with suppress(Exception):
            attempt = dump(trial)
            if _comes_back(attempt, parsed, [place], parse):
                bare, written = trial, attempt
                continue
        if not _comes_back(written, parsed, [place], parse, alike=True):
            path = ".".join(map(str, place))
            raise ValueError(f"{path}: {_at(parsed, place)!r} can't be written into a config; give its class_path")
    return written


def with_texts(parsed: Namespace) -> Namespace:
    """A parsed config with a text in place of each value that isn't plain data: what hyperparameters say of it."""
    for place, value in _odd_leaves(parsed):
        parsed = _put(parsed, place, str(value))
    return parsed


def _odd_leaves(parsed: Namespace) -> list[tuple[Place, Any]]:
    return [(place, value) for place, value in _leaves(parsed) if not _is_plain(value)]


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def _leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, Namespace):
        for name, inner in vars(value).items():
            yield from _leaves(inner, (*place, name))
    elif type(value) is dict:
        for name, inner in value.items():
            yield from _leaves(inner, (*place, name))
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*place, i))
    else:
        yield place, value


def _argument(parsed: Namespace, place: Place) -> Place:
    """The argument that a value belongs to: the default of a list or mapping is left out as a whole."""
    at: Any = parsed
    depth = 0
    for i, part in enumerate(place):
        if isinstance(at, Namespace):
            depth = i + 1
        at = _inner(at, part)
    return place[:depth]


def _inner(at: Any, part: str | int) -> Any:
    return vars(at)[part] if isinstance(at, Namespace) and isinstance(part, str) else at[part]


def _at(value: Any, place: Place) -> Any:
    for part in place:
        value = _inner(value, part)
    return value


_GONE = object()


def _put(value: Any, place: Place, new: Any) -> Any:
    """A copy of nested data with something else, or nothing, at one place."""
    if not place:
        return new
    first, rest = place[0], place[1:]
    if isinstance(value, (list, tuple)):
        return type(value)(_put(one, rest, new) if i == first else one for i, one in enumerate(value))
    inner: dict[Any, Any] = vars(value) if isinstance(value, Namespace) else value
    changed = dict(inner)
    if rest or new is not _GONE:
        changed[first] = _put(inner.get(first), rest, new)
    else:
        changed.pop(first, None)
    if not isinstance(value, Namespace):
        return changed
    made = Namespace()
    vars(made).update(changed)
    return made


def _from_here(path: Path) -> str:
    """A path that means the same file from the working directory; as it is where it does already."""
    here = os.getcwd()
    if os.path.abspath(os.path.join(here, path.relative)) == path.absolute:
        return path.relative
    file = FilePath(path.absolute)
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def _comes_back(
    config: Config,
    parsed: Namespace,
    places: list[Place],
    parse: Callable[[Config], Namespace],
    alike: bool = False,
) -> bool:
    """Whether parsing gives the same values at some places; ``alike``: or others of their types."""
    try:
        again = parse(config)
        pairs = [(_at(parsed, place), _at(again, place)) for place in places]
    except Exception:  # whatever a type's own deserializer raises
        return False
    return all(_same(one, other) or (alike and type(one) is type(other)) for one, other in pairs)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # of an array, of several values
        return False
