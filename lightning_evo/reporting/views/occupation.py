"""Use of the slots over time, total costs, and savings."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_evo.archive.meta import CheckpointUsage, read_meta
from lightning_evo.reporting.summaries import Savings, compute_savings
from lightning_evo.reporting.views.snapshot import RunSnapshot

__all__ = ["Occupation", "SlotSpan", "Totals", "occupation", "run_savings", "totals"]


@dataclass(frozen=True)
class SlotSpan:
    """The time that a candidate spent in a slot.

    Args:
        id: The candidate's id.
        slot: The slot.
        start: Wall-clock seconds since the start of the run.
        end: Wall-clock seconds since the start of the run.
        status: The candidate's status.
    """

    id: int
    slot: int
    start: float
    end: float
    status: str


@dataclass(frozen=True)
class Occupation:
    """Which candidate trained in which slot and when. Candidates of one stack share a slot at the same time.

    Args:
        spans: Ordered by start, without running candidates: the archive records a slot with the result.
        slots: The slots' numbers.
        pauses: Periods in which the search wasn't running: (from, to) in seconds since the start of the run.
    """

    spans: tuple[SlotSpan, ...]
    slots: tuple[int, ...]
    pauses: tuple[tuple[float, float], ...]

    @property
    def busy(self) -> float | None:
        """Share of the slots' time, from the first start to the last end without pauses, that was spent training.

        ``None`` if nothing was trained.
        """
        if not self.spans:
            return None
        begin, finish = min(span.start for span in self.spans), max(span.end for span in self.spans)
        paused = sum(max(0.0, min(end, finish) - max(start, begin)) for start, end in self.pauses)
        available = (finish - begin - paused) * len(self.slots)
        by_slot: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for span in self.spans:
            by_slot[span.slot].append((span.start, span.end))
        busy = sum(_union_length(intervals) for intervals in by_slot.values())
        return min(1.0, busy / available) if available > 0 else None


@dataclass(frozen=True)
class Totals:
    """Total costs of a run so far.

    Args:
        seconds: Training time of all candidates.
        epochs: Epochs trained by all candidates.
        training_flops: FLOPs of all trainings, where they were counted.
        candidates: Number of candidates by status.
        slots: Number of slots in which anything was trained.
        busy: Share of the slots' time that was spent training; ``None`` if nothing was trained.
        elapsed: Seconds of search, without pauses between resumed runs; ``None`` if unknown.
    """

    seconds: float
    epochs: float
    training_flops: float
    candidates: Mapping[str, int]
    slots: int
    busy: float | None
    elapsed: float | None


def occupation(snapshot: RunSnapshot) -> Occupation:
    """Which candidate trained in which slot and when.

    Args:
        snapshot: The run.
    """
    spans = [
        SlotSpan(
            row["id"], row["slot"], row["started"] - snapshot.created, row["ended"] - snapshot.created, row["status"]
        )
        for row in snapshot.rows
        if row["slot"] is not None and row["started"] is not None and row["ended"] is not None
    ]
    spans.sort(key=lambda span: (span.start, span.id))
    pauses = tuple((start - snapshot.created, end - snapshot.created) for start, end in snapshot.pauses)
    return Occupation(tuple(spans), tuple(sorted({span.slot for span in spans})), pauses)


def totals(snapshot: RunSnapshot) -> Totals:
    """The total costs of a run so far.

    Args:
        snapshot: The run.
    """
    occupied = occupation(snapshot)
    counts = dict.fromkeys(("pending", "completed", "stopped", "failed"), 0)
    elapsed = snapshot.meta.get("elapsed")
    return Totals(
        seconds=_sum(snapshot, "cost/seconds"),
        epochs=_sum(snapshot, "cost/epochs"),
        training_flops=_sum(snapshot, "cost/training_flops"),
        candidates=counts | Counter(row["status"] for row in snapshot.rows),
        slots=len(occupied.slots),
        busy=occupied.busy,
        elapsed=None if elapsed is None else float(elapsed),
    )


def run_savings(snapshot: RunSnapshot) -> Savings:
    """Return what early stopping and inheritance have saved in a run so far.

    Args:
        snapshot: The run.
    """
    checkpoints = read_meta(snapshot.meta, CheckpointUsage)
    return compute_savings(snapshot.by_id, snapshot.early, snapshot.inherited, snapshot.objectives, checkpoints)


def _sum(snapshot: RunSnapshot, cost: str) -> float:
    # A duplicate costs nothing, but where the cost is an objective, its fitness has the cost of the original.
    rows = (row for row in snapshot.rows if row["duplicate_of"] is None)
    values = (float(row.get(cost) or 0.0) for row in rows)
    return sum(value for value in values if abs(value) < float("inf"))


def _union_length(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    length, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length
