"""Stacks: which candidates trained together, and how each stack was computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lightning_evo.archive import Archive
from lightning_evo.genome.records import StackRecord

__all__ = ["describe_stacks", "stack_remark"]

ALONE = "alone"

MAX_REASONS = 3
"""How many different reasons are shown at most."""


def stack_remark(record: StackRecord) -> str:
    """The stack in which a candidate trained, in a few words.

    Args:
        record: What the candidate's result holds.

    >>> stack_remark(StackRecord(16, 8, "stack", position=2))
    'stack 16, 3 of 8'
    """
    if record.lowering == ALONE:
        return "alone, not stacked"
    return f"{record.lowering} {record.id}, {record.position + 1} of {record.size}"


def describe_stacks(archive: Archive) -> str:
    """How many candidates trained in stacks, and how the stacks were computed; empty where none did.

    Args:
        archive: The search's archive.
    """
    records = archive.entries(StackRecord)
    if not records:
        return ""
    stacks = {record.id: record for record in records.values() if record.lowering != ALONE}
    together = sum(record.lowering != ALONE for record in records.values())
    alone = [record.reason for record in records.values() if record.lowering == ALONE]
    total = sum(archive.counts().values())
    parts = []
    for lowering, count in sorted(Counter(record.lowering for record in stacks.values()).items(), reverse=True):
        how = "as one computation" if lowering == "stack" else "one after the other"
        parts.append(f"{count} {how}{_because(r.reason for r in stacks.values() if r.lowering == lowering)}")
    if alone:
        parts.append(
            f"{len(alone)} {'candidate' if len(alone) == 1 else 'candidates'} trained alone instead{_because(alone)}"
        )
    return f"stacked: {together} of {total} candidates in {len(stacks)} stacks: {', '.join(parts)}"


def _because(reasons: Iterable[str]) -> str:
    """The different reasons, in parentheses, without the measured times, which differ from stack to stack."""
    different = list(
        dict.fromkeys("measured faster" if each.startswith("measured") else each for each in reasons if each)
    )
    more = [f"{len(different) - MAX_REASONS} more reasons"] if len(different) > MAX_REASONS else []
    return f" ({'; '.join([*different[:MAX_REASONS], *more])})" if different else ""
