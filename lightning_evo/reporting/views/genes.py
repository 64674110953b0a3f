"""Genes as columns for plots: numbers, or indices into a list of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy
from numpy.typing import NDArray

from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.genome.genes import identity
from lightning_evo.genome.names import short_names
from lightning_evo.reporting.summaries import is_growth_steps, short_step
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["GeneColumn", "GeneKind", "gene_columns", "label"]

GeneKind = Literal["number", "ordered", "category", "text"]

MAX_LABEL_CHARACTERS = 400_000
"""Total characters of the labels of one text gene; with many different values each label is shortened."""

_OURS = "lightning_evo.genome."
_KINDS: dict[str, GeneKind] = {
    "Uniform": "number",
    "LogUniform": "number",
    "Integer": "number",
    "Ordinal": "ordered",
    "Categorical": "category",
    "Boolean": "category",
    "Bitstring": "text",
    "Layers": "text",
    "GrowthSteps": "text",
}
_MAX_CATEGORIES = 24
"""A gene of an unknown class is a category if it has at most this many different texts."""


@dataclass(frozen=True, eq=False)
class GeneColumn:
    """One gene's values over all candidates.

    Args:
        path: Its config path.
        name: The shortest end of the path that is unique among genes and objectives.
        kind: ``number``; ``ordered`` or ``category`` (one of a list of choices); ``text`` (architectures, bit strings).
        scale: ``log`` if it was searched on a logarithmic scale.
        choices: A label for each different value; ``None`` for numbers.
        texts: The values themselves, parallel to ``choices``.
        values: For each candidate the number, or the index of its value among the choices; NaN where the gene is inactive.
            Shape (candidates,).
    """

    path: str
    name: str
    kind: GeneKind
    scale: Literal["linear", "log"]
    choices: tuple[str, ...] | None
    texts: tuple[Any, ...] | None
    values: NDArray[numpy.float64]


def gene_columns(snapshot: RunSnapshot) -> list[GeneColumn]:
    """The genes of a run, in the order of its search space.

    A gene's kind follows from the description of the search space in the archive. Classes of the user are not imported:
    the kind of their genes is inferred from the values.

    Args:
        snapshot: The run.
    """
    if snapshot not in _cache:
        _cache[snapshot] = _columns(snapshot)
    return list(_cache[snapshot])


def label(value: Any) -> str:
    """A gene's value as a short label.

    >>> label({"class_path": "torch.nn.GELU", "init_args": {"approximate": "tanh"}})
    'GELU(approximate=tanh)'
    >>> label(["Conv2d (8, 8, 8) kernel=3", "Linear (10)"])
    'Conv2d (8, 8, 8) kernel=3 | Linear (10)'
    >>> label([{"operation": "widen", "place": 0.37, "ratio": 1.5}]), label([]), label(True), label(0.1)
    ('widen@0.37x1.5', '(none)', 'true', '0.1')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if not value:
            return "(none)"
        if is_growth_steps(value):
            return " ".join(short_step(step) for step in value)
        if all(isinstance(element, str) for element in value):
            return " | ".join(value)
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        arguments = value.get("init_args") or {}
        listed = ", ".join(f"{name}={label(argument)}" for name, argument in arguments.items())
        return value["class_path"].rpartition(".")[2] + (f"({listed})" if listed else "")
    return json.dumps(value)


_cache: WeakKeyDictionary[RunSnapshot, list[GeneColumn]] = WeakKeyDictionary()
"""The columns of snapshots that are still in use: several views need them."""


def _columns(snapshot: RunSnapshot) -> list[GeneColumn]:
    space = (read_meta(snapshot.meta, SearchDescription) or SearchDescription()).space
    paths = list(space) or _paths(snapshot)
    names = short_names(paths, taken=["id", "status", *snapshot.monitors])
    return [_column(path, names[path], space.get(path), [row.get(path) for row in snapshot.rows]) for path in paths]


def _paths(snapshot: RunSnapshot) -> list[str]:
    """The genes of a run without a description of its space: the columns between fitness and parents."""
    found: dict[str, None] = {}
    for row in snapshot.rows:
        for name in row:
            if name == "parents":
                break
            if name not in ("id", "status", *snapshot.monitors):
                found.setdefault(name)
    return list(found)


def _column(path: str, name: str, described: Any, values: Sequence[Any]) -> GeneColumn:
    kind, scale, choices = _described(described)
    present = [value for value in values if value is not None]
    numeric = all(_is_number(value) for value in present)
    if kind is None:
        kind = "number" if numeric and present else "text"
        if kind == "text" and all(isinstance(value, (str, bool)) for value in present):
            kind = "category" if len({identity(value) for value in present}) <= _MAX_CATEGORIES else "text"
    if kind == "number" and numeric:
        numbers = numpy.array([math.nan if value is None else float(value) for value in values], dtype=float)
        return GeneColumn(path, name, "number", scale, None, None, numbers)
    # In a row, a choice of null looks like an inactive gene: it has no index.
    texts = {_key(value): value for value in choices}
    keys = [None if value is None else _key(value) for value in values]
    texts |= {key: value for key, value in zip(keys, values, strict=True) if key is not None and key not in texts}
    index = {key: float(at) for at, key in enumerate(texts)}
    indices = numpy.array([math.nan if key is None else index[key] for key in keys], dtype=float)
    labels = _labels(texts.values(), kind)
    return GeneColumn(
        path, name, "text" if kind == "number" else kind, "linear", labels, tuple(texts.values()), indices
    )


def _described(described: Any) -> tuple[GeneKind | None, Literal["linear", "log"], list[Any]]:
    """Kind, scale and choices of a gene as described in the archive; the kind is ``None`` for classes of the user."""
    if not isinstance(described, Mapping):
        return None, "linear", []
    place, _, name = str(described.get("class_path", "")).rpartition(".")
    arguments = described.get("init_args") or {}
    if not f"{place}.".startswith(_OURS) or name not in _KINDS:
        return None, "linear", []
    logarithmic = name == "LogUniform" or bool(arguments.get("log"))
    choices = [False, True] if name == "Boolean" else list(arguments.get("choices") or [])
    return _KINDS[name], "log" if logarithmic else "linear", choices


def _labels(texts: Iterable[Any], kind: GeneKind) -> tuple[str, ...]:
    """A label for each value: unique for choices, shortened for texts if there are many."""
    values = list(texts)
    labels = [label(value) for value in values]
    if kind != "text":
        twice = {text for text in labels if labels.count(text) > 1}
        return tuple(identity(value) if text in twice else text for value, text in zip(values, labels, strict=True))
    length = max(40, MAX_LABEL_CHARACTERS // max(1, len(labels)))
    return tuple(text if len(text) <= length else f"{text[: length - 1]}…" for text in labels)


def _key(value: Any) -> Hashable:
    """A key that is equal only for equal values; texts, of which there are many, are their own keys."""
    return value if isinstance(value, str) else (identity(value),)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
