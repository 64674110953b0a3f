import itertools
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from archive_examples import make_candidate, make_result, make_run, remembered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter

FILES = ["archive.sqlite", "archive.sqlite-wal", "journal.jsonl"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run's directory as a kill leaves it: part of it in the database file, part of it in the WAL."""
    live = tmp_path_factory.mktemp("live") / "run"
    copy = live.with_name("killed")
    with make_run(live, candidates=8):
        pass
    with ArchiveWriter(live) as writer:
        for id in range(8, 30):
            writer.record_candidate(make_candidate(id), queued=1.6e9 + id)
            writer.record_result(id, make_result(id))
        writer.update_checkpoint(20, None)
        shutil.copytree(live, copy)
        expected = remembered(live)
    assert all((copy / name).stat().st_size for name in FILES)
    return copy, expected


@pytest.fixture
def run(killed, tmp_path):
    shutil.copytree(killed[0], tmp_path / "run")
    return tmp_path / "run"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.suffix != ".sqlite-shm"}


def reopened(directory: Path) -> str:
    """Opens for writing, records one more event and reopens: what is remembered before that event."""
    with ArchiveWriter(directory) as writer:
        before = remembered(directory)
        writer.set_meta("one more", True)
        assert not writer.archive().recovered
    with ArchiveWriter(directory) as writer:
        assert writer.recovered is None
        assert writer.archive().meta["one more"]
    return before


def cut(path: Path, fraction: float) -> None:
    os.truncate(path, int(path.stat().st_size * fraction))


def overwrite(path: Path, at: float, pages: int, byte: bytes) -> None:
    count = -(-path.stat().st_size // 4096)
    with path.open("r+b") as file:
        file.seek(int(count * at) * 4096)
        file.write(byte * 4096 * pages)


def destroy_database(directory: Path) -> None:
    for name in ("archive.sqlite", "archive.sqlite-wal"):
        (directory / name).write_bytes(b"not a database" * 5_000)


def test_a_kill_needs_no_repair(run, killed):
    with ArchiveWriter(run) as writer:
        assert writer.recovered is None
    assert remembered(run) == killed[1]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_loses_nothing(killed, tmp_path, name, fraction):
    directory = tmp_path / "run"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(killed[0], directory)
    cut(directory / name, fraction)
    assert reopened(directory) == killed[1]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), length=st.integers(1, 3), byte=st.sampled_from([b"\0", b"\xff", b"7"]))
def test_overwritten_pages_of_a_file_lose_nothing(killed, tmp_path, name, at, length, byte):
    directory = tmp_path / "run"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(killed[0], directory)
    overwrite(directory / name, at, length, byte)
    with ArchiveWriter(directory):
        pass
    assert remembered(directory) == killed[1]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_loses_nothing(run, killed, name):
    (run / name).unlink()
    assert reopened(run) == killed[1]


def test_a_lost_database_without_a_trace_of_wal_is_rebuilt(run, killed):
    for path in run.glob("archive.sqlite*"):
        path.unlink()
    with ArchiveWriter(run) as writer:
        assert "archive.sqlite was missing: rebuilt from the journal's" in writer.recovered
    assert remembered(run) == killed[1]


def test_a_damaged_database_is_kept_and_replaced(run, killed):
    cut(run / "archive.sqlite", 0.6)
    damaged = (run / "archive.sqlite").read_bytes(), (run / "archive.sqlite-wal").read_bytes()
    with ArchiveWriter(run) as writer:
        assert "rebuilt from the journal" in writer.recovered
        assert "kept as archive.sqlite.damaged-1" in writer.recovered
    assert remembered(run) == killed[1]
    kept = run / "archive.sqlite.damaged-1"
    assert (kept.read_bytes(), Path(f"{kept}-wal").read_bytes()) == damaged
    cut(run / "archive.sqlite", 0.6)
    with ArchiveWriter(run) as writer:
        assert "kept as archive.sqlite.damaged-2" in writer.recovered


def test_transactions_lost_with_the_wal_are_put_back_from_the_journal(run, killed):
    (run / "archive.sqlite-wal").unlink()
    with ArchiveWriter(run) as writer:
        assert "restored from the journal" in writer.recovered
    assert remembered(run) == killed[1]


def test_a_journal_behind_the_database_is_completed(run, killed):
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (run / "journal.jsonl").write_bytes(b"".join(lines[:-9]) + lines[-9][:30])
    with ArchiveWriter(run) as writer:
        assert "restored from the database" in writer.recovered
    (run / "archive.sqlite").unlink()
    with ArchiveWriter(run) as writer:
        assert "rebuilt" in writer.recovered
    assert remembered(run) == killed[1]


