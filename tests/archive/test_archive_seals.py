"""A checkpoint is what its candidate left, or it is known to be damaged; and who made it is known, too."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace

import pytest

from lightning_evo.archive import Archive, ArchiveWriter, CheckpointFault, check_checkpoints
from lightning_evo.archive.meta import FinalOutcome, FinalRequest
from lightning_evo.archive.seals import SealRecord, StoredCheckpoint, sealed
from lightning_evo.genome import Candidate, Genome, Result

PATH = "candidates/{:06d}/checkpoint.ckpt"


def packed(content):
    """Bytes as a zip file with checksums, as torch writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", content)
    return file.getvalue()


def left(run, id=0, content=b"some weights", seal=True):
    path = run / PATH.format(id)
    path.parent.mkdir(parents=True)
    path.write_bytes(packed(content))
    (path.parent / "config.yaml").write_text("model: x\n")
    result = Result("completed", (1.0,), checkpoint=PATH.format(id), checkpoint_bytes=path.stat().st_size)
    return sealed(result, path) if seal else result


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "zeroed": lambda content: bytes(len(content)),
    "a bit in the middle": lambda content: flipped(content, 40),
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "of an earlier version"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found(tmp_path, damage, seal):
    stored = StoredCheckpoint.of(left(tmp_path, seal=seal))
    assert stored.fault(tmp_path) == ""
    path = tmp_path / stored.path
    path.write_bytes(damage(path.read_bytes()))
    assert stored.fault(tmp_path) == "is damaged"
    path.unlink()
    assert stored.fault(tmp_path) == "is gone"


def test_every_bit_counts(tmp_path):
    stored = StoredCheckpoint.of(left(tmp_path))
    path = tmp_path / stored.path
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(flipped(whole, at))
        assert stored.fault(tmp_path) == "is damaged"


def test_another_candidates_checkpoint_of_the_same_size_is_damage(tmp_path):
    one, two = left(tmp_path, 0, b"one"), left(tmp_path, 1, b"two")
    (tmp_path / one.checkpoint).write_bytes((tmp_path / two.checkpoint).read_bytes())
    assert StoredCheckpoint.of(one).fault(tmp_path) == "is damaged"


@pytest.mark.parametrize("path", ["../elsewhere.ckpt", "/etc/passwd", "candidates/link/checkpoint.ckpt"])
def test_a_path_that_leads_out_is_left_alone(tmp_path, path):
    run = tmp_path / "run"
    (run / "candidates").mkdir(parents=True)
    (run / "candidates" / "link").symlink_to(tmp_path)
    assert "is left alone" in StoredCheckpoint(path).fault(run)


def test_only_what_this_user_trained_is_the_users_own(tmp_path, monkeypatch):
    result = left(tmp_path)
    seal = result.entry(SealRecord)
    assert seal.is_own
    assert not replace(seal, digest="sha256:" + 64 * "0").is_own
    assert not replace(seal, config="sha256:" + 64 * "0").is_own
    assert SealRecord.from_dict(seal.to_dict()) == seal
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "somebody-else"))
    assert not seal.is_own
    assert sealed(result, tmp_path / result.checkpoint).entry(SealRecord).is_own  # it came from a worker elsewhere


@pytest.mark.parametrize("record", [{}, {"digest": None}, "text", None, {"digest": "x", "mark": 5, "more": 1}])
def test_a_seal_that_was_tampered_with_holds_for_nothing(tmp_path, record):
    result = replace(left(tmp_path), extra={SealRecord.key: record})
    stored = StoredCheckpoint.of(result)
    assert stored.fault(tmp_path) == "is damaged"
    assert not stored.is_own


def test_all_checkpoints_of_a_run_are_checked(tmp_path):
    results = {id: left(tmp_path, id, bytes([id]), seal=id != 3) for id in range(5)}
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "model.ckpt").write_bytes(packed(b"winner"))
    with ArchiveWriter(tmp_path) as writer:
        for id, result in results.items():
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=0.0)
            writer.record_result(id, result)
        seal = SealRecord.of(tmp_path / "final" / "model.ckpt")
        outcome = FinalOutcome(FinalRequest(2), seal=seal)
        assert FinalOutcome.from_dict(outcome.to_dict()) == outcome
        writer.set_meta(outcome.key, outcome.to_dict())
        writer.update_checkpoint(4, None)
    with Archive(tmp_path) as archive:
        assert list(check_checkpoints(archive)) == []
        (tmp_path / PATH.format(1)).unlink()
        for id in (2, 3):
            path = tmp_path / PATH.format(id)
            path.write_bytes(bytes(path.stat().st_size))
        (tmp_path / "final" / "model.ckpt").write_bytes(packed(b"looser"))
        assert list(check_checkpoints(archive)) == [
            CheckpointFault(2, "final/model.ckpt", "is damaged", True),
            CheckpointFault(1, PATH.format(1), "is gone", True),
            CheckpointFault(2, PATH.format(2), "is damaged", True),
            CheckpointFault(3, PATH.format(3), "is damaged", False),
        ]
