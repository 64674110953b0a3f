"""How did the search get on? The best so far and the population's quantiles, against candidates, epochs and seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from lightning_evo.genome import COMPLETED, STOPPED
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["Progress", "progress", "told_order"]

WINDOW = 32
"""How many candidates the population's quantiles are taken over, where the algorithm doesn't say how many it keeps."""


@dataclass(frozen=True, eq=False)
class Progress:
    """The course of one objective. All arrays have the shape (points,); a point is a candidate that was told.

    Args:
        monitor: The objective.
        mode: ``max`` or ``min``.
        window: Over how many of the last candidates with a fitness the quantiles are taken.
        count: How many candidates had been told, failed ones included.
        epochs: How many epochs they had trained together.
        seconds: Seconds since the run began, pauses left out.
        best: The best fitness of a completed candidate so far; NaN before the first.
        best_id: Its candidate; -1 before the first.
        q25: Quarter of the population at or below; NaN before its first fitness.
        q50: Half of it.
        q75: Three quarters of it.
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


def told_order(recorded: Recorded) -> list[Mapping[str, Any]]:
    """The candidates with a result in the order in which they ended; those answered by others when they were asked."""
    told = [row for row in recorded.rows if row["status"] != "pending"]
    return sorted(told, key=lambda row: (_told_at(row), row["id"]))


def _told_at(row: Mapping[str, Any]) -> float:
    """When a result came, in seconds since the epoch; of one answered by another's when it was asked."""
    return row["queued"] if row["ended"] is None else row["ended"]


def progress(recorded: Recorded, monitor: str | None = None, points: int = 2_000) -> Progress:
    """The course of one objective.

    The population is the last candidates with a fitness, those stopped early (their fitness is predicted) included; the
    best is a completed one.

    Args:
        recorded: The run.
        monitor: Which objective; default: the first.
        points: At most about so many; where the best changed and the last one are always among them.

    Raises:
        ValueError: If there is no such objective.
    """
    objective = recorded.objective(monitor)
    rows = told_order(recorded)
    window = _window(recorded)
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
    ended = numpy.array([_told_at(row) for row in rows], dtype=float)
    epochs = numpy.cumsum([float(row.get("cost/epochs") or 0.0) for row in rows])
    return Progress(
        monitor=objective.monitor,
        mode=objective.mode,
        window=window,
        count=kept + 1,
        epochs=epochs[kept],
        seconds=recorded.seconds(ended)[kept],
        best=(objective.weight * best)[kept],
        best_id=best_id[kept],
        q25=quantiles[0],
        q50=quantiles[1],
        q75=quantiles[2],
    )


def _window(recorded: Recorded) -> int:
    algorithm = recorded.meta.get("search", {}).get("evolution", {}).get("algorithm", {})
    size = (algorithm.get("init_args") or {}).get("population_size") if isinstance(algorithm, Mapping) else None
    return size if isinstance(size, int) and size > 0 else WINDOW


def _kept(better: NDArray[numpy.bool_], points: int) -> NDArray[numpy.int64]:
    """Which points to show: all where they are few, otherwise evenly spaced ones and where the best changed."""
    count = len(better)
    if count <= points:
        return numpy.arange(count)
    spaced = numpy.linspace(0, count - 1, points).round().astype(numpy.int64)
    return numpy.union1d(spaced, numpy.flatnonzero(better))


def _quantiles(known: NDArray[numpy.float64], window: int, at: NDArray[numpy.int64]) -> NDArray[numpy.float64]:
    """Quartiles of the last ``window`` fitnesses up to each point, of shape (3, points)."""
    values = known[numpy.isfinite(known)]
    told = numpy.cumsum(numpy.isfinite(known))[at] if len(known) else numpy.zeros(0, numpy.int64)
    found = numpy.full((3, len(at)), numpy.nan)
    for column, count in enumerate(told):
        if count:
            found[:, column] = numpy.percentile(values[max(0, count - window) : count], (25, 50, 75))
    return found
