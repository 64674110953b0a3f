"""What has a candidate grown, and who in its line grew it first? As the archive recorded it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_evo.archive import Archive

__all__ = ["TakenStep", "are_steps", "describe_growth", "growth_lineage", "remark_of", "short"]

SHOWN = 4
"""How many steps of a candidate are shown; of more, the last ones."""

_TARGETS = {"widen": "width", "kernel": "kernel", "activation": "activation"}
"""The setting that says what a layer becomes."""


@dataclass(frozen=True)
class TakenStep:
    """A step of growth, and who took it.

    Args:
        candidate: Id of the first in the line that took it.
        epoch: At the start of which epoch of that one's training; ``None``: before it, as its genome says.
        operation: What was done.
        layer: To which layer.
        target: What the layer became (its width, kernel or activation); ``None`` where the operation says all.
        before: Parameters before.
        after: Parameters afterwards.
        why: Why, in words.
        preserving: Whether the network computed the same afterwards.
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


def remark_of(records: Sequence[Mapping[str, Any]]) -> str:
    """What a candidate grew, in a few words.

    Args:
        records: What its result keeps under ``growth``.

    >>> step = {"operation": "widen", "layer": "net.0", "settings": {"width": 12}}
    >>> remark_of([{**step, "epoch": None, "before": 1434, "after": 2390, "why": "asked for", "preserving": True}])
    'grew widen net.0 to 12: 1,434 → 2,390 parameters'
    """
    steps = [_taken(-1, record) for record in records]
    named = ", ".join(str(step).partition(" (")[0] for step in steps[-SHOWN:])
    earlier = f"{len(steps)} steps, at last " if len(steps) > SHOWN else ""
    return f"grew {earlier}{named}: {steps[0].before:,} → {steps[-1].after:,} parameters"


def are_steps(value: Any) -> bool:
    """Whether a gene's value is a list of growth steps (see :class:`~lightning_evo.genome.GrowthSteps`)."""
    return (
        isinstance(value, list) and bool(value) and all(isinstance(e, dict) and {"operation"} < set(e) for e in value)
    )


def short(wish: Mapping[str, Any]) -> str:
    """A step of a genome in one word.

    >>> short({"operation": "widen", "place": 0.37, "ratio": 1.5})
    'widen@0.37x1.5'
    """
    where = wish.get("place", wish.get("layer", ""))
    return f"{wish['operation']}@{where}" + (f"x{wish['ratio']:g}" if "ratio" in wish else "")


def describe_growth(archive: Archive) -> str:
    """How many candidates grew by what, and the lineage of the best one's growth; empty where none grew.

    Args:
        archive: The search's.
    """
    grown = {id: records for id, records in archive.extras("growth").items() if records}
    if not grown:
        return ""
    total = sum(archive.counts().values())
    counts = Counter(record["operation"] for records in grown.values() for record in records)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    lines = [f"grown: {len(grown)} of {total} candidates ({listed})"]
    best = next((int(row["id"]) for row in archive.best(1)), None)
    if best in grown:
        lines.append(f"growth of the best, candidate {best}:")
        for step in growth_lineage(archive, best):
            when = "before training" if step.epoch is None else f"at epoch {step.epoch}"
            lines.append(f"  candidate {step.candidate} {when}: {step}")
    return "\n".join(lines)


def growth_lineage(archive: Archive, candidate: int) -> list[TakenStep]:
    """The steps that made a candidate's network, each with the one in its line that took it first.

    Args:
        archive: The search's.
        candidate: Its id.
    """
    grown = archive.extras("growth")
    own = grown.get(candidate, [])
    steps = [_step(record) for record in own]
    taken = [_taken(candidate, record) for record in own]
    at = archive.candidate(candidate).inherits
    while at is not None:
        theirs = grown.get(at, [])
        shared = 0
        while shared < min(len(steps), len(theirs)) and steps[shared] == _step(theirs[shared]):
            taken[shared] = _taken(at, theirs[shared])
            shared += 1
        if shared == 0:
            break
        steps = steps[:shared]
        at = archive.candidate(at).inherits
    return taken


def _taken(candidate: int, record: Mapping[str, Any]) -> TakenStep:
    return TakenStep(
        candidate=candidate,
        epoch=record["epoch"],
        operation=record["operation"],
        layer=record["layer"],
        target=record["settings"].get(_TARGETS.get(record["operation"], "")),
        before=record["before"],
        after=record["after"],
        why=record["why"],
        preserving=record["preserving"],
    )


def _step(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides the structure: equal where two candidates took the same step."""
    return record["operation"], record["layer"], record["settings"]
