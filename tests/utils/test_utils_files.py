"""Files are written whole or not at all."""

from __future__ import annotations

import os

import pytest

from lightning_evo.utils.files import atomic_path, copy_atomically, write_atomically


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
