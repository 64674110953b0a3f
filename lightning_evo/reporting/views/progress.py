"""Progress of a search: the best fitness so far and the population's quartiles, against candidates, epochs and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.genome import COMPLETED, STOPPED
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Progress", "completion_order", "progress"]

WINDOW = 32
"""Number of candidates in the quartiles' window where the algorithm has no ``population_size``."""


@dataclass(frozen=True, eq=False)
class Progress:
    """The progress of one objective. All arrays have the shape (points,); a point is a result.

    Args:
        monitor: The objective.
        mode: ``max`` or ``min``.
        window: Number of latest candidates with a fitness that the quartiles are taken over.
        count: Number of results so far, including failed candidates.
        epochs: Epochs trained so far.
        seconds: Seconds since the start of the run, without pauses.
        best: The best fitness of a completed candidate so far; NaN before the first.
        best_id: The id of that candidate; -1 before the first.
        q25: First quartile of the population; NaN before the first fitness.
        q50: Median of the population.
        q75: Third quartile of the population.
    """

    monitor: str
    mode: str
    window: int
    count: NDArray[numpy.int64]
    epochs: NDArray[numpy.float64]
    seconds: NDArray[numpy.float64]
    best: NDArray[numpy.float64]
    best_id: NDArray[numpy.int64]
    q25: NDArray[numpy.float64]
    q50: NDArray[numpy.float64]
    q75: NDArray[numpy.float64]


def completion_order(snapshot: RunSnapshot) -> list[Mapping[str, Any]]:
    """The candidates with a result, in the order of their results."""
    ended = [row for row in snapshot.rows if row["status"] != "pending"]
    return sorted(ended, key=lambda row: (_result_time(row), row["id"]))


def _result_time(row: Mapping[str, Any]) -> float:
    """When the result was recorded, in seconds since the epoch; a duplicate's is recorded when it is bred."""
    return row["queued"] if row["ended"] is None else row["ended"]


def progress(snapshot: RunSnapshot, monitor: str | None = None, points: int = 2_000) -> Progress:
    """The progress of one objective.

    The population is the latest candidates with a fitness, including those stopped early, with their predicted fitness.
    The best candidate is a completed one.

    Args:
        snapshot: The run.
        monitor: The objective; default: the first.
        points: Approximate maximum number of points; the improvements and the last result are always included.

    Raises:
        ValueError: If there is no such objective.
    """
    objective = snapshot.objective(monitor)
    rows = completion_order(snapshot)
    window = _window(snapshot)
    fitness = numpy.array([row.get(objective.monitor, numpy.nan) for row in rows], dtype=float)
    fitness[~numpy.isfinite(fitness)] = numpy.nan
    status = numpy.array([row["status"] for row in rows], dtype=object)
    trained = numpy.array([row["duplicate_of"] is None for row in rows], dtype=bool)
    final = numpy.where((status == COMPLETED) & trained, objective.weight * fitness, numpy.nan)
    known = numpy.where(((status == COMPLETED) | (status == STOPPED)) & trained, fitness, numpy.nan)
    best = numpy.fmax.accumulate(final) if len(rows) else final
    better = numpy.isfinite(best) & (numpy.r_[numpy.nan, best[:-1]] != best) if len(rows) else numpy.zeros(0, bool)
    ids = numpy.array([row["id"] for row in rows], dtype=numpy.int64)
    winners = numpy.maximum.accumulate(numpy.where(better, numpy.arange(len(rows)), -1)) if len(rows) else ids
    best_id = numpy.where(winners >= 0, ids[winners], -1) if len(rows) else ids
    kept = _kept(better, points)
    quantiles = _quantiles(known, window, kept)
    ended = numpy.array([_result_time(row) for row in rows], dtype=float)
    epochs = numpy.cumsum([float(row.get("cost/epochs") or 0.0) for row in rows])
    return Progress(
        monitor=objective.monitor,
        mode=objective.mode,
        window=window,
        count=kept + 1,
        epochs=epochs[kept],
        seconds=snapshot.seconds(ended)[kept],
        best=(objective.weight * best)[kept],
        best_id=best_id[kept],
        q25=quantiles[0],
        q50=quantiles[1],
        q75=quantiles[2],
    )


def _window(snapshot: RunSnapshot) -> int:
    search = read_meta(snapshot.meta, SearchDescription) or SearchDescription()
    size = (search.algorithm.get("init_args") or {}).get("population_size")
    return size if isinstance(size, int) and size > 0 else WINDOW


def _kept(better: NDArray[numpy.bool_], points: int) -> NDArray[numpy.int64]:
    """Indices of the points to show: all if there are few, otherwise evenly spaced ones and the improvements."""
    count = len(better)
    if count <= points:
        return numpy.arange(count)
    spaced = numpy.linspace(0, count - 1, points).round().astype(numpy.int64)
    return numpy.union1d(spaced, numpy.flatnonzero(better))


def _quantiles(known: NDArray[numpy.float64], window: int, at: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
    """Quartiles of the last ``window`` fitnesses up to each point, of shape (3, points)."""
    values = known[numpy.isfinite(known)]
    counts = numpy.cumsum(numpy.isfinite(known))[at] if len(known) else numpy.zeros(0, numpy.int64)
    quantiles = numpy.full((3, len(at)), numpy.nan)
    for column, count in enumerate(counts):
        if count:
            quantiles[:, column] = numpy.percentile(values[max(0, count - window) : count], (25, 50, 75))
    return quantiles
