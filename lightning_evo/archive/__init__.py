"""The record of every run: candidates, lineage, results, curves and weights, safe against kill and damage."""

from lightning_evo.archive.checkpoints import CheckpointFault, check_checkpoints
from lightning_evo.archive.description import compare_search, read_space
from lightning_evo.archive.errors import ArchiveError, DiskFull
from lightning_evo.archive.reader import Archive
from lightning_evo.archive.writer import ArchiveWriter

__all__ = [
    "Archive",
    "ArchiveError",
    "ArchiveWriter",
    "CheckpointFault",
    "DiskFull",
    "check_checkpoints",
    "compare_search",
    "read_space",
]
