"""Predictions made before training, and the fitness that was reached."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.quality import determination, kendall
from lightning_evo.genome import COMPLETED
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Predicted", "predicted"]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions of one objective made before training. All arrays have the shape (candidates,).

    Args:
        monitor: The objective.
        ids: Ids of all candidates with a prediction, whatever their status, ascending.
        mean: The predicted fitness.
        std: Its standard deviation.
        chosen: Whether the candidate was chosen by its prediction.
        true: The true fitness; NaN for candidates that were not trained to the end.
    """

    monitor: str
    ids: NDArray[numpy.int64]
    mean: NDArray[numpy.float64]
    std: NDArray[numpy.float64]
    chosen: NDArray[numpy.bool_]
    true: NDArray[numpy.float64]

    @property
    def known(self) -> NDArray[numpy.bool_]:
        """Where both the predicted and the true fitness are finite; shape (candidates,)."""
        return numpy.isfinite(self.mean) & numpy.isfinite(self.true)

    @property
    def tau(self) -> float:
        """Kendall's τ-b between predicted and true fitness; 0 where it is undefined."""
        return kendall(self.mean[self.known], self.true[self.known])

    @property
    def r2(self) -> float:
        """R² of the predictions; NaN where it is undefined."""
        return determination(self.mean[self.known], [float(value) for value in self.true[self.known]])


def predicted(snapshot: RunSnapshot, monitor: str | None = None) -> Predicted:
    """The fitness predicted before training, and the true fitness.

    Args:
        snapshot: The run.
        monitor: The objective; default: the first.

    Raises:
        ValueError: If there is no such objective.
    """
    name = snapshot.objective(monitor).monitor
    rows = [row for row in snapshot.rows if f"predicted/{name}" in row]
    true = [
        row.get(name, numpy.nan) if row["status"] == COMPLETED and row["duplicate_of"] is None else numpy.nan
        for row in rows
    ]
    return Predicted(
        monitor=name,
        ids=numpy.array([row["id"] for row in rows], dtype=numpy.int64),
        mean=numpy.array([row[f"predicted/{name}"] for row in rows], dtype=float),
        std=numpy.array([row[f"predicted_std/{name}"] for row in rows], dtype=float),
        chosen=numpy.array([row["prescreened"] for row in rows], dtype=bool),
        true=numpy.array(true, dtype=float),
    )
