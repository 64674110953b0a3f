"""A run's candidates in the payload: column by column, texts by index, and only the digits that are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.reporting.summaries import growth_remark, stack_remark
from lightning_evo.reporting.views import GeneColumn, RunSnapshot

__all__ = ["MANY", "STATUSES", "candidate_columns", "fitness_digits", "gene_descriptions", "rounded"]

STATUSES = ("pending", "completed", "stopped", "failed")
"""A status is encoded as its index."""

MANY = 5_000
"""With more candidates than this, fewer digits are kept to limit the size of the page."""

MAX_TRACEBACKS = 50
"""Number of different errors for which a traceback is kept."""

_MAX_ERROR_LENGTH = 4_000
_MAX_TRACEBACK_LINES = 30
_MAX_RAW_CHARACTERS = 200_000
"""Total characters of one gene's raw values, which are kept in addition to their labels."""


def fitness_digits(candidates: int) -> int:
    """Significant digits of a fitness and of everything it is compared with: other values would break ties."""
    return 7 if candidates <= MANY else 5


def rounded(value: Any, digits: int) -> float | int | None:
    """A number with this many significant digits; ``None`` for missing and non-finite values.

    >>> rounded(0.1234567, 4), rounded(1234567.0, 4), rounded(math.nan, 4), rounded(None, 4), rounded(True, 4)
    (0.1235, 1235000, None, None, 1)
    """
    if value is None or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def candidate_columns(archive: Archive, snapshot: RunSnapshot, genes: Sequence[GeneColumn]) -> dict[str, Any]:
    """The candidates of a run, column by column; see :func:`~lightning_evo.reporting.page.payload`.

    Args:
        archive: The run's archive, for the tracebacks.
        snapshot: The run.
        genes: Its genes.
    """
    rows = snapshot.rows
    digits = fitness_digits(len(rows))
    costs, metrics = _names(rows, "cost/"), _names(rows, "metrics/")
    origins, errors, remarks = _TextIndex(), _TextIndex(), _TextIndex()
    fitness = snapshot.values(rows)
    ended = [row["status"] not in ("pending", "failed") for row in rows]
    columns: dict[str, Any] = {
        "id": [row["id"] for row in rows],
        "status": [STATUSES.index(row["status"]) for row in rows],
        "fitness": [[rounded(value, digits) for value in column] for column in fitness.T.tolist()],
        # Candidates with a result whose fitness isn't a finite number.
        "nonfinite": [
            at for at, values in enumerate(fitness.tolist()) if ended[at] and not all(map(math.isfinite, values))
        ],
        "genes": {gene.path: _gene_values(gene, digits) for gene in genes},
        "parents": [list(row["parents"]) for row in rows],
        "generation": [row["generation"] for row in rows],
        "origin": [origins.index(row["origin"]) for row in rows],
        "inherits": [snapshot.weight_source[row["id"]] for row in rows],
        "duplicate_of": [row["duplicate_of"] for row in rows],
        **{name: [_seconds(row[name], snapshot.created) for row in rows] for name in ("queued", "started", "ended")},
        "slot": [row["slot"] for row in rows],
        "attempts": [row["attempts"] for row in rows],
        "costs": {name: _numbers(rows, f"cost/{name}", digits - 1) for name in costs},
        "metrics": {name: _numbers(rows, f"metrics/{name}", digits - 1) for name in metrics},
        "error": [errors.index(_shorten(row["error_type"])) for row in rows],
        "remark": [remarks.index(snapshot.mask.text(_remark(snapshot, row["id"]))) for row in rows],
    }
    tracebacks = _tracebacks(archive, snapshot, columns["error"], len(errors.texts))
    texts = {"origins": origins.texts, "errors": errors.texts, "tracebacks": tracebacks, "remarks": remarks.texts}
    return columns | texts


def gene_descriptions(genes: Iterable[GeneColumn]) -> list[dict[str, Any]]:
    """The description of each gene; ``raw`` holds the values behind the labels unless they are too long."""
    return [
        {
            "path": gene.path,
            "name": gene.name,
            "kind": gene.kind,
            "scale": gene.scale,
            "choices": None if gene.choices is None else list(gene.choices),
            "raw": None
            if gene.texts is None or sum(len(str(t)) for t in gene.texts) > _MAX_RAW_CHARACTERS
            else list(gene.texts),
        }
        for gene in genes
    ]


class _TextIndex:
    """Different texts in order of appearance, each with an index."""

    def __init__(self) -> None:
        self._indices: dict[str, int] = {}

    def index(self, text: str | None) -> int | None:
        return self._indices.setdefault(text, len(self._indices)) if text else None

    @property
    def texts(self) -> list[str]:
        return list(self._indices)


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


def _seconds(at: float | None, created: float) -> float | None:
    return None if at is None else round(at - created, 2)


def _shorten(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MAX_ERROR_LENGTH else f"{text[: _MAX_ERROR_LENGTH - 1]}…"


def _remark(snapshot: RunSnapshot, id: int) -> str:
    """Return what callbacks did with a candidate, without other candidates' ids, so that many candidates share a remark."""
    parts = []
    if (inherited := snapshot.inherited.get(id)) is not None:
        if inherited.parent is None:
            parts.append(f"started from scratch: {inherited.why}" if inherited.why else "started from scratch")
        else:
            taken = ", ".join(f"{count} {name}" for name, count in inherited.counts.items() if count)
            older = "" if inherited.parent == inherited.asked else " from an older ancestor"
            parts.append(f"inherited weights{older}: {taken or 'no'} tensors")
    if (continued := snapshot.continued.get(id)) is not None:
        parts.append(f"trained epochs {continued.start} to {continued.end} of a longer training")
    if id in snapshot.grown:
        parts.append(growth_remark(snapshot.grown[id]))
    if id in snapshot.stacked:
        stacked = snapshot.stacked[id]
        parts.append(stack_remark(stacked) + (f": {stacked.reason}" if stacked.lowering == "alone" else ""))
    if id in snapshot.uncounted:
        parts.append(str(snapshot.uncounted[id]))
    return "; ".join(parts)


def _tracebacks(archive: Archive, snapshot: RunSnapshot, errors: Sequence[int | None], count: int) -> list[str | None]:
    """The last lines of one traceback for each different error."""
    first: dict[int, int] = {}
    for row, error in zip(snapshot.rows, errors, strict=True):
        if error is not None:
            first.setdefault(error, row["id"])
    tracebacks: list[str | None] = [None] * count
    for error, id in list(first.items())[:MAX_TRACEBACKS]:
        result = archive.result(id)
        if result is not None and result.error:
            tracebacks[error] = _shorten(
                "\n".join(snapshot.mask.text(result.error).rstrip().splitlines()[-_MAX_TRACEBACK_LINES:])
            )
    return tracebacks
