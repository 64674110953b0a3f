"""Learning curves: metrics along the training, where training was stopped, and the predicted final values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from lightning_evo.archive import Archive
from lightning_evo.genome import Objective
from lightning_evo.genome.records import POSITION, evaluations, position_of
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Curve", "EarlyPrediction", "curves", "early_predictions", "length", "sample_candidates"]


@dataclass(frozen=True, eq=False)
class Curve:
    """The learning curves of one candidate.

    Args:
        id: The candidate's id.
        places: Where in the training each point is: its epoch, from 0, or the optimizer steps before it where validations
            lie within epochs; shape (points,).
        unit: What ``places`` are: ``epoch`` or ``step``.
        metrics: For each metric its value at each point, NaN where it wasn't logged; shape (points,).
        evaluations: The places at which every objective that is a logged metric was logged; shape (evaluations,).
    """

    id: int
    places: NDArray[numpy.int64]
    unit: Literal["epoch", "step"]
    metrics: Mapping[str, NDArray[numpy.float64]]
    evaluations: NDArray[numpy.int64]

    def end(self, share: float) -> float:
        """The place where the whole training would have ended, of which the curve shows this share, above 0."""
        last = float(self.places[-1])
        return last / share if self.unit == "step" else (last + 1) / share - 1


@dataclass(frozen=True)
class EarlyPrediction:
    """The predicted final value of a training, from the time when it was decided whether to stop it.

    Args:
        id: The candidate's id.
        monitor: The metric.
        evaluation: The evaluation, from 0, after which the decision was made.
        mean: The predicted final value.
        low: Lower end of its 90 % interval.
        high: Upper end.
        stopped: Whether the training was stopped; otherwise the candidate is a control, which trained to the end.
        true: The final value of a control that completed; ``None`` for others.
    """

    id: int
    monitor: str
    evaluation: int
    mean: float
    low: float
    high: float
    stopped: bool
    true: float | None


def sample_candidates(snapshot: RunSnapshot, count: int) -> list[int]:
    """Choose candidates whose curves represent the run if not all can be shown: the best, the latest, and others evenly.

    Args:
        snapshot: The run.
        count: The maximum number of candidates.

    Returns:
        Their ids, ascending.
    """
    trained = [row for row in snapshot.rows if row["duplicate_of"] is None]
    if len(trained) <= count:
        return [row["id"] for row in trained]
    objectives = snapshot.objectives[:1]
    weight, monitor = (objectives[0].weight, objectives[0].monitor) if objectives else (1.0, "")

    def worth(row: Mapping[str, Any]) -> float:
        value = row.get(monitor, math.nan)
        return weight * value if math.isfinite(value) else -math.inf

    best = {row["id"] for row in sorted(trained, key=worth, reverse=True)[: count // 4]}
    chosen = best | {row["id"] for row in trained[-(count // 4) :]}
    rest = [row["id"] for row in trained if row["id"] not in chosen]
    evenly = numpy.linspace(0, len(rest) - 1, min(len(rest), count - len(chosen))).round().astype(int)
    return sorted(chosen | {rest[at] for at in evenly})


def curves(archive: Archive, ids: Sequence[int] | None = None, metrics: Iterable[str] | None = None) -> list[Curve]:
    """The learning curves of all candidates that logged anything, by id.

    Args:
        archive: The run's archive.
        ids: The candidates; default: all.
        metrics: The metrics; default: every metric that a candidate logged.
    """
    points: dict[int, list[Mapping[str, Any]]] = {}
    for point in archive.curves(ids):
        points.setdefault(point["id"], []).append(point)
    wanted = None if metrics is None else list(metrics)
    objectives = archive.objectives
    return [_curve(id, logged, wanted, objectives) for id, logged in points.items()]


def length(snapshot: RunSnapshot, curve: Curve) -> float | None:
    """The place in a candidate's training where it would have ended; ``None`` if nothing was predicted of it.

    Args:
        snapshot: The run.
        curve: The candidate's curve: a whole training's, or up to where it was stopped.
    """
    record = snapshot.early.get(curve.id)
    if record is None:
        return None
    if record.stopped_at is None:
        return float(curve.places[-1])
    # An earlier version's record: every epoch was an evaluation.
    return record.horizon - 1.0 if record.share is None else curve.end(record.share)


def early_predictions(snapshot: RunSnapshot) -> list[EarlyPrediction]:
    """The predicted final values of trainings that were stopped, or would have been, by id.

    Args:
        snapshot: The run.
    """
    found = []
    for id, record in snapshot.early.items():
        stopped, evaluation = record.stopped_at is not None, record.decided_at
        if evaluation is None:
            continue
        row = snapshot.by_id[id]
        for monitor, final in record.predicted.items():
            true = row.get(monitor) if row["status"] == "completed" else None
            found.append(EarlyPrediction(id, monitor, evaluation, final.mean, final.low, final.high, stopped, true))
    return found


def _curve(
    id: int, points: Sequence[Mapping[str, Any]], wanted: Sequence[str] | None, objectives: Sequence[Objective]
) -> Curve:
    names = wanted
    if names is None:
        names = list(dict.fromkeys(name for point in points for name in point if name not in POSITION | {"id"}))
    values = {name: numpy.array([_number(point.get(name)) for point in points], dtype=float) for name in names}
    return Curve(
        id,
        _places(points),
        "step" if any("step" in point for point in points) else "epoch",
        {name: column for name, column in values.items() if not numpy.isnan(column).all()},
        _places(evaluations(points, objectives)),
    )


def _places(points: Sequence[Mapping[str, Any]]) -> NDArray[numpy.int64]:
    known = [position_of(point) if POSITION & point.keys() else at for at, point in enumerate(points)]
    return numpy.array(known, dtype=numpy.int64)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
