"""Quality of a search's own prescreen: cross-validation while it ran, and predicted versus true fitness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_evo.algorithms.quality import Quality, QualityHistory, determination, kendall
from lightning_evo.archive import Archive
from lightning_evo.archive.meta import read_meta
from lightning_evo.genome import COMPLETED, Objective

__all__ = ["Agreement", "PrescreenRecord", "read_prescreens"]


@dataclass(frozen=True)
class Agreement:
    """Agreement between predictions made before training and the true fitness.

    Args:
        count: Number of candidates.
        tau: Kendall's τ-b; NaN for fewer than two candidates.
        r2: Coefficient of determination; below 0 if the mean would predict better, NaN if all values are equal.
    """

    count: int
    tau: float
    r2: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Agreement:
        """The agreement of pairs of predicted and true values."""
        predicted, true = [p for p, _ in pairs], [t for _, t in pairs]
        tau = kendall(predicted, true) if len(pairs) > 1 else math.nan
        return cls(len(pairs), tau, determination(predicted, true))


@dataclass(frozen=True)
class PrescreenRecord:
    """The quality of one search's prescreen, for one objective.

    Args:
        location: Directory, archive file or database URL of the search.
        quality: The result of each cross-validation, by number of results.
        chosen: Agreement for candidates that were chosen by their prediction.
        unfiltered: Agreement for candidates that were trained regardless of their prediction.
    """

    location: str
    quality: Sequence[Quality]
    chosen: Agreement
    unfiltered: Agreement

    def to_dict(self) -> dict[str, Any]:
        """As a mapping; numbers may be NaN."""
        record = asdict(self)
        return {"place": record.pop("location"), **record}


def read_prescreens(locations: Sequence[str | Path], objective: Objective) -> list[PrescreenRecord]:
    """The records of all searches with a prescreen that has been validated or has made predictions.

    Args:
        locations: Directories, archive files or database URLs of searches.
        objective: The objective.

    Raises:
        ArchiveError: If an archive can't be read.
    """
    records = []
    for location in locations:
        with Archive(location) as archive:
            history = read_meta(archive.meta, QualityHistory) or QualityHistory()
            quality = [one for one in history.validations if one.monitor == objective.monitor]
            rows = archive.candidates(status=COMPLETED)
        pairs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for row in rows:
            pair = _pair(row, objective.monitor)
            if pair is not None:
                pairs[bool(row["prescreened"])].append(pair)
        if quality or any(pairs.values()):
            ordered = sorted(quality, key=lambda one: one.results)
            chosen, unfiltered = Agreement.of(pairs[True]), Agreement.of(pairs[False])
            records.append(PrescreenRecord(str(location), ordered, chosen, unfiltered))
    return records


def _pair(row: Mapping[str, Any], monitor: str) -> tuple[float, float] | None:
    """The predicted and the true fitness; ``None`` for a duplicate or where either is missing."""
    predicted, true = row.get(f"predicted/{monitor}"), row.get(monitor)
    if predicted is None or true is None or row["duplicate_of"] is not None:
        return None
    return (predicted, true) if math.isfinite(predicted) and math.isfinite(true) else None
