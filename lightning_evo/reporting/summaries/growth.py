"""Growth of networks: the steps that a candidate took, and which of its ancestors took each first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.callbacks.records import GrownStep, GrowthRecord

__all__ = ["GrowthEvent", "describe_growth", "growth_lineage", "growth_remark", "is_growth_steps", "short_step"]

MAX_STEPS = 4
"""How many of a candidate's steps are shown at most; the last ones."""

_TARGETS = {"widen": "width", "kernel": "kernel", "activation": "activation"}
"""The setting that holds the new value of the layer, by operation."""


@dataclass(frozen=True)
class GrowthEvent:
    """A growth step and the candidate that took it.

    Args:
        candidate: Id of the first candidate in the line of descent that took it.
        epoch: The epoch of that candidate's training at whose start it happened; ``None``: before training, by its genome.
        operation: The operation.
        layer: The layer.
        target: The layer's new width, kernel or activation; ``None`` for other operations.
        before: Parameters of the network before.
        after: Parameters of the network after.
        why: The reason, in words.
        preserving: Whether the network computed the same function afterwards.
    """

    candidate: int
    epoch: int | None
    operation: str
    layer: str
    target: Any
    before: int
    after: int
    why: str
    preserving: bool

    def __str__(self) -> str:
        to = "" if self.target is None else f" to {self.target}"
        return f"{self.operation} {self.layer}{to} ({self.before:,} → {self.after:,})"


def growth_remark(record: GrowthRecord) -> str:
    """A candidate's growth in a few words.

    Args:
        record: What the candidate's result holds; at least one step.

    >>> step = GrownStep("widen", "net.0", {"width": 12}, None, "initial", 1434, 2390, True, "asked for")
    >>> growth_remark(GrowthRecord([step]))
    'grew widen net.0 to 12: 1,434 → 2,390 parameters'
    """
    steps = [_event(-1, step) for step in record.steps]
    named = ", ".join(str(step).partition(" (")[0] for step in steps[-MAX_STEPS:])
    earlier = f"{len(steps)} steps, most recently " if len(steps) > MAX_STEPS else ""
    return f"grew {earlier}{named}: {steps[0].before:,} → {steps[-1].after:,} parameters"


def is_growth_steps(value: Any) -> bool:
    """Whether a gene's value is a list of growth steps (see :class:`~lightning_evo.genome.GrowthSteps`)."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(e, dict) and {"operation"} < set(e) for e in value)
    )


def short_step(step: Mapping[str, Any]) -> str:
    """A growth step of a genome as one word.

    >>> short_step({"operation": "widen", "place": 0.37, "ratio": 1.5})
    'widen@0.37x1.5'
    """
    where = step.get("place", step.get("layer", ""))
    return f"{step['operation']}@{where}" + (f"x{step['ratio']:g}" if "ratio" in step else "")


def describe_growth(archive: Archive) -> str:
    """How many candidates grew and by which operations, and the growth of the best one; empty where none grew.

    Args:
        archive: The search's archive.
    """
    grown = {id: record.steps for id, record in archive.entries(GrowthRecord).items() if record.steps}
    if not grown:
        return ""
    total = sum(archive.counts().values())
    counts = Counter(step.operation for steps in grown.values() for step in steps)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    lines = [f"growth: {len(grown)} of {total} candidates grew ({listed})"]
    best = next((int(row["id"]) for row in archive.best(1)), None)
    if best in grown:
        lines.append(f"growth of the best candidate, {best}:")
        for step in growth_lineage(archive, best):
            when = "before training" if step.epoch is None else f"at epoch {step.epoch}"
            lines.append(f"  candidate {step.candidate} {when}: {step}")
    return "\n".join(lines)


def growth_lineage(archive: Archive, candidate: int) -> list[GrowthEvent]:
    """The growth steps that led to a candidate's network, each with the candidate in its line that took it first.

    Args:
        archive: The search's archive.
        candidate: The candidate's id.
    """
    grown = {id: record.steps for id, record in archive.entries(GrowthRecord).items()}
    own = grown.get(candidate, ())
    steps = [step.structure for step in own]
    events = [_event(candidate, step) for step in own]
    at = archive.candidate(candidate).inherits
    while at is not None:
        theirs = grown.get(at, ())
        shared = 0
        while shared < min(len(steps), len(theirs)) and steps[shared] == theirs[shared].structure:
            events[shared] = _event(at, theirs[shared])
            shared += 1
        if shared == 0:
            break
        steps = steps[:shared]
        at = archive.candidate(at).inherits
    return events


def _event(candidate: int, step: GrownStep) -> GrowthEvent:
    return GrowthEvent(
        candidate=candidate,
        epoch=step.epoch,
        operation=step.operation,
        layer=step.layer,
        target=step.settings.get(_TARGETS.get(step.operation, "")),
        before=step.before,
        after=step.after,
        why=step.why,
        preserving=step.preserving,
    )
