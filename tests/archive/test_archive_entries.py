"""A search writes only within its directory, whatever links somebody has put there."""

from __future__ import annotations

import os

import pytest

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.archive.entries import DIRECTORIES, FILES, run_that_holds
from lightning_evo.archive.lock import DirectoryLock
from lightning_evo.archive.shared_results import SharedResultsWriter
from lightning_evo.genome import Candidate, Genome, Result


def make(directory):
    with ArchiveWriter(directory) as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=0.0)
        writer.record_result(0, Result("completed", fitness=(1.0,)))


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", [*FILES, *DIRECTORIES, "candidates/000000", "stacks/000000"])
def test_a_run_in_which_a_link_leads_elsewhere_is_refused_and_nothing_is_written_there(tmp_path, name, begun):
    run, theirs = tmp_path / "run", tmp_path / "theirs"
    theirs.write_text("precious")
    if begun:
        make(run)
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(theirs)
    with pytest.raises(ArchiveError, match="is a symbolic link") as refused:
        ArchiveWriter(run)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert theirs.read_text() == "precious"
    assert os.listdir(tmp_path) in (["run", "theirs"], ["theirs", "run"])


@pytest.mark.parametrize("name", ["archive.sqlite-wal", "lock", "journal.jsonl", "known.jsonl"])
def test_a_link_that_leads_nowhere_is_refused_and_nothing_is_made_there(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "new")
    with pytest.raises(ArchiveError, match="is a symbolic link"):
        ArchiveWriter(tmp_path / "run")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["lock", "reserve", "journal.jsonl", "archive.sqlite"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ArchiveError, match="is not a file"):
        ArchiveWriter(tmp_path)


def test_a_hard_link_to_another_file_is_not_overwritten(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    (tmp_path / "run").mkdir()
    os.link(theirs, tmp_path / "run" / "lock")
    with pytest.raises(ArchiveError, match="not the lock of a search"):
        ArchiveWriter(tmp_path / "run")
    (tmp_path / "run" / "lock").unlink()
    os.link(theirs, tmp_path / "run" / "reserve")
    ArchiveWriter(tmp_path / "run").close()
    assert theirs.read_text() == "precious"


def test_a_lock_and_shared_results_follow_no_link_even_if_it_appears_later(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    for name in ("lock", "known.jsonl"):
        (tmp_path / name).symlink_to(theirs)
    with pytest.raises(ArchiveError, match="symbolic link"):
        DirectoryLock(tmp_path)
    with pytest.raises(ArchiveError, match="symbolic link"):
        SharedResultsWriter(tmp_path / "known.jsonl")
    assert theirs.read_text() == "precious"


def test_a_run_whose_directory_is_reached_through_links_is_one_like_any_other(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    make(tmp_path / "runs" / "net")
    with ArchiveWriter(tmp_path / "runs" / "net") as writer:
        assert writer.recovered is None
    with Archive(tmp_path / "scratch" / "net") as archive:
        assert archive.counts()["completed"] == 1


@pytest.mark.parametrize(
    ("path", "belongs"),
    [
        (".", True),
        ("archive.sqlite", True),
        ("archive.sqlite-wal", True),
        (".journal.jsonl.part", True),
        ("journal.jsonl.damaged-1", True),
        ("candidates/000000", True),
        ("candidates/000000/sub/new.html", True),
        ("candidates.replaced-1/000000", True),
        ("final", True),
        ("link/archive.sqlite", True),
        ("report.html", False),
        ("candidates.csv", False),
        ("best/config.yaml", False),
        ("../archive.sqlite", False),
    ],
)
def test_which_paths_belong_to_a_run(tmp_path, path, belongs):
    make(tmp_path / "run")
    (tmp_path / "run" / "link").symlink_to(tmp_path / "run")
    assert run_that_holds(tmp_path / "run" / path) == (tmp_path / "run" if belongs else None)
