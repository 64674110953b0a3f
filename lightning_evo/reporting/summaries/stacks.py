"""Which candidates trained together, and how was it computed? As the archive recorded it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_evo.archive import Archive

__all__ = ["describe_stacks", "remark_of"]

ALONE = "alone"

REASONS = 3
"""How many different reasons are shown."""


def remark_of(record: Mapping[str, Any]) -> str:
    """Where a candidate trained, in a few words.

    Args:
        record: What its result keeps under ``stack``.

    >>> remark_of({"id": 16, "size": 8, "lowering": "stack", "reason": "", "position": 2})
    'stack 16, 3 of 8'
    """
    if record["lowering"] == ALONE:
        return "alone, not stacked"
    return f"{record['lowering']} {record['id']}, {record['position'] + 1} of {record['size']}"


def describe_stacks(archive: Archive) -> str:
    """How many candidates trained in stacks, and how each stack was computed; empty where none did.

    Args:
        archive: The search's.
    """
    records = archive.extras("stack")
    if not records:
        return ""
    stacks = {record["id"]: record for record in records.values() if record["lowering"] != ALONE}
    together = sum(record["lowering"] != ALONE for record in records.values())
    alone = [record["reason"] for record in records.values() if record["lowering"] == ALONE]
    total = sum(archive.counts().values())
    parts = []
    for lowering, count in sorted(Counter(record["lowering"] for record in stacks.values()).items(), reverse=True):
        how = "as one computation" if lowering == "stack" else "one after the other"
        parts.append(f"{count} {how}{_because(r['reason'] for r in stacks.values() if r['lowering'] == lowering)}")
    if alone:
        parts.append(f"{len(alone)} candidates by themselves instead{_because(alone)}")
    return f"stacked: {together} of {total} candidates in {len(stacks)} stacks: {', '.join(parts)}"


def _because(reasons: Iterable[str]) -> str:
    """The different reasons, in brackets; how long steps took differs from stack to stack, and is no news."""
    different = list(
        dict.fromkeys("measured faster" if each.startswith("measured") else each for each in reasons if each)
    )
    more = [f"{len(different) - REASONS} more reasons"] if len(different) > REASONS else []
    return f" ({'; '.join([*different[:REASONS], *more])})" if different else ""
