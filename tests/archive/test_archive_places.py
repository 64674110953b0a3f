import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from archive_examples import PREDICTIONS, make_candidate, make_run, record, remembered

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, DiskFull
from lightning_evo.archive.lock import network_file_system
from lightning_evo.genome import Candidate, Genome, Result

SAMPLES = Path(__file__).parent / "samples"


def mount(*arguments):
    """Mounts, or skips the test where that isn't permitted."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting isn't permitted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", disk)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def read_only(tmp_path):
    """Makes a directory one in which nothing can be written: for root only a mount does that."""
    with contextlib.ExitStack() as undo:

        def seal(directory: Path) -> Path:
            if os.geteuid() != 0:
                directory.chmod(0o555)
                undo.callback(directory.chmod, 0o755)
                return directory
            sealed = tmp_path / f"{directory.name}-sealed"
            sealed.mkdir()
            mount("--bind", directory, sealed)
            undo.callback(subprocess.run, ["umount", "-l", sealed], check=True)
            mount("-o", "remount,bind,ro", sealed)
            return sealed

        yield seal


# -- a full disk ---------------------------------------------------------------------------------------------------------


def fill(writer, start):
    """Records until the disk is full: ids asked and told, and the candidate that was refused."""
    told = []
    for id in range(start, start + 10_000):
        try:
            writer.record_candidate(Candidate(id, Genome({"g": id})), queued=0.0)
            writer.record_result(id, Result("completed", (1.0,), extra={"text": "x" * 5_000}))
        except DiskFull as full:
            return told, id, full
        told.append(id)
    raise AssertionError("the disk never became full")


def test_a_full_disk_keeps_what_was_recorded_and_leaves_room_for_results_in_training(small_disk):
    directory = small_disk / "run"
    with ArchiveWriter(directory) as writer:
        for id in range(4):  # in training when the disk fills up
            writer.record_candidate(Candidate(id, Genome({"g": id})), queued=0.0)
        told, refused, full = fill(writer, 4)
        assert full.recorded
        assert "was recorded using the reserve" in str(full)
        for id in range(4):
            writer.record_result(id, Result("completed", (0.5,), curve=[{"val_acc": 0.5}] * 20))
        with pytest.raises(DiskFull, match=r"candidate 9999 was not recorded"):
            writer.record_candidate(Candidate(9999, Genome({"g": 1})), queued=0.0)
        expected = remembered(directory)
    assert remembered(directory) == expected
    counts = Archive(directory).counts()
    assert counts["completed"] >= len(told) + 4
    assert sum(counts.values()) in (refused, refused + 1)

    with contextlib.suppress(OSError):  # whatever closing has set free
        (small_disk / "other").write_bytes(b"x" * (3 << 20))
    with pytest.raises(DiskFull, match="free some space and run again"):
        ArchiveWriter(directory)
    assert remembered(directory) == expected
    mount("-o", "remount,size=12m", small_disk)
    with ArchiveWriter(directory) as writer:
        assert remembered(directory) == expected
        writer.record_candidate(Candidate(9999, Genome({"g": 1})), queued=0.0)
        expected = remembered(directory)
    (directory / "archive.sqlite").unlink()
    with ArchiveWriter(directory):
        assert remembered(directory) == expected, "the journal was whole as well"


def test_when_the_reserve_is_spent_too_the_archive_stays_whole(small_disk):
    directory = small_disk / "run"
    recorded = []
    with ArchiveWriter(directory) as writer:
        for id in range(90):
            writer.record_candidate(Candidate(id, Genome({"g": id})), queued=0.0)
        for id in range(90):
            result = Result("completed", (1.0,), extra={"text": "x" * 20_000})
            try:
                writer.record_result(id, result)
            except DiskFull as full:
                if not full.recorded:
                    break
            recorded.append(id)
        else:
            raise AssertionError("the disk never became full")
        with pytest.raises(DiskFull, match="was not recorded"):
            writer.record_result(89, result)
    assert [row["id"] for row in Archive(directory).candidates(status="completed")] == recorded
    mount("-o", "remount,size=16m", small_disk)
    with ArchiveWriter(directory) as writer:
        assert "damaged" not in (writer.recovered or "")
        assert writer.archive().counts() == {
            "pending": 90 - len(recorded),
            "completed": len(recorded),
            "stopped": 0,
            "failed": 0,
        }


def test_a_disk_without_room_for_a_run_is_refused_at_the_start(small_disk):
    (small_disk / "other").write_bytes(b"x" * (5 << 19))
    with pytest.raises(DiskFull, match="not even 1 MiB is free"):
        ArchiveWriter(small_disk)
    with contextlib.suppress(OSError):
        (small_disk / "more").write_bytes(b"x" * (1 << 20))
    with pytest.raises(DiskFull, match="the disk is full"):
        ArchiveWriter(small_disk)


# -- read-only places ----------------------------------------------------------------------------------------------------


def test_a_directory_that_cannot_be_written_is_refused(tmp_path, read_only):
    (tmp_path / "run").mkdir()
    with pytest.raises(ArchiveError, match=r"cannot write here \((Read-only file system|Permission denied)\)"):
        ArchiveWriter(read_only(tmp_path / "run"))


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveError, match=r"file/run: cannot be used \(Not a directory\)"):
        ArchiveWriter(tmp_path / "file" / "run")


@pytest.mark.parametrize("state", ["finished", "running", "killed", "without shm"])
def test_a_run_is_read_where_nothing_can_be_written(tmp_path, read_only, state):
    writer = make_run(tmp_path / "run")
    expected = remembered(tmp_path / "run")
    directory = tmp_path / "run"
    if state == "finished":
        writer.close()
        for path in directory.glob("archive.sqlite-*"):
            path.unlink()
    elif state != "running":
        shutil.copytree(directory, tmp_path / "copy")
        directory = tmp_path / "copy"
        if state == "without shm":
            (directory / "archive.sqlite-shm").unlink()
    sealed = read_only(directory)
    assert remembered(sealed) == expected
    assert remembered(sealed / "archive.sqlite") == expected
    writer.close()


def test_no_archive_is_said_so(tmp_path):
    for location in (tmp_path, tmp_path / "nowhere", str(tmp_path / "x.sqlite")):
        with pytest.raises(ArchiveError, match="no archive here"):
            Archive(location)
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(ArchiveError, match=r"other\.sqlite: a database without a lightning-evo archive"):
        Archive(tmp_path / "other.sqlite")


# -- network file systems ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("/data/home/me/runs", "nfs4"),
        ("/data/home/local/runs", None),
        ("/data", None),
        ("/mnt/team share/x", "cifs"),
        ("/mnt/remote", "fuse.sshfs"),
        ("/scratch/a", "lustre"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(tmp_path, directory, expected):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/vda / ext4 rw 0 0\n"
        "server:/home /data/home nfs4 rw 0 0\n"
        "/dev/vdb /data/home/local xfs rw 0 0\n"
        "//server/share /mnt/team\\040share cifs rw 0 0\n"
        "me@host: /mnt/remote fuse.sshfs rw 0 0\n"
        "mds@tcp:/s /scratch ext4 rw 0 0\n"
        "mds@tcp:/s /scratch lustre rw 0 0\n"
    )
    assert network_file_system(Path(directory), mounts) == expected
    assert network_file_system(Path(directory), tmp_path / "absent") is None


def test_a_network_file_system_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_evo.archive.writer.network_file_system", lambda directory: "nfs4")
    with ArchiveWriter(tmp_path) as writer:
        assert "network file system (nfs4)" in writer.warning


def test_a_local_directory_is_not_warned_of(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        assert writer.warning is None
        assert writer.recovered is None


# -- versions ------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2])
def sample(request, tmp_path):
    """A search as each version of the schema stored it."""
    shutil.copytree(SAMPLES / f"version_{request.param}", tmp_path / "run")
    return tmp_path / "run"


def test_an_archive_of_every_version_is_read_and_continued(sample):
    archive = Archive(sample)
    assert archive.run == "sample"
    assert archive.meta["objectives"] == [{"monitor": "val_acc", "mode": "max"}]
    assert archive.counts() == {"pending": 2, "completed": 5, "stopped": 1, "failed": 1}
    assert archive.candidate(2).parents == (1, 0)
    assert archive.result(0).checkpoint is None
    assert archive.result(2).checkpoint_bytes == 2**33 + 2
    assert len(archive.curves()) == 18
    expected = remembered(sample)
    with ArchiveWriter(sample) as writer:
        assert writer.recovered is None
        assert remembered(sample) == expected
        writer.record_candidate(replace(make_candidate(9), prediction=PREDICTIONS[2]), queued=0.0)
    assert archive.counts()["pending"] == 3
    assert archive.candidate(9).prediction == PREDICTIONS[2]


def test_a_journal_of_every_version_rebuilds_its_archive(sample):
    expected = remembered(sample)
    (sample / "archive.sqlite").unlink()
    with ArchiveWriter(sample) as writer:
        assert "rebuilt from the journal" in writer.recovered
    assert remembered(sample) == expected


def test_an_archive_of_a_later_version_is_refused(sample):
    with contextlib.closing(sqlite3.connect(sample / "archive.sqlite")) as connection, connection:
        connection.execute("UPDATE archive_schema SET version = 4")
    for opening in (Archive, ArchiveWriter):
        with pytest.raises(
            ArchiveError, match=r"schema version 4; lightning-evo .* knows versions up to 3. Upgrade it"
        ):
            opening(sample)


def test_a_journal_of_a_later_version_is_refused(sample):
    text = (sample / "journal.jsonl").read_text()
    (sample / "journal.jsonl").write_text(re.sub(r'"version":\d', '"version":5', text, count=1))
    with pytest.raises(ArchiveError, match=r"journal version 5; lightning-evo .* knows versions up to 4"):
        ArchiveWriter(sample)


def write_sample() -> None:
    """How ``samples/version_3`` was made; a new schema version gets a folder of its own, and the earlier ones stay."""
    with ArchiveWriter(SAMPLES / "version_3", run="sample") as writer:
        writer.update_meta({"objectives": [{"monitor": "val_acc", "mode": "max"}], "seed": 3})
        record(writer, range(9))
    for name in ("lock", "reserve"):
        (SAMPLES / "version_3" / name).unlink()
