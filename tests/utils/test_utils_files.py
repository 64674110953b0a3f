"""Files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from lightning_evo.utils.files import (
    OutsideError,
    atomic_directory,
    atomic_path,
    copy_atomically,
    inside,
    remove_tree,
    write_atomically,
)


def test_content_appears_when_the_block_ends_and_not_before(tmp_path):
    target = tmp_path / "result.json"
    with atomic_path(target) as part:
        part.write_text("new")
        assert not target.exists()
        assert list(tmp_path.glob("*.json")) == []  # what is half written matches no pattern
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("no"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "result.json"
    target.write_text("old")

    def fail():
        with atomic_path(target) as part:
            part.write_text("ne")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_error_of_an_unwritable_place_is_the_callers(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "text")
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "file", "text")


def test_sync_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((tmp_path / "a").exists()))
    with atomic_path(tmp_path / "a") as part:
        part.write_text("1")
    assert seen == []
    with atomic_path(tmp_path / "b", sync=True) as part:
        part.write_text("1")
    with atomic_path(tmp_path / "a", sync=True) as part:
        part.write_text("2")
    assert seen == [True, True]
    assert (tmp_path / "a").read_text() == "2"


def test_text_is_utf8_and_bytes_are_as_given(tmp_path):
    assert write_atomically(tmp_path / "text", "größer\n").read_bytes() == "größer\n".encode()
    assert write_atomically(tmp_path / "bytes", b"\x00\xff").read_bytes() == b"\x00\xff"
    assert copy_atomically(tmp_path / "bytes", tmp_path / "copy").read_bytes() == b"\x00\xff"
    assert sorted(os.listdir(tmp_path)) == ["bytes", "copy", "text"]


def test_a_failed_copy_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        copy_atomically(tmp_path / "missing", tmp_path / "copy")
    assert os.listdir(tmp_path) == []


def test_a_link_in_the_temporary_files_place_is_not_written_through(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".result.json.part").symlink_to(mine)
    write_atomically(tmp_path / "result.json", "new")
    assert mine.read_text() == "mine"
    assert (tmp_path / "result.json").read_text() == "new"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "link/x", "a/link", "a\0b"])
def test_a_path_that_leads_out_of_its_directory_is_refused(tmp_path, path):
    (tmp_path / "run" / "a").mkdir(parents=True)
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    (tmp_path / "run" / "a" / "link").symlink_to("nowhere")
    with pytest.raises(OutsideError):
        inside(tmp_path / "run", path)


def test_a_path_within_a_directory_that_a_link_leads_to_is_accepted(tmp_path):
    (tmp_path / "there" / "a").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "there")
    assert inside(tmp_path / "run", "a/b/c") == tmp_path / "run" / "a" / "b" / "c"


def test_of_a_link_to_a_directory_only_the_link_is_deleted(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["theirs"]
    assert os.listdir(tmp_path / "theirs") == ["file"]


def contents(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def fill(target, files, replaceable=("a", "b", "old")):
    with atomic_directory(target, replaceable) as part:
        for name, text in files.items():
            (part / name).write_text(text)


@pytest.mark.parametrize("before", [None, {}, {"a": "1", "old": "1"}, {"a": "1", "theirs": "1"}])
def test_a_directory_appears_with_all_its_files(tmp_path, before):
    target = tmp_path / "deep" / "best"
    if before is not None:
        target.mkdir(parents=True)
        for name, text in before.items():
            (target / name).write_text(text)
    fill(target, {"a": "2", "b": "2"})
    theirs = {"theirs": "1"} if before and "theirs" in before else {}
    assert contents(target) == {"a": "2", "b": "2"} | theirs
    assert os.listdir(target.parent) == ["best"]


def test_a_directory_that_fails_leaves_the_one_before(tmp_path):
    fill(tmp_path / "best", {"a": "1"})
    with pytest.raises(TypeError):
        fill(tmp_path / "best", {"a": "2", "b": None})
    assert contents(tmp_path / "best") == {"a": "1"}
    assert os.listdir(tmp_path) == ["best"]


def test_what_a_kill_left_of_a_directory_is_no_obstacle(tmp_path):
    (tmp_path / ".best.part").mkdir()
    (tmp_path / ".best.part" / "b").write_text("left")
    fill(tmp_path / "best", {"a": "1"})
    assert contents(tmp_path / "best") == {"a": "1"}
    assert os.listdir(tmp_path) == ["best"]
