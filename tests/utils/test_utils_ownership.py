"""What a user's own searches made is told from everything else by a key that lies outside of all runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from lightning_evo.utils import ownership
from lightning_evo.utils.ownership import is_own, key_name, mark, state_directory


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A user without a key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    ownership._key.cache_clear()
    yield tmp_path / "state" / "lightning-evo"
    ownership._key.cache_clear()


def new_process():
    ownership._key.cache_clear()


def test_a_mark_holds_for_its_content_alone():
    assert is_own("a", mark("a"))
    assert not is_own("b", mark("a"))
    assert not any(is_own("a", no) for no in (None, "", "é", mark("a")[:-1], 7))


def test_the_key_is_kept_for_the_user_alone(home):
    made = mark("a"), key_name()
    assert [path.name for path in home.iterdir()] == ["key"]
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    new_process()
    assert (mark("a"), key_name()) == made
    code = "from lightning_evo.utils.ownership import mark; print(mark('a'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == made[0]


def test_another_user_has_another_key(tmp_path, monkeypatch):
    made = mark("a")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert not is_own("a", made)


@pytest.mark.parametrize("spoil", ["writable by others", "link", "short", "directory"])
def test_a_key_that_somebody_else_may_have_put_there_is_not_used(home, tmp_path, spoil):
    home.mkdir(parents=True)
    path = home / "key"
    known = bytes(32)
    if spoil == "link":
        (tmp_path / "theirs").write_bytes(known)
        path.symlink_to(tmp_path / "theirs")
    elif spoil == "directory":
        path.mkdir()
    else:
        path.write_bytes(known if spoil != "short" else b"k")
        path.chmod(0o666 if spoil != "short" else 0o600)
    made = mark("a")
    assert is_own("a", made)  # within this process
    new_process()
    assert not is_own("a", made)
    assert os.path.lexists(path)


def test_where_no_key_can_be_kept_a_mark_holds_for_this_process(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    made = mark("a")
    assert is_own("a", made)
    new_process()
    assert not is_own("a", made)


def test_without_the_variable_it_lies_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_directory().is_relative_to(tmp_path)
