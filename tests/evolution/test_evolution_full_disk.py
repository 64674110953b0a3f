"""A full disk stops a search and costs nothing that was finished."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from searching import evolution, threads, told

from lightning_evo import Archive
from lightning_evo.archive import ArchiveError
from lightning_evo.evolution import SearchError
from toys import sphere

BALLAST = "ballast"


def hungry_sphere(genome, seed, directory):
    """The sphere; the fourth candidate fills the disk, unless it has been full before."""
    ballast = Path(directory).parents[1] / BALLAST
    if directory.endswith("000003") and not ballast.exists():
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
    return sphere(genome, seed, directory)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if os.geteuid() != 0 or done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_the_search_with_one_error_and_it_continues_when_there_is_space(small_disk, tmp_path):
    with threads() as pool:
        undisturbed = told(evolution(tmp_path / "whole", pool).run())
        search = evolution(small_disk / "run", pool, function=hungry_sphere)
        with pytest.raises((ArchiveError, SearchError), match=r"(?i)disk is full|No space left"):
            search.run()
        before = Archive(small_disk / "run").counts()
        assert before["completed"] >= 2
        assert before["failed"] == 0
        (small_disk / "run" / BALLAST).write_bytes(b"")
        archive = evolution(small_disk / "run", pool, function=hungry_sphere).run()
    assert told(archive) == undisturbed
