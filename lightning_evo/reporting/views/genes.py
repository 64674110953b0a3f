"""What varies, and how is it drawn? Each gene as a column: numbers, or places in a list of labels."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy
from numpy.typing import NDArray

from lightning_evo.genome.genes import identity
from lightning_evo.genome.names import short_names
from lightning_evo.reporting.summaries import is_growth_steps, short_step
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["GeneColumn", "GeneKind", "gene_columns", "label"]

GeneKind = Literal["number", "ordered", "category", "text"]

LABELS = 400_000
"""Characters that the labels of one text gene may have together: of many different values each is shortened."""

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
_FEW = 24
"""A gene of an unknown class with at most so many different texts is a category."""


@dataclass(frozen=True, eq=False)
class GeneColumn:
    """One gene's values over all candidates.

    Args:
        path: Its config path.
        name: The shortest end of the path that tells it from the others, and from the objectives.
        kind: ``number``; ``ordered`` or ``category`` (one of a list of choices); ``text`` (architectures, bitstrings).
        scale: ``log`` where it was searched on a logarithmic scale.
        choices: A label for each different value; ``None`` for numbers.
        texts: The values themselves, parallel to ``choices``.
        values: For each candidate the number, or its value's place among the choices; NaN where the gene is not active.
            Shape (candidates,).
    """

    path: str
    name: str
    kind: GeneKind
    scale: Literal["linear", "log"]
    choices: tuple[str, ...] | None
    texts: tuple[Any, ...] | None
    values: NDArray[numpy.float64]


def gene_columns(recorded: Recorded) -> list[GeneColumn]:
    """The genes of a run, in the order of its search space.

    What kind a gene is says the description of the space in the archive. No class of the user's is imported: a gene that
    isn't of this package is judged by its values.

    Args:
        recorded: The run.
    """
    if recorded not in _made:
        _made[recorded] = _columns(recorded)
    return list(_made[recorded])


def label(value: Any) -> str:
    """A gene's value in a few words.

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
        said = ", ".join(f"{name}={label(argument)}" for name, argument in arguments.items())
        return value["class_path"].rpartition(".")[2] + (f"({said})" if said else "")
    return json.dumps(value)


_made: WeakKeyDictionary[Recorded, list[GeneColumn]] = WeakKeyDictionary()
"""The columns of runs that somebody still looks at: several views need them."""


def _columns(recorded: Recorded) -> list[GeneColumn]:
    described = recorded.meta.get("search", {}).get("evolution", {}).get("space")
    space: Mapping[str, Any] = described if isinstance(described, Mapping) else {}
    paths = list(space) or _paths(recorded)
    names = short_names(paths, taken=["id", "status", *recorded.monitors])
    return [_column(path, names[path], space.get(path), [row.get(path) for row in recorded.rows]) for path in paths]


def _paths(recorded: Recorded) -> list[str]:
    """The genes of a run that doesn't say what it searches: whatever stands between fitness and parents in its rows."""
    found: dict[str, None] = {}
    for row in recorded.rows:
        for name in row:
            if name == "parents":
                break
            if name not in ("id", "status", *recorded.monitors):
                found.setdefault(name)
    return list(found)


def _column(path: str, name: str, described: Any, values: Sequence[Any]) -> GeneColumn:
    kind, scale, choices = _described(described)
    present = [value for value in values if value is not None]
    numeric = all(_is_number(value) for value in present)
    if kind is None:
        kind = "number" if numeric and present else "text"
        if kind == "text" and all(isinstance(value, (str, bool)) for value in present):
            kind = "category" if len({identity(value) for value in present}) <= _FEW else "text"
    if kind == "number" and numeric:
        numbers = numpy.array([math.nan if value is None else float(value) for value in values], dtype=float)
        return GeneColumn(path, name, "number", scale, None, None, numbers)
    # A choice of null can't be told from an inactive gene in a row; it has no place.
    texts = {_key(value): value for value in choices}
    keys = [None if value is None else _key(value) for value in values]
    texts |= {key: value for key, value in zip(keys, values, strict=True) if key is not None and key not in texts}
    place = {key: float(at) for at, key in enumerate(texts)}
    places = numpy.array([math.nan if key is None else place[key] for key in keys], dtype=float)
    labels = _labels(texts.values(), kind)
    return GeneColumn(path, name, "text" if kind == "number" else kind, "linear", labels, tuple(texts.values()), places)


def _described(described: Any) -> tuple[GeneKind | None, Literal["linear", "log"], list[Any]]:
    """Kind, scale and choices of a gene as the archive describes it; no kind where its class isn't ours."""
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
    """A label for each value; choices have different ones, texts are shortened where there are many."""
    values = list(texts)
    labels = [label(value) for value in values]
    if kind != "text":
        twice = {text for text in labels if labels.count(text) > 1}
        return tuple(identity(value) if text in twice else text for value, text in zip(values, labels, strict=True))
    longest = max(40, LABELS // max(1, len(labels)))
    return tuple(text if len(text) <= longest else f"{text[: longest - 1]}…" for text in labels)


def _key(value: Any) -> Hashable:
    """Equal for equal values alone; texts, of which there are many, are their own."""
    return value if isinstance(value, str) else (identity(value),)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
