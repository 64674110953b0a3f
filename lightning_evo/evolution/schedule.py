"""The schedule of hyperparameters that a candidate's training followed, read from its lineage."""

from __future__ import annotations

from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.meta import SearchDescription, read_meta
from lightning_evo.callbacks.records import ContinuationRecord
from lightning_evo.genome import Candidate
from lightning_evo.genome.links import expanded

__all__ = ["schedule_of"]


def schedule_of(archive: Archive, candidate: int) -> dict[int, dict[str, Any]]:
    """The schedule of hyperparameters that population-based training found: of one training, from its first epoch.

    Follows a candidate back through those whose training it continued.

    Args:
        archive: The search's.
        candidate: The id of the candidate that followed it.

    Returns:
        Epoch -> the values that hold from its beginning, by config path: at epoch 0 every gene, later those that changed.
        What :class:`~lightning_evo.callbacks.HyperparameterSchedule` takes.

    Raises:
        ValueError: If the candidate isn't a segment of a longer training.
        ArchiveError: If there is no such candidate.
    """
    steps = _lineage(archive, candidate)
    links = (read_meta(archive.meta, SearchDescription) or SearchDescription()).links
    schedule: dict[int, dict[str, Any]] = {}
    before: dict[str, Any] = {}
    for epoch, segment in steps:
        values = expanded(segment.genome, links)
        changed = {path: value for path, value in values.items() if path not in before or before[path] != value}
        before = values
        if changed:
            schedule[epoch] = changed
    return schedule


def _lineage(archive: Archive, candidate: int) -> list[tuple[int, Candidate]]:
    """The segments of one training with the epochs at which they really began, the first one first."""
    steps: list[tuple[int, Candidate]] = []
    at: int | None = candidate
    while at is not None:
        segment = archive.candidate(at)
        if segment.segment is None:
            raise ValueError(f"candidate {at} is a whole training, not a segment of one: it has no schedule")
        result = archive.result(at)
        # Where a checkpoint had vanished, the training went on from another one than was asked.
        went = None if result is None else result.entry(ContinuationRecord)
        start, at = (segment.segment.start, segment.inherits) if went is None else (went.start, went.parent)
        steps.append((start or 0, segment))
    return steps[::-1]