def test_a_journal_written_anew_holds_all_that_the_database_knows(run, killed):
    (run / "journal.jsonl").unlink()
    with ArchiveWriter(run) as writer:
        assert "journal.jsonl was missing: rewritten" in writer.recovered
    (run / "archive.sqlite").unlink()
    with ArchiveWriter(run):
        pass
    assert remembered(run) == killed[1]


def test_a_database_older_than_a_journal_written_anew_catches_up(run, killed, tmp_path):
    shutil.copy(run / "archive.sqlite", tmp_path / "old.sqlite")  # without its WAL: older
    (run / "journal.jsonl").unlink()
    with ArchiveWriter(run):
        pass
    for path in run.glob("archive.sqlite*"):
        path.unlink()
    shutil.copy(tmp_path / "old.sqlite", run / "archive.sqlite")
    assert reopened(run) == killed[1]


def test_an_incomplete_last_line_is_removed(run, killed):
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b'{"sequence": 99, "after"')
    with ArchiveWriter(run) as writer:
        assert "incomplete line" in writer.recovered
    assert remembered(run) == killed[1]


def test_a_damaged_end_of_the_journal_is_kept_and_the_journal_written_anew(run, killed):
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b"rubbish\n")
    with ArchiveWriter(run) as writer:
        assert "not as it was written: b'rubbish" in writer.recovered
        assert "journal.jsonl.damaged-1" in writer.recovered
    assert remembered(run) == killed[1]


@pytest.mark.parametrize("harm", ["middle", "hole", "header", "missing"])
def test_when_both_are_damaged_the_error_names_both_and_nothing_is_changed(run, harm):
    journal = run / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    if harm == "middle":
        lines[5] = lines[5][:50] + b"\n"
    elif harm == "hole":
        del lines[5]
    elif harm == "header":
        lines[0] = b"[]\n"
    journal.write_bytes(b"".join(lines))
    if harm == "missing":
        journal.unlink()
    destroy_database(run)
    before = contents(run)
    said = (
        r"archive\.sqlite: damaged.*there is no journal"
        if harm == "missing"
        else (r"archive\.sqlite: damaged.*journal.*cannot be used either.*journal\.jsonl")
    )
    with pytest.raises(ArchiveError, match=said):
        ArchiveWriter(run)
    assert {name: data for name, data in contents(run).items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }
    with pytest.raises(ArchiveError, match=said):
        Archive(run)


def test_a_database_behind_a_broken_journal_is_an_error_that_says_what_to_do(run):
    (run / "archive.sqlite-wal").unlink()
    journal = run / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    del lines[-10]
    journal.write_bytes(b"".join(lines))
    with pytest.raises(ArchiveError, match=r"ends at event \d+, and the journal.*events are missing.*move .* away"):
        ArchiveWriter(run)
    journal.unlink()
    with ArchiveWriter(run) as writer:
        assert "rewritten" in writer.recovered


def test_a_damaged_archive_is_read_from_its_journal(run, killed):
    destroy_database(run)
    before = contents(run)
    archive = Archive(run)
    assert remembered(run) == killed[1]
    archive.candidates()
    assert "reading the journal instead" in archive.recovered
    assert contents(run) == before


def test_damage_found_in_the_middle_of_reading_switches_to_the_journal(run, killed):
    with ArchiveWriter(run):
        pass
    overwrite(run / "archive.sqlite", 0.5, 10, b"\xff")
    assert remembered(run) == killed[1]


def test_a_damaged_file_without_journal_says_so(tmp_path):
    (tmp_path / "copy.sqlite").write_text("certainly not a database" * 100)
    with pytest.raises(ArchiveError, match=r"copy\.sqlite: damaged \(file is not a database\)"):
        Archive(tmp_path / "copy.sqlite")


def test_files_of_different_runs_are_not_mixed(run, tmp_path):
    with make_run(tmp_path / "other") as other:
        name = other.run
    shutil.copy(tmp_path / "other" / "journal.jsonl", run / "journal.jsonl")
    before = (run / "journal.jsonl").read_bytes()
    with pytest.raises(ArchiveError, match=rf"journal\.jsonl the run '{name}'; they don't belong together"):
        ArchiveWriter(run)
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_start_that_was_killed_before_its_first_record_begins_anew(tmp_path):
    (tmp_path / "archive.sqlite").touch()
    with ArchiveWriter(tmp_path) as writer:
        assert writer.recovered is None
    sqlite3.connect(tmp_path / "other.sqlite").execute("PRAGMA journal_mode=WAL").close()
    shutil.move(tmp_path / "other.sqlite", tmp_path / "archive.sqlite")
    (tmp_path / "journal.jsonl").unlink()
    with ArchiveWriter(tmp_path) as writer:
        assert writer.recovered is None


def test_the_journal_is_lines_of_json_with_numbered_events(run):
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines[:4]] == ["journal", "meta", "ask", "ask"]
    assert all(line["after"] == before["sequence"] for before, line in itertools.pairwise(lines))
