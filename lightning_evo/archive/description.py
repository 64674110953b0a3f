"""The description of a search: its space rebuilt, and its differences from another search by dotted path."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast, get_args, get_origin, get_type_hints

from lightning_evo.archive.errors import ArchiveError
from lightning_evo.archive.meta import OwnersRecord, SearchDescription, read_meta
from lightning_evo.archive.reader import Archive
from lightning_evo.genome import Gene, SearchSpace
from lightning_evo.utils.imports import current_name, import_by_name
from lightning_evo.utils.ownership import is_own, key_name, mark
from lightning_evo.utils.signatures import constructor_parameters

__all__ = ["claimed", "compare_search", "is_own_search", "read_space"]

_OURS = tuple(f"{__name__.partition('.')[0]}.{room}." for room in ("genome", "models"))
"""What anybody's archive may name: genes, and the functions that they take."""


def claimed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The meta values by which a run becomes one of this user's own, who vouches for the description of the search."""
    known = read_meta(meta, OwnersRecord) or OwnersRecord()
    return {known.key: OwnersRecord({**known.marks, key_name(): mark(_canonical(meta))}).to_dict()}


def is_own_search(meta: Mapping[str, Any]) -> bool:
    """Whether this user has run the search, as its archive describes it now."""
    known = read_meta(meta, OwnersRecord)
    return known is not None and is_own(_canonical(meta), known.marks.get(key_name()))


def _canonical(meta: Mapping[str, Any]) -> str:
    return json.dumps(meta.get(SearchDescription.key), sort_keys=True)


def read_space(archive: Archive, trust: bool = False) -> SearchSpace:
    """The search space of a run, from the description in its archive.

    A user's own genes must be importable, and keep their constructor's arguments under the arguments' names.

    Args:
        archive: Of a search that has begun.
        trust: Whether to import whatever classes and functions the archive names. Default: those of this package, and
            all others if this user has run the search.

    Raises:
        ArchiveError: If the archive describes no space, a gene's class can't or mustn't be imported, or it didn't keep its
            arguments.
    """
    described = (read_meta(archive.meta, SearchDescription) or SearchDescription()).space
    return space_from(described, archive.run, trust or is_own_search(archive.meta))


def space_from(described: Mapping[str, Any], run: str, trust: bool) -> SearchSpace:
    """The search space that a description describes; see :func:`read_space`.

    Args:
        described: Config path -> the gene's class and arguments.
        run: The run's name, for error messages.
        trust: Whether to import whatever it names.

    Raises:
        ArchiveError: As there.
    """
    if not described:
        raise ArchiveError(f"{run}: the archive doesn't contain the search space")
    genes = {}
    for path, description in described.items():
        try:
            genes[path] = _gene(description, trust)
        except PermissionError as error:
            raise ArchiveError(
                f"{run}: the gene at {path} is {error}, and this search was not run by you on this machine: if you "
                "trust whoever did, let it be imported (--trust, trust=True)"
            ) from None
        except (ValueError, TypeError) as error:
            raise ArchiveError(f"{run}: the gene at {path} can't be rebuilt: {error}") from None
    try:
        return SearchSpace(genes)
    except ValueError as error:
        raise ArchiveError(f"{run}: the search space can't be rebuilt: {error}") from None


def compare_search(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Lines naming what differs between two nested configurations; none where they are the same.

    ``1`` and ``1.0`` are the same, ``1`` and ``True`` are not; lists and tuples are the same. A class's public name and the
    name that an earlier version stored are the same, except among a gene's choices, which are values that genomes hold.

    >>> compare_search({"space": {"lr": {"high": 0.1}}}, {"space": {"lr": {"high": 0.2}}})
    ['space.lr.high: 0.1 in the archive, 0.2 given']
    """
    return list(_differences("", stored, asked, names=True))


def _gene(description: Any, anywhere: bool) -> Gene:
    """What ``lightning_evo.evolution.description.describe`` described."""
    if not isinstance(description, Mapping) or set(description) != {"class_path", "init_args"}:
        raise ValueError(f"{description!r} is not a class_path with its init_args")
    path, given = description["class_path"], description["init_args"]
    kind = _imported(path, anywhere)
    if not (inspect.isclass(kind) and issubclass(kind, Gene)):
        raise ValueError(f"{path} is no gene")
    hints = _hints(kind)
    gene = kind(**{name: _argument(value, hints.get(name, set()), anywhere) for name, value in given.items()})
    for name in constructor_parameters(kind):
        # What the gene keeps would be in the description, unless its class took no such argument then.
        if name not in given and name not in vars(gene) and f"_{name}" not in vars(gene):
            raise ValueError(f"{path} doesn't store its argument {name!r} under that name, so its value is unknown")
    return gene


def _argument(value: Any, hints: set[Any], anywhere: bool) -> Any:
    """A constructor's argument: what was a function or a gene becomes one again, everything else is plain data."""
    if isinstance(value, str) and Callable in hints and str not in hints:
        return _imported(value, anywhere)
    if isinstance(value, list):
        return [_argument(element, hints, anywhere) for element in value]
    if isinstance(value, Mapping) and any(inspect.isclass(hint) and issubclass(hint, Gene) for hint in hints):
        if "class_path" in value:
            return _gene(value, anywhere)
        return {key: _argument(element, hints, anywhere) for key, element in value.items()}
    return value


def _hints(kind: type) -> dict[str, set[Any]]:
    """All types that are named in the annotation of each of a constructor's arguments."""

    def named(hint: Any) -> Iterator[Any]:
        yield get_origin(hint) or hint
        for part in get_args(hint):
            # The parts of a function's type say nothing of the argument itself.
            if get_origin(hint) is not Callable:
                yield from named(part)

    try:
        hints = get_type_hints(cast(Any, kind).__init__)
    except Exception:  # an annotation that exists for type checkers alone
        return {}
    return {name: set(named(hint)) for name, hint in hints.items()}


def _imported(path: str, anywhere: bool) -> Any:
    """What an import path names.

    Args:
        path: The path.
        anywhere: Whether it may lie outside of this package.

    Raises:
        ValueError: If it can't be imported.
        PermissionError: If it mustn't be.
    """
    path = str(path)
    if not anywhere and not current_name(path).startswith(_OURS):
        raise PermissionError(path)
    try:
        found = import_by_name(path)
    except ImportError as error:
        raise ValueError(f"{path} can't be imported: {error}") from None
    # By way of our modules' own imports a path could reach anything.
    if not anywhere and not str(getattr(found, "__module__", "")).startswith(_OURS):
        raise PermissionError(path)
    return found


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
