"""The entries of a run's directory, none of which may lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_evo.archive.database import ARCHIVE, JOURNAL
from lightning_evo.archive.database_sum import SUM
from lightning_evo.archive.errors import ArchiveError
from lightning_evo.archive.lock import LOCK
from lightning_evo.archive.shared_results import SHARED_RESULTS_FILE

__all__ = ["DIRECTORIES", "FILES", "RESERVE", "check_entries", "run_that_holds"]

RESERVE = "reserve"

FILES = (
    ARCHIVE,
    f"{ARCHIVE}-wal",
    f"{ARCHIVE}-shm",
    f"{ARCHIVE}{SUM}",
    JOURNAL,
    LOCK,
    RESERVE,
    SHARED_RESULTS_FILE,
    "tested.json",
)
"""The files in a run's directory that a search writes."""

DIRECTORIES = ("candidates", "stacks", "exchange", "final", "wandb", "tensorboard")
"""The directories in it."""


def check_entries(directory: Path) -> None:
    """Refuse a run's directory in which a search would write through a symbolic link, or to something that is no file.

    The directory itself may be reached through links.

    Raises:
        ArchiveError: Naming the first such entry.
    """
    for name in FILES:
        path = directory / name
        if path.is_symlink():
            raise ArchiveError(_linked(path))
        if path.exists() and not path.is_file():
            raise ArchiveError(f"{path}: is not a file; move it away, or name another directory")
    for name in DIRECTORIES:
        path = directory / name
        if path.is_symlink():
            raise ArchiveError(_linked(path))
        if name in ("candidates", "stacks") and path.is_dir():
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        raise ArchiveError(_linked(Path(entry.path)))


def _linked(path: Path) -> str:
    return (
        f"{path}: is a symbolic link to {os.readlink(path)}, and a search writes only within its directory; put what it "
        "leads to in its place, or remove it"
    )


def run_that_holds(path: Path) -> Path | None:
    """The run's directory to whose own files a path belongs, or would belong; ``None`` where it belongs to no run.

    Args:
        path: Of a file or directory, which need not exist. ``DIRECTORY/archive.sqlite`` and ``DIRECTORY/candidates/x/y``
            belong to the run in ``DIRECTORY``, a file of any other name in it doesn't; the directory itself does.
    """
    whole = Path(os.path.realpath(path))
    for directory in (whole, *whole.parents):
        if not ((directory / ARCHIVE).is_file() or (directory / JOURNAL).is_file()):
            continue
        first = whole.relative_to(directory).parts[:1]
        if not first or _belongs(first[0]):
            return directory
    return None


def _belongs(name: str) -> bool:
    """Whether an entry of a run's directory is the run's own, with what was set aside or is being written."""
    stem = name.removeprefix(".").removesuffix(".part")
    if stem in (*FILES, *DIRECTORIES):
        return True
    return any(stem.startswith((f"{own}.", f"{own}-")) for own in FILES) or any(
        stem.startswith(f"{own}.replaced-") for own in DIRECTORIES
    )
