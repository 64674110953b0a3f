"""The savings of early stopping and inherited weights, and the mistakes of early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.meta import CheckpointUsage, read_meta
from lightning_evo.callbacks.records import EarlyFitnessRecord, InheritanceRecord
from lightning_evo.genome import COMPLETED, STOPPED, Objective

__all__ = ["EarlyStoppingSavings", "InheritanceSavings", "Savings", "compute_savings", "savings"]


@dataclass(frozen=True)
class EarlyStoppingSavings:
    """The savings of early stopping, and its accuracy, measured on controls.

    Args:
        stopped: Candidates that were stopped early.
        epochs_trained: Epochs trained by all candidates that could have been stopped.
        epochs_saved: Epochs that the stopped ones would have trained in addition.
        controls: Candidates trained to the end to check whether stopping would have been right.
        would_stop: Controls that would have been stopped.
        wrong: How many of these beat the bar that they were predicted to miss.
        regret: By how much the best of the wrong ones beat its bar, 0 if there is none; in units of the first objective.
        covered: How many of the controls that would have been stopped ended within their predicted 90 % interval.
    """

    stopped: int
    epochs_trained: int
    epochs_saved: int
    controls: int
    would_stop: int
    wrong: int
    regret: float
    covered: int

    @property
    def precision(self) -> float:
        """Share of stops that were right, measured on the controls; NaN if none would have been stopped."""
        return 1 - self.wrong / self.would_stop if self.would_stop else math.nan

    @property
    def coverage(self) -> float:
        """Share of predicted 90 % intervals that held, measured on the controls; NaN if none would have been stopped."""
        return self.covered / self.would_stop if self.would_stop else math.nan

    def __str__(self) -> str:
        total = self.epochs_trained + self.epochs_saved
        share = f"{self.epochs_saved / total:.0%}" if total else "0%"
        text = f"early stopping: {self.stopped} stopped, {self.epochs_saved} of {total} epochs saved ({share}); "
        if not self.would_stop:
            return text + f"{self.controls} controls, none of which would have been stopped"
        return text + (
            f"{self.would_stop} of {self.controls} controls would have been stopped, {self.wrong} of them incorrectly "
            f"(precision {self.precision:.0%}, regret {self.regret:.4g}); {self.covered} of {self.would_stop} ended within "
            "the predicted 90% interval"
        )


@dataclass(frozen=True)
class InheritanceSavings:
    """How many candidates started from the weights of another.

    Args:
        inherited: Candidates that did.
        scratch: Candidates that were meant to, and started from scratch (checkpoint deleted, no tensors in common).
        older: Candidates that started from an older ancestor than requested.
        share: Average share of their tensors that were copied whole.
        sliced: Average share of their tensors of which a part was taken over.
    """

    inherited: int
    scratch: int
    older: int
    share: float
    sliced: float = 0.0

    def __str__(self) -> str:
        tensors = f"{self.share:.0%} of their tensors copied, {self.sliced:.0%} sliced"
        text = f"inheritance: {self.inherited} started from a parent's weights ({tensors})"
        rest = {"from an older ancestor": self.older, "from scratch instead": self.scratch}
        return ", ".join([text, *(f"{count} {what}" for what, count in rest.items() if count)])


@dataclass(frozen=True)
class Savings:
    """The savings of early stopping and inheritance; ``None`` where a search used neither.

    Args:
        early_stopping: What early stopping saved.
        inheritance: How many candidates inherited weights.
        checkpoints: Checkpoints on disk.
    """

    early_stopping: EarlyStoppingSavings | None
    inheritance: InheritanceSavings | None
    checkpoints: CheckpointUsage | None

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [self.early_stopping, self.inheritance]
        lines = [str(part) for part in parts if part is not None]
        if lines and self.checkpoints:
            size, peak = self.checkpoints.bytes / 1e6, self.checkpoints.peak_bytes / 1e6
            lines.append(f"checkpoints: {self.checkpoints.kept} kept, {size:.1f} MB on disk, {peak:.1f} MB at most")
        return "\n".join(lines)


def savings(location: str | Path | Archive, run: str | None = None) -> Savings:
    """Return the savings of early stopping and inheritance in a search so far.

    Args:
        location: The run's directory, an archive file, a database URL, or an open archive.
        run: Which run, where a database holds several.

    Raises:
        ArchiveError: If the archive can't be read.
    """
    if not isinstance(location, Archive):
        with Archive(location, run) as archive:
            return savings(archive)
    predicted, inherited = location.entries(EarlyFitnessRecord), location.entries(InheritanceRecord)
    rows = {row["id"]: row for row in location.candidates(list(predicted))}
    return compute_savings(rows, predicted, inherited, location.objectives, read_meta(location.meta, CheckpointUsage))


def compute_savings(
    rows: Mapping[int, Mapping[str, Any]],
    predicted: Mapping[int, EarlyFitnessRecord],
    inherited: Mapping[int, InheritanceRecord],
    objectives: Sequence[Objective],
    checkpoints: CheckpointUsage | None,
) -> Savings:
    """Compute the savings from data that has been read from an archive.

    Args:
        rows: Rows of ``Archive.candidates`` by id, including all ids of ``predicted``.
        predicted: ``Result.extra["early_fitness"]`` by id.
        inherited: ``Result.extra["inheritance"]`` by id.
        objectives: The objectives.
        checkpoints: Checkpoints on disk.
    """
    return Savings(
        _early_stopping(rows, predicted, objectives) if predicted else None,
        _inheritance(list(inherited.values())) if inherited else None,
        checkpoints,
    )


def _early_stopping(
    candidates: Mapping[int, Mapping[str, Any]],
    records: Mapping[int, EarlyFitnessRecord],
    objectives: Sequence[Objective],
) -> EarlyStoppingSavings:
    rows = {id: row for id in records if (row := candidates.get(id)) and row["status"] in (COMPLETED, STOPPED)}
    trained = {id: int(row.get("cost/epochs", 0)) for id, row in rows.items()}
    stopped = [id for id, row in rows.items() if row["status"] == STOPPED]
    controls = [id for id, row in rows.items() if records[id].control and row["status"] == COMPLETED]
    would_stop = [id for id in controls if records[id].would_stop_at is not None]
    excess = [_excess(rows[id], records[id], objectives) for id in would_stop]
    return EarlyStoppingSavings(
        stopped=len(stopped),
        epochs_trained=sum(trained.values()),
        epochs_saved=round(sum(_epochs_left(records[id], trained[id]) for id in stopped)),
        controls=len(controls),
        would_stop=len(would_stop),
        wrong=sum(number > 0 for number in excess),
        regret=max([0.0, *excess]),
        covered=sum(_covered(rows[id], records[id]) for id in would_stop),
    )


def _epochs_left(record: EarlyFitnessRecord, trained: int) -> float:
    """The epochs that a stopped training would have gone on; 0 where its epochs have no known end."""
    if record.share is None:  # recorded when every epoch was an evaluation
        return record.horizon - trained
    return 0.0 if record.epochs is None else record.epochs * (1 - record.share)


def _excess(row: Mapping[str, Any], record: EarlyFitnessRecord, objectives: Sequence[Objective]) -> float:
    """By how much a candidate beat the bar it was predicted to miss; above 0 where stopping it would have been wrong."""
    fitness = [objective.weight * row[objective.monitor] for objective in objectives]
    if len(objectives) == 1:
        return -math.inf if record.bar is None else fitness[0] - objectives[0].weight * record.bar
    front = [[o.weight * value for o, value in zip(objectives, point, strict=True)] for point in record.front or ()]
    # Its lead over a point of the front is the largest lead in any objective; the smallest of these leads counts.
    return min((max(mine - other for mine, other in zip(fitness, point, strict=True)) for point in front), default=0.0)


def _covered(row: Mapping[str, Any], record: EarlyFitnessRecord) -> bool:
    return all(final.low <= row[monitor] <= final.high for monitor, final in record.predicted.items())


def _inheritance(records: Sequence[InheritanceRecord]) -> InheritanceSavings:
    took = [record.parent is not None and bool(record.copied or record.sliced) for record in records]
    taken = [record for record, inherits in zip(records, took, strict=True) if inherits]
    return InheritanceSavings(
        inherited=len(taken),
        scratch=sum(r.asked is not None for r, inherits in zip(records, took, strict=True) if not inherits),
        older=sum(record.parent != record.asked for record in taken),
        share=_share(taken, "copied"),
        sliced=_share(taken, "sliced"),
    )


def _share(records: Sequence[InheritanceRecord], name: str) -> float:
    shares = [record.counts[name] / max(1, sum(record.counts.values())) for record in records]
    return sum(shares) / max(1, len(shares))
