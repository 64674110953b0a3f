"""How do a run's candidates travel to the page? Column by column, texts by number, and no digit more than is seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.reporting.summaries import growth_remark, stack_remark
from lightning_evo.reporting.views import GeneColumn, Recorded

__all__ = ["MANY", "STATUSES", "candidate_columns", "fitness_digits", "gene_descriptions", "rounded"]

STATUSES = ("pending", "completed", "stopped", "failed")
"""A status is its place here."""

MANY = 5_000
"""Of more candidates fewer digits are kept, so that the page stays small."""

TRACEBACKS = 50
"""Of so many different errors one traceback is kept."""

_LONGEST = 4_000
_LINES = 30
_RAW = 200_000
"""Characters that one gene's values may take as they are, besides their labels."""


def fitness_digits(candidates: int) -> int:
    """How many significant digits of a fitness are kept; as many of what it is compared with, or ties would be broken."""
    return 7 if candidates <= MANY else 5


def rounded(value: Any, digits: int) -> float | int | None:
    """A number with so many significant digits; ``None`` for what is missing or not finite.

    >>> rounded(0.1234567, 4), rounded(1234567.0, 4), rounded(math.nan, 4), rounded(None, 4), rounded(True, 4)
    (0.1235, 1235000, None, None, 1)
    """
    if value is None or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def candidate_columns(archive: Archive, recorded: Recorded, genes: Sequence[GeneColumn]) -> dict[str, Any]:
    """The candidates of a run, column by column; see :func:`~lightning_evo.reporting.page.payload`.

    Args:
        archive: The run's, for the tracebacks.
        recorded: The run.
        genes: Its genes.
    """
    rows = recorded.rows
    digits = fitness_digits(len(rows))
    costs, metrics = _names(rows, "cost/"), _names(rows, "metrics/")
    origins, errors, remarks = _Texts(), _Texts(), _Texts()
    fitness = recorded.values(rows)
    ended = [row["status"] not in ("pending", "failed") for row in rows]
    columns: dict[str, Any] = {
        "id": [row["id"] for row in rows],
        "status": [STATUSES.index(row["status"]) for row in rows],
        "fitness": [[rounded(value, digits) for value in column] for column in fitness.T.tolist()],
        # The fitness isn't a finite number, though the candidate has one.
        "nonfinite": [
            at for at, values in enumerate(fitness.tolist()) if ended[at] and not all(map(math.isfinite, values))
        ],
        "genes": {gene.path: _gene_values(gene, digits) for gene in genes},
        "parents": [list(row["parents"]) for row in rows],
        "generation": [row["generation"] for row in rows],
        "origin": [origins.place(row["origin"]) for row in rows],
        "inherits": [recorded.source[row["id"]] for row in rows],
        "duplicate_of": [row["duplicate_of"] for row in rows],
        **{name: [_moment(row[name], recorded.created) for row in rows] for name in ("queued", "started", "ended")},
        "slot": [row["slot"] for row in rows],
        "attempts": [row["attempts"] for row in rows],
        "costs": {name: _numbers(rows, f"cost/{name}", digits - 1) for name in costs},
        "metrics": {name: _numbers(rows, f"metrics/{name}", digits - 1) for name in metrics},
        "error": [errors.place(_cut(row["error_type"])) for row in rows],
        "remark": [remarks.place(_remark(recorded, row["id"])) for row in rows],
    }
    tracebacks = _tracebacks(archive, rows, columns["error"], len(errors.texts))
    texts = {"origins": origins.texts, "errors": errors.texts, "tracebacks": tracebacks, "remarks": remarks.texts}
    return columns | texts


def gene_descriptions(genes: Iterable[GeneColumn]) -> list[dict[str, Any]]:
    """What the page must know of each gene; ``raw`` holds the values behind the labels, where they aren't too long."""
    return [
        {
            "path": gene.path,
            "name": gene.name,
            "kind": gene.kind,
            "scale": gene.scale,
            "choices": None if gene.choices is None else list(gene.choices),
            "raw": None if gene.texts is None or sum(len(str(t)) for t in gene.texts) > _RAW else list(gene.texts),
        }
        for gene in genes
    ]


class _Texts:
    """Different texts in the order in which they came, each to be named by its place."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str | None) -> int | None:
        return self._places.setdefault(text, len(self._places)) if text else None

    @property
    def texts(self) -> list[str]:
        return list(self._places)


def _names(rows: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    found = dict.fromkeys(name for row in rows for name in row if name.startswith(prefix))
    return [name.removeprefix(prefix) for name in found]


def _numbers(rows: Sequence[Mapping[str, Any]], name: str, digits: int) -> list[float | int | None]:
    return [rounded(row.get(name), digits) for row in rows]


def _gene_values(gene: GeneColumn, digits: int) -> list[float | int | None]:
    keep: Callable[[float], float | int | None]
    if gene.kind == "number":
        keep = lambda value: rounded(value, digits)  # noqa: E731
    else:
        keep = lambda value: None if math.isnan(value) else int(value)  # noqa: E731
    return [keep(value) for value in gene.values.tolist()]


def _moment(at: float | None, created: float) -> float | None:
    return None if at is None else round(at - created, 2)


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _remark(recorded: Recorded, id: int) -> str:
    """What callbacks did with a candidate, without the numbers of other candidates: many have the same one."""
    parts = []
    if (inherited := recorded.inherited.get(id)) is not None:
        if inherited.parent is None:
            parts.append(f"began anew: {inherited.why}" if inherited.why else "began anew")
        else:
            taken = ", ".join(f"{count} {name}" for name, count in inherited.counts.items() if count)
            older = "" if inherited.parent == inherited.asked else "from an older ancestor, "
            parts.append(f"inherited weights: {older}tensors {taken or 'none'}")
    if (continued := recorded.continued.get(id)) is not None:
        parts.append(f"trained epochs {continued.start} to {continued.end} of a longer training")
    if id in recorded.grown:
        parts.append(growth_remark(recorded.grown[id]))
    if id in recorded.stacked:
        stacked = recorded.stacked[id]
        parts.append(stack_remark(stacked) + (f": {stacked['reason']}" if stacked["lowering"] == "alone" else ""))
    return "; ".join(parts)


def _tracebacks(
    archive: Archive, rows: Sequence[Mapping[str, Any]], places: Sequence[int | None], count: int
) -> list[str | None]:
    """The last lines of one traceback for each different error."""
    first: dict[int, int] = {}
    for row, place in zip(rows, places, strict=True):
        if place is not None:
            first.setdefault(place, row["id"])
    found: list[str | None] = [None] * count
    for place, id in list(first.items())[:TRACEBACKS]:
        result = archive.result(id)
        if result is not None and result.error:
            found[place] = _cut("\n".join(result.error.rstrip().splitlines()[-_LINES:]))
    return found
