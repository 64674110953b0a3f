"""What is read of a checkpoint, with whose trust, and how often."""

from __future__ import annotations

import gc
import os
import pickle

import pytest
import torch

from lightning_evo.utils.checkpoints import kind_of, read_checkpoint


class Foreign:
    """Something that no checkpoint of plain data holds."""


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read, one entry for each time."""
    paths, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **arguments: (paths.append(path), load(path, **arguments))[1])
    return paths


def test_a_file_is_read_once_as_long_as_somebody_keeps_its_content(tmp_path, reads):
    path = tmp_path / "one.ckpt"
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path)
    first = read_checkpoint(path)
    assert first["state_dict"]["weight"].tolist() == [1, 1]
    assert read_checkpoint(str(path), trusted=True) is first
    assert len(reads) == 1
    del first
    gc.collect()
    read_checkpoint(path)
    assert len(reads) == 2


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "one.ckpt"
    torch.save({"epoch": 1}, path)
    first = read_checkpoint(path)
    torch.save({"epoch": 2, "more": [1]}, path)
    assert (first["epoch"], read_checkpoint(path)["epoch"]) == (1, 2)


def test_foreign_objects_need_trust_whoever_read_them_before(tmp_path):
    path = tmp_path / "foreign.ckpt"
    torch.save({"held": Foreign()}, path)
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(path)
    kept = read_checkpoint(path, trusted=True)
    assert isinstance(kept["held"], Foreign)
    with pytest.raises(pickle.UnpicklingError):
        read_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="it holds a list, not a checkpoint"):
        read_checkpoint(tmp_path / "list.ckpt")
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.ckpt")


def test_a_checkpoint_in_a_directory_whose_name_is_not_utf8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9") / "x.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    assert kind_of(path) == "plain"
    assert read_checkpoint(path)["state_dict"]["w"].tolist() == [1.0, 1.0]
