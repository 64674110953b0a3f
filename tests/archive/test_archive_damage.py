"""Damage that SQLite and JSON don't see: what is read is the whole truth, or a refusal that says what to do."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from archive_examples import make_candidate, make_result, make_run, remembered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter

SAMPLES = Path(__file__).parent / "samples"
FILES = ["archive.sqlite", "archive.sqlite-wal", "journal.jsonl", "archive.sqlite-sum"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A small run that ended and one that was killed, each with what it recorded."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "finished", candidates=6).close()
    with make_run(folder / "live", candidates=4):
        pass
    with ArchiveWriter(folder / "live") as writer:
        for id in range(4, 7):
            writer.record_candidate(make_candidate(id), queued=1.6e9 + id)
            writer.record_result(id, make_result(id))
        shutil.copytree(folder / "live", folder / "killed")
    return {name: (folder / name, remembered(folder / name)) for name in ("finished", "killed")}


@pytest.fixture
def copied(runs, tmp_path):
    def copy(name: str) -> tuple[Path, str]:
        directory = tmp_path / "run"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(runs[name][0], directory)
        return directory, runs[name][1]

    return copy


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def harm(path: Path, how: str, at: float, bit: int) -> None:
    size = path.stat().st_size
    position = int(at * size)
    if how == "truncate":
        os.truncate(path, position)
        return
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1 << bit]) if how == "flip" else bytes(min(300 << bit, size - position)))


@pytest.mark.parametrize("run", ["finished", "killed"])
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    how=st.sampled_from(["flip", "flip", "truncate", "zero"]),
    at=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_any_damage_of_one_file_costs_nothing(copied, run, name, how, at, bit):
    directory, truth = copied(run)
    if not (directory / name).exists() or not (directory / name).stat().st_size:
        return  # a run that ended leaves no log
    harm(directory / name, how, at, bit)
    assert remembered(directory) == truth
    with ArchiveWriter(directory) as writer:
        assert remembered(directory) == truth
        writer.set_meta("one more", True)
    with ArchiveWriter(directory) as writer:
        assert writer.recovered is None


@pytest.mark.parametrize("run", ["finished", "killed"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    harms=st.lists(
        st.tuples(
            st.sampled_from(FILES[:3]),
            st.sampled_from(["flip", "truncate", "zero"]),
            st.floats(0, 0.99),
            st.integers(0, 7),
        ),
        min_size=2,
        max_size=2,
        unique_by=lambda harm: harm[0],
    )
)
def test_damage_of_two_files_ends_in_an_error_of_ours_at_worst(copied, run, harms):
    directory, _ = copied(run)
    for name, *how in harms:
        if (directory / name).exists() and (directory / name).stat().st_size:
            harm(directory / name, *how)
    for opening in (remembered, lambda directory: ArchiveWriter(directory).close(), remembered):
        said = refusal(opening, directory)
        assert said is None or "Put back a copy" in said or "Move one of them away" in said


def refusal(opening, directory: Path) -> str | None:
    try:
        opening(directory)
    except ArchiveError as error:
        return str(error)
    return None


# -- a clean end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["none", "idle", "reading", "opened afterwards"])
def test_after_a_clean_end_the_database_file_alone_holds_everything(tmp_path, reader):
    writer = make_run(tmp_path / "run", candidates=30)
    archive = writer.archive()
    counts = archive.counts()
    if reader == "reading":
        events = archive.events()
        next(events)
    elif reader == "none":
        archive.close()
    writer.close()
    if reader == "opened afterwards":
        archive = Archive(tmp_path / "run")
        archive.candidates()
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "run" / "archive.sqlite", tmp_path / "copy")
    assert Archive(tmp_path / "copy" / "archive.sqlite").counts() == counts
    archive.close()


def test_after_ctrl_c_the_database_file_alone_holds_everything(tmp_path):
    def search() -> None:
        with ArchiveWriter(tmp_path / "run") as writer:
            writer.record_candidate(make_candidate(0), queued=0.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search()
    shutil.copy(tmp_path / "run" / "archive.sqlite", tmp_path / "copy.sqlite")
    assert Archive(tmp_path / "copy.sqlite").counts()["pending"] == 1


def test_a_reader_in_the_middle_of_a_transaction_does_not_keep_events_out_of_the_file(tmp_path):
    writer = make_run(tmp_path / "run", candidates=30)
    counts = writer.archive().counts()
    reader = sqlite3.connect(tmp_path / "run" / "archive.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM results").fetchall()
    writer.close()
    shutil.copy(tmp_path / "run" / "archive.sqlite", tmp_path / "copy.sqlite")
    assert Archive(tmp_path / "copy.sqlite").counts() == counts
    reader.close()
    assert Archive(tmp_path / "run").recovered is None


# -- what the journal knows better ---------------------------------------------------------------------------------------


def test_a_changed_digit_in_the_database_is_noticed_by_readers_and_mended(copied):
    directory, truth = copied("finished")
    change(directory / "archive.sqlite", b'"model.init_args.lr": 0.05', b'"model.init_args.lr": 0.06')
    archive = Archive(directory)
    assert "candidates 1: genome is" in archive.recovered
    assert remembered(directory) == truth
    with ArchiveWriter(directory) as writer:
        assert "candidates 1: genome is" in writer.recovered
        assert "archive.sqlite.damaged-1" in writer.recovered
    assert Archive(directory).recovered is None
    assert remembered(directory) == truth


def test_a_changed_value_is_noticed_also_where_sqlite_wrote_it(copied):
    directory, truth = copied("finished")
    with sqlite3.connect(directory / "archive.sqlite") as connection:
        connection.execute("UPDATE results SET first_fitness = 0.25 WHERE candidate_id = 0")
    connection.close()
    assert "results 0: first_fitness is 0.25, in the journal" in Archive(directory).recovered
    assert remembered(directory) == truth


def test_what_other_programs_fold_or_vacuum_is_no_damage(copied):
    directory, truth = copied("killed")
    connection = sqlite3.connect(directory / "archive.sqlite", isolation_level=None)
    connection.execute("VACUUM")
    connection.close()
    assert Archive(directory).recovered is None
    assert remembered(directory) == truth
    with ArchiveWriter(directory) as writer:
        assert writer.recovered is None


def test_damage_in_the_middle_of_the_journal_is_noticed_at_the_next_start(copied):
    directory, truth = copied("finished")
    change(directory / "journal.jsonl", b'"queued":1600000003.0', b'"queued":1600000008.0')
    assert remembered(directory) == truth
    with ArchiveWriter(directory) as writer:
        assert "journal.jsonl is damaged (1 of" in writer.recovered
        assert "rewritten from the database" in writer.recovered
        assert "journal.jsonl.damaged-1" in writer.recovered
    for path in directory.glob("archive.sqlite*"):
        path.unlink()
    assert remembered(directory) == truth


def test_a_lost_log_and_damage_before_the_journals_end_are_both_mended(copied):
    directory, truth = copied("killed")
    (directory / "archive.sqlite-wal").unlink()
    lines = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0.1", b"0.2")
    (directory / "journal.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ArchiveError, match=r"behind its journal .*1 of \d+ lines are damaged"):
        Archive(directory)
    with ArchiveWriter(directory) as writer:
        assert "rewritten from the database" in writer.recovered
    assert remembered(directory) == truth


def test_a_journal_cut_at_the_end_of_a_line_never_makes_a_damaged_database_smaller(copied):
    directory, _ = copied("finished")
    change(directory / "archive.sqlite", b'"model.init_args.lr": 0.05', b'"model.init_args.lr": 0.06')
    lines = (directory / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "journal.jsonl").write_bytes(b"".join(lines[:-3]))
    for opening in (Archive, ArchiveWriter):
        with pytest.raises(ArchiveError, match=r"cannot be used either: .*its end is missing"):
            opening(directory)


def test_lines_of_earlier_versions_get_checksums_when_the_run_continues(tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(SAMPLES / "version_3", directory)
    truth = remembered(directory)
    assert b"crc32" not in (directory / "journal.jsonl").read_bytes()
    with ArchiveWriter(directory) as writer:
        assert writer.recovered is None
    lines = (directory / "journal.jsonl").read_bytes().splitlines()
    assert all(b'"crc32":"' in line for line in lines)
    for path in directory.glob("archive.sqlite*"):
        path.unlink()
    assert remembered(directory) == truth


def test_files_of_an_earlier_version_that_contradict_each_other_are_refused(tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(SAMPLES / "version_3", directory)
    change(directory / "journal.jsonl", b'"queued":1600000003.0', b'"queued":1600000008.0')
    for opening in (Archive, ArchiveWriter):
        with pytest.raises(ArchiveError, match=r"differ: candidates 3: queued is .*Move one of them away"):
            opening(directory)
    (directory / "journal.jsonl").unlink()
    with ArchiveWriter(directory) as writer:
        assert "rewritten from the database" in writer.recovered
