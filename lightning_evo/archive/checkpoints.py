"""Whether a run still has the checkpoints that it should have, each as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightning_evo.archive.meta import FINAL_CHECKPOINT, FinalOutcome, read_meta
from lightning_evo.archive.reader import Archive
from lightning_evo.archive.seals import StoredCheckpoint

__all__ = ["CheckpointFault", "check_checkpoints"]


@dataclass(frozen=True)
class CheckpointFault:
    """A checkpoint that a run should have and hasn't, or not as it was.

    Args:
        candidate: Id of the candidate.
        path: Its path, relative to the run's directory.
        fault: What is wrong with it.
        sealed: Whether its hash was known.
    """

    candidate: int
    path: str
    fault: str
    sealed: bool


def check_checkpoints(archive: Archive) -> Iterator[CheckpointFault]:
    """Those checkpoints of a run, of all that it should have, that aren't there or aren't what the candidates left.

    Args:
        archive: The run. Every checkpoint is read from beginning to end.
    """
    final = read_meta(archive.meta, FinalOutcome)
    if final is not None:
        winner = StoredCheckpoint(FINAL_CHECKPOINT, seal=final.seal)
        if fault := winner.fault(archive.directory):
            yield CheckpointFault(final.request.candidate, winner.path, fault, winner.seal is not None)
    for row in archive.candidates():
        result = archive.result(row["id"]) if row.get("checkpoint") is not None else None
        stored = None if result is None else StoredCheckpoint.of(result)
        if stored is not None and (fault := stored.fault(archive.directory)):
            yield CheckpointFault(row["id"], stored.path, fault, stored.seal is not None)
