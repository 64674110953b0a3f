"""Candidates meet through files: whole ones, of their own kind, without waiting, whatever happens to the others."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch
from forked import Forked
from swarms_exchanging import publish_and_read

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.exchange import Exchange, ExchangeSwarm
from lightning_evo.swarms.swarm import architecture_of, describe, first_difference


class Held:
    """Particles whose weights and moments are given."""

    def __init__(self, value: float, count: int = 1, batches: int = 0) -> None:
        self.count, self.modules = count, []
        self.tensors = {"w": torch.full((count, 2), value), "bn.count": torch.full((count,), batches)}

    def weights(self) -> dict[str, torch.Tensor]:
        return self.tensors

    def moments(self) -> dict[str, torch.Tensor]:
        return {"exp_avg:w": torch.zeros(self.count, 2)}


def swarm(
    directory: Path, name: str, value: float, ancestry: str = "0", architecture: str = "net", **more
) -> ExchangeSwarm:
    return ExchangeSwarm(Held(value, **more), Exchange(directory, name, architecture, ancestry))


def test_a_candidate_meets_those_who_have_published(tmp_path):
    first, second = swarm(tmp_path, "a", 1.0), swarm(tmp_path, "b", 3.0)
    assert first.synchronize(torch.tensor([0.5])).tolist() == [0.5]
    assert (first.size, list(first.local)) == (1, [0])
    assert second.synchronize(torch.tensor([0.25])).tolist() == [0.25, 0.5]
    assert (second.size, list(second.local)) == (2, [0])
    mixed = second.combine(second.particles.weights(), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert mixed["w"].tolist() == [[2.0, 2.0]]
    # Nobody else's weights change.
    assert first.particles.weights()["w"].tolist() == [[1.0, 1.0]]


def test_integers_are_taken_from_the_largest_share(tmp_path):
    ours, theirs = swarm(tmp_path, "a", 1.0, batches=3), swarm(tmp_path, "b", 3.0, batches=7)
    theirs.synchronize(torch.tensor([0.1]))
    ours.synchronize(torch.tensor([0.1]))
    assert ours.combine(ours.particles.weights(), torch.tensor([[0.5, 0.5], [0, 1]]))["bn.count"].tolist() == [3]
    assert ours.combine(ours.particles.weights(), torch.tensor([[0.4, 0.6], [0, 1]]))["bn.count"].tolist() == [7]


def test_several_particles_of_a_candidate_are_all_there(tmp_path):
    ours, theirs = swarm(tmp_path, "a", 1.0, count=2), swarm(tmp_path, "b", 4.0, count=3)
    theirs.synchronize(torch.tensor([0.1, 0.2, math.nan]))
    losses = ours.synchronize(torch.tensor([0.3, 0.4]))
    assert losses[:4].tolist() == pytest.approx([0.3, 0.4, 0.1, 0.2])
    assert math.isnan(losses[4])
    mixed = ours.combine(ours.particles.weights(), torch.full((5, 5), 0.2))
    assert torch.allclose(mixed["w"], torch.full((2, 2), 2.8))


@pytest.mark.parametrize("other", [{"ancestry": "1"}, {"architecture": "another"}])
def test_only_those_of_the_same_architecture_and_ancestry_are_peers(tmp_path, other):
    swarm(tmp_path, "b", 3.0, **other).synchronize(torch.tensor([0.1]))
    ours = swarm(tmp_path, "a", 1.0)
    assert ours.synchronize(torch.tensor([0.5])).tolist() == [0.5]


def test_what_was_published_too_long_ago_is_no_peer(tmp_path):
    theirs = swarm(tmp_path, "b", 3.0)
    theirs.synchronize(torch.tensor([0.1]))
    (file,) = tmp_path.glob("*.safetensors")
    os.utime(file, (time.time() - 4000, time.time() - 4000))
    assert swarm(tmp_path, "a", 1.0).synchronize(torch.tensor([0.5])).tolist() == [0.5]
    theirs.synchronize(torch.tensor([0.2]))
    assert swarm(tmp_path, "c", 1.0).synchronize(torch.tensor([0.5]))[1:].tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("keep", [0, 5, 60, -3])
def test_torn_files_are_passed_over(tmp_path, keep):
    theirs = swarm(tmp_path, "b", 3.0)
    theirs.synchronize(torch.tensor([0.1]))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:keep])
    ours = swarm(tmp_path, "a", 1.0)
    assert ours.synchronize(torch.tensor([0.5])).tolist() == [0.5]


@pytest.mark.parametrize("text", [b"", b"not a tensor", b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 64])
def test_files_of_another_kind_are_passed_over(tmp_path, text):
    (tmp_path / "notes.safetensors").write_bytes(text)
    assert swarm(tmp_path, "a", 1.0).synchronize(torch.tensor([0.5])).tolist() == [0.5]


@pytest.mark.parametrize("end", ["vanish", "tear", "change", "flip"])
def test_the_share_of_a_peer_that_is_lost_after_meeting_falls_to_oneself(tmp_path, end):
    theirs, ours = swarm(tmp_path, "b", 3.0), swarm(tmp_path, "a", 1.0)
    theirs.synchronize(torch.tensor([0.1]))
    ours.synchronize(torch.tensor([0.5]))
    if end == "vanish":
        theirs.close()
    elif end == "tear":
        (tmp_path / "b.safetensors").write_bytes(b"")
    elif end == "flip":
        content = (tmp_path / "b.safetensors").read_bytes()
        (tmp_path / "b.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        Exchange(tmp_path, "b", "another", "0").publish([0.1], {"w": torch.zeros(1, 9)})
    mixed = ours.combine(ours.particles.weights(), torch.tensor([[0.25, 0.75], [0.0, 1.0]]))
    assert mixed["w"].tolist() == [[1.0, 1.0]]


def test_only_peers_with_a_share_are_read(tmp_path):
    theirs, ours = swarm(tmp_path, "b", math.nan), swarm(tmp_path, "a", 1.0)
    theirs.synchronize(torch.tensor([math.nan]))
    ours.synchronize(torch.tensor([0.5]))
    assert ours.combine(ours.particles.weights(), torch.eye(2))["w"].tolist() == [[1.0, 1.0]]


def test_nothing_but_weights_can_be_averaged(tmp_path):
    ours = swarm(tmp_path, "a", 1.0)
    ours.synchronize(torch.tensor([0.5]))
    assert not ours.combines_all_tensors
    with pytest.raises(SwarmError, match="exchange only weights, not exp_avg:w"):
        ours.combine(ours.particles.moments(), torch.eye(1))
    with pytest.raises(SwarmError, match="only losses and weights"):
        ours.gather(torch.ones(1))


def test_what_was_published_is_removed_at_the_end(tmp_path):
    closed, forgotten = swarm(tmp_path, "a", 1.0), swarm(tmp_path, "b", 1.0)
    closed.synchronize(torch.tensor([0.5]))
    forgotten.synchronize(torch.tensor([0.5]))
    assert len(list(tmp_path.iterdir())) == 2
    closed.close()
    closed.close()
    del forgotten
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_fails_nothing_and_warns_once(tmp_path):
    (tmp_path / "taken").write_text("a file where the directory should be")
    ours = swarm(tmp_path / "taken", "a", 1.0)
    with pytest.warns(UserWarning, match="the weights can.t be published in .*taken"):
        assert ours.synchronize(torch.tensor([0.5])).tolist() == [0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ours.synchronize(torch.tensor([0.25])).tolist() == [0.25]
    assert ours.combine(ours.particles.weights(), torch.eye(1))["w"].tolist() == [[1.0, 1.0]]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_on_a_full_disk_nothing_of_an_earlier_time_stays(tmp_path, monkeypatch):
    ours = swarm(tmp_path, "a", 1.0)
    ours.synchronize(torch.tensor([0.5]))
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: write(Path("/dev/full"), data))
    with pytest.warns(UserWarning, match="No space left"):
        ours.synchronize(torch.tensor([0.25]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "message"), [({"name": "a/b"}, "name: 'a/b'"), ({"max_age": 0}, "max_age: 0")])
def test_bad_settings_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Exchange(**{"directory": tmp_path, "name": "a", "architecture": "net", "ancestry": "0", **arguments})


def test_architectures_differ_where_classes_names_shapes_or_dtypes_do():
    def net(width=3, act=torch.nn.ReLU, dtype=torch.float32):
        return torch.nn.Sequential(torch.nn.Linear(2, width, dtype=dtype), act())

    assert architecture_of(net()) == architecture_of(net())
    others = [net(width=4), net(act=torch.nn.GELU), net(dtype=torch.float64), torch.nn.Sequential(net())]
    assert len({architecture_of(other) for other in [net(), *others]}) == 5
    assert first_difference(describe(net()), describe(net())) is None
    assert first_difference(describe(net()), describe(net(width=4))) == (
        "0.weight is float32 (3, 2)",
        "0.weight is float32 (4, 2)",
    )


def test_a_class_may_move_to_another_file_while_an_exchange_goes_on():
    def net(module):
        return type("Net", (torch.nn.Linear,), {"__module__": module})(2, 3)

    assert architecture_of(net("before.models")) == architecture_of(net("after"))


def test_processes_that_publish_and_read_at_once_never_see_half_a_file_though_one_is_killed(tmp_path):
    with (
        Forked(publish_and_read, tmp_path, "a", 150) as one,
        Forked(publish_and_read, tmp_path, "b", 150) as other,
        Forked(publish_and_read, tmp_path, "c", 100_000) as doomed,
    ):
        end = time.monotonic() + 60
        while doomed.output.count("\n") < 20:  # then it is in the midst of it
            assert time.monotonic() < end, doomed.output
            time.sleep(0.01)
        doomed.kill()
        assert doomed.wait() == -signal.SIGKILL
        for process in (one, other):
            assert process.wait() == 0, process.output
            published, met, torn = map(int, process.output.splitlines()[-1].split())
            assert published == 150
            assert met > 100
            assert torn == 0
    # The killed one's last word is whole, its temporary file is nobody's; it counts until it is too old.
    assert [peer.name for peer in Exchange(tmp_path, "d", "net", "0").peers()] == ["c"]
    # The candidate trains again, under the same name, and leaves nothing.
    again = Exchange(tmp_path, "c", "net", "0")
    assert again.publish([0.0], {"w": torch.zeros(1)})
    again.close()
    assert not list(tmp_path.glob("*.safetensors"))
