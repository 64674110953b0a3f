"""Results that candidates in training share: one file that only grows, followed without access to the archive.

Early stopping compares a candidate with those that ended before it. The controller writes one line per result as soon as
others may see it, in the archive's order. The file can be rebuilt from the archive at any time, and is whenever a search
continues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_evo.archive.errors import translated_file
from lightning_evo.genome import COMPLETED, Candidate, Objective, Result, Status
from lightning_evo.genome.records import evaluations
from lightning_evo.utils.files import open_unlinked

__all__ = ["SHARED_RESULTS_FILE", "SharedResult", "SharedResultsReader", "SharedResultsWriter"]

SHARED_RESULTS_FILE = "known.jsonl"


@dataclass(frozen=True)
class SharedResult:
    """The part of a finished candidate that others may see.

    Args:
        id: Its id.
        status: ``completed`` or ``stopped``.
        fitness: One value per objective; predicted where it was stopped.
        curves: Monitor -> its value at each evaluation, for objectives that are logged metrics.
        features: The genome as numbers, NaN for genes not active.
        cost: What it cost.
    """

    id: int
    status: Status
    fitness: tuple[float, ...]
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    features: tuple[float, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it was trained to its end, so that its fitness is no prediction."""
        return self.status == COMPLETED

    @classmethod
    def of(
        cls, candidate: Candidate, result: Result, objectives: Sequence[Objective], features: Sequence[float]
    ) -> SharedResult | None:
        """The part of a result to share; ``None`` where there is nothing to learn from it (failed, or a duplicate)."""
        if result.fitness is None or candidate.duplicate_of is not None:
            return None
        logged = [objective.monitor for objective in objectives if objective.logged]
        evaluated = evaluations(result.curve, objectives)
        curves = {name: tuple(float(point[name]) for point in evaluated) for name in logged}
        return cls(candidate.id, result.status, result.fitness, curves, tuple(features), dict(result.cost))


class SharedResultsWriter:
    """The controller's side of the file; creates it empty.

    Args:
        path: The file.

    Raises:
        ArchiveError: If it can't be written (:class:`DiskFull` if there is no space).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with translated_file(path):
            open_unlinked(path, "wb").close()

    def add(self, results: Sequence[SharedResult]) -> None:
        """Append results; readers see whole lines only."""
        if not results:
            return
        with translated_file(self.path), open_unlinked(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(result)) + "\n" for result in results))


class SharedResultsReader:
    """The candidates' side: the results in the file now, in the order in which they were shared.

    Args:
        path: The file; it need not exist yet.

    >>> SharedResultsReader("/nowhere/known.jsonl").read()
    []
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._at = 0
        self._results: list[SharedResult] = []

    def read(self) -> list[SharedResult]:
        """Return all results shared so far; only lines that are new since the last call are read."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._at:
                    self._at, self._results = 0, []  # the search was continued, and began the file anew
                file.seek(self._at)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]  # the rest of the last line is still being written
        self._at += len(whole)
        self._results += [_result(json.loads(line)) for line in whole.splitlines()]
        return list(self._results)


def _result(record: Mapping[str, Any]) -> SharedResult:
    return SharedResult(
        **{
            **record,
            "fitness": tuple(record["fitness"]),
            "curves": {name: tuple(curve) for name, curve in record["curves"].items()},
            "features": tuple(record["features"]),
        }
    )
