"""What was a search's own prescreen worth? How its predictor was judged over time, and its predictions beside the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_evo.algorithms.quality import QUALITY, Quality, determination, kendall
from lightning_evo.archive import Archive
from lightning_evo.genome import COMPLETED, Objective

__all__ = ["Agreement", "PrescreenRecord", "read_prescreens"]


@dataclass(frozen=True)
class Agreement:
    """How predictions made before training agree with what training gave.

    Args:
        count: How many candidates.
        tau: Kendall's τ-b; NaN for fewer than two.
        r2: Coefficient of determination; below 0 where the mean would be better, NaN where all ended alike.
    """

    count: int
    tau: float
    r2: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Agreement:
        """The agreement of predicted and true values."""
        predicted, true = [p for p, _ in pairs], [t for _, t in pairs]
        tau = kendall(predicted, true) if len(pairs) > 1 else math.nan
        return cls(len(pairs), tau, determination(predicted, true))


@dataclass(frozen=True)
class PrescreenRecord:
    """What one search's prescreen was worth, for one objective.

    Args:
        place: Directory, archive file or database URL of the search.
        quality: What each validation said, by the number of results.
        chosen: Predictions of the candidates that were chosen by them.
        unfiltered: Predictions of those that were trained whatever was predicted.
    """

    place: str
    quality: Sequence[Quality]
    chosen: Agreement
    unfiltered: Agreement

    def to_dict(self) -> dict[str, Any]:
        """As a mapping; numbers may be NaN."""
        return asdict(self)


def read_prescreens(locations: Sequence[str | Path], objective: Objective) -> list[PrescreenRecord]:
    """The records of those searches that had a prescreen, and so far a word from it.

    Args:
        locations: Directories, archive files or database URLs of searches.
        objective: Which of their objectives.

    Raises:
        ArchiveError: If an archive can't be read.
    """
    records = []
    for location in locations:
        with Archive(location) as archive:
            quality = [Quality(**row) for row in archive.meta.get(QUALITY, []) if row["monitor"] == objective.monitor]
            rows = archive.candidates(status=COMPLETED)
        told: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for row in rows:
            pair = _pair(row, objective.monitor)
            if pair is not None:
                told[bool(row["prescreened"])].append(pair)
        if quality or any(told.values()):
            ordered = sorted(quality, key=lambda one: one.results)
            records.append(PrescreenRecord(str(location), ordered, Agreement.of(told[True]), Agreement.of(told[False])))
    return records


def _pair(row: Mapping[str, Any], monitor: str) -> tuple[float, float] | None:
    """What was predicted and what was true; nothing where a candidate was answered by another one's result."""
    predicted, true = row.get(f"predicted/{monitor}"), row.get(monitor)
    if predicted is None or true is None or row["duplicate_of"] is not None:
        return None
    return (predicted, true) if math.isfinite(predicted) and math.isfinite(true) else None
