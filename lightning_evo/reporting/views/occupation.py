"""What were the slots doing, what did it all cost, and what was saved? Who trained where and when, and the sums."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_evo.reporting.summaries import Savings, compute_savings
from lightning_evo.reporting.views.recorded import Recorded

__all__ = ["Occupation", "Stay", "Totals", "occupation", "saved", "totals"]


@dataclass(frozen=True)
class Stay:
    """A candidate's time in a slot.

    Args:
        id: The candidate's.
        slot: Where.
        start: Seconds since the run began, by the clock.
        end: The same.
        status: How it ended.
    """

    id: int
    slot: int
    start: float
    end: float
    status: str


@dataclass(frozen=True)
class Occupation:
    """Who trained where and when. Candidates of one stack are in one slot at the same time.

    Args:
        stays: By start; those that run yet aren't among them, as the archive learns of a slot when a result comes.
        slots: The slots' numbers.
        pauses: Stretches in which the search wasn't running: (from, to) in seconds since the run began.
    """

    stays: tuple[Stay, ...]
    slots: tuple[int, ...]
    pauses: tuple[tuple[float, float], ...]

    @property
    def busy(self) -> float | None:
        """The share of the slots' time in which somebody trained, from the first start to the last end, pauses left out.

        ``None`` where nobody trained.
        """
        if not self.stays:
            return None
        begin, finish = min(stay.start for stay in self.stays), max(stay.end for stay in self.stays)
        paused = sum(max(0.0, min(end, finish) - max(start, begin)) for start, end in self.pauses)
        span = (finish - begin - paused) * len(self.slots)
        by_slot: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for stay in self.stays:
            by_slot[stay.slot].append((stay.start, stay.end))
        return min(1.0, sum(_covered(spans) for spans in by_slot.values()) / span) if span > 0 else None


@dataclass(frozen=True)
class Totals:
    """What a run cost so far.

    Args:
        seconds: Of training, over all candidates.
        epochs: Trained by all candidates.
        training_flops: Of all trainings, where they were counted.
        candidates: How many there are of each status.
        slots: How many slots trained anybody.
        busy: The share of the slots' time in which somebody trained; ``None`` where nobody did.
        elapsed: Seconds the search took, pauses between resumed runs left out; ``None`` where that isn't known.
    """

    seconds: float
    epochs: float
    training_flops: float
    candidates: Mapping[str, int]
    slots: int
    busy: float | None
    elapsed: float | None


def occupation(recorded: Recorded) -> Occupation:
    """Who trained where and when.

    Args:
        recorded: The run.
    """
    stays = [
        Stay(row["id"], row["slot"], row["started"] - recorded.created, row["ended"] - recorded.created, row["status"])
        for row in recorded.rows
        if row["slot"] is not None and row["started"] is not None and row["ended"] is not None
    ]
    stays.sort(key=lambda stay: (stay.start, stay.id))
    pauses = tuple((start - recorded.created, end - recorded.created) for start, end in recorded.pauses)
    return Occupation(tuple(stays), tuple(sorted({stay.slot for stay in stays})), pauses)


def totals(recorded: Recorded) -> Totals:
    """What a run cost so far.

    Args:
        recorded: The run.
    """
    occupied = occupation(recorded)
    counts = dict.fromkeys(("pending", "completed", "stopped", "failed"), 0)
    elapsed = recorded.meta.get("elapsed")
    return Totals(
        seconds=_sum(recorded, "cost/seconds"),
        epochs=_sum(recorded, "cost/epochs"),
        training_flops=_sum(recorded, "cost/training_flops"),
        candidates=counts | Counter(row["status"] for row in recorded.rows),
        slots=len(occupied.slots),
        busy=occupied.busy,
        elapsed=None if elapsed is None else float(elapsed),
    )


def saved(recorded: Recorded) -> Savings:
    """What early stopping and inheritance amounted to so far.

    Args:
        recorded: The run.
    """
    checkpoints = recorded.meta.get("checkpoints")
    return compute_savings(recorded.by_id, recorded.early, recorded.inherited, recorded.objectives, checkpoints)


def _sum(recorded: Recorded, cost: str) -> float:
    # An answer to a duplicate cost nothing, but where the cost is an objective its fitness is the original's.
    rows = (row for row in recorded.rows if row["duplicate_of"] is None)
    values = (float(row.get(cost) or 0.0) for row in rows)
    return sum(value for value in values if abs(value) < float("inf"))


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    length, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length
