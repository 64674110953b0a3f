"""``strategy: swarm`` in a user's own script: real processes, real gloo, real deaths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
from forked import LAUNCHERS, Forked, end_of_ranks, free_port
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from swarms_training import LR, MATRICES, Net, main, points
from torch.utils.data import DataLoader

from lightning_evo.functional.mixing import papa_pairs
from lightning_evo.genome import derive_seed
from lightning_evo.swarms import SwarmError, SwarmStrategy
from lightning_evo.swarms.ranks.averaging import common_target
from lightning_evo.swarms.ranks.reinitialize import reinitialize

SCRIPT = Path(__file__).with_name("swarms_training.py")


def run_script(directory: Path, **options: Any) -> tuple[int, str]:
    """Run the script as a user does: Lightning starts the second rank; how it ends, and what both print."""
    directory.mkdir(exist_ok=True)
    done = warm.run(
        [sys.executable, str(SCRIPT), str(directory), json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in LAUNCHERS},
        timeout=150,
    )
    return done.returncode, done.stdout


def run(directory: Path, **options: Any) -> tuple[int, str]:
    """Run its two ranks as a cluster's scheduler does, which takes less time; how rank 0 ends, and what both print."""
    ranks = end_of_ranks(2, main, directory, options)
    return ranks[0][0], "".join(output for _, output in ranks)


def seen(directory: Path) -> list[dict[str, Any]]:
    """What each rank wrote down."""
    return [torch.load(path, weights_only=False) for path in sorted(directory.glob("rank[0-9].pt"))]


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*.ckpt*")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks, three epochs, and everything that can be done after it."""
    directory = tmp_path_factory.mktemp("swarm") / "run"
    code, said = run_script(directory, seed=3, after=True)
    assert code == 0, said
    return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, float]:
    """The same run, whose rank 1 is killed in its third epoch; and how many seconds that took."""
    directory = tmp_path_factory.mktemp("swarm") / "run"
    begun = time.monotonic()
    return directory, *run_script(directory, seed=3, kill=[1, 7]), time.monotonic() - begun


@pytest.mark.slow
class TestTraining:
    def test_each_rank_starts_from_weights_of_its_own_that_the_seed_decides(self, trained):
        first, second = (rank["initial"]["net.0.weight"] for rank in seen(trained))
        assert not torch.equal(first, second)
        # Layers draw from what they are seeded with: both look like fresh layers.
        assert all(weight.abs().max() <= 2**-0.5 for weight in (first, second))
        drawn = Net()
        reinitialize(drawn, derive_seed(3, "weights", 1, 0))
        assert torch.equal(second, drawn.net[0].weight)

    def test_all_ranks_see_all_of_the_data_in_the_same_order(self, trained):
        first, second = (rank["batches"] for rank in seen(trained))
        assert len(first) == 12  # three epochs, and a fourth in a second fit
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
        epoch = torch.cat(first[:3])
        assert torch.equal(epoch.sort(dim=0).values, points(0).tensors[0].sort(dim=0).values)
        assert not torch.equal(epoch, torch.cat(first[3:6]))

    def test_no_gradient_is_averaged(self, trained):
        labels = {tuple(point.tolist()): label for point, label in zip(*points(0).tensors, strict=True)}
        for rank in seen(trained):
            net = Net()
            net.load_state_dict(rank["initial"])
            optimizer = torch.optim.SGD(net.parameters(), lr=LR)
            for batch in rank["batches"][:9]:
                optimizer.zero_grad()
                target = torch.stack([labels[tuple(point.tolist())] for point in batch])
                torch.nn.functional.binary_cross_entropy_with_logits(net.net(batch)[:, 0], target).backward()
                optimizer.step()
            for name, tensor in net.state_dict().items():
                assert torch.allclose(tensor, rank["final"][name], atol=1e-6), name

    def test_metrics_are_each_rank_s_own_but_the_mean_where_asked_or_monitored(self, trained):
        ranks = seen(trained)
        first, second = ranks[0]["metrics"]
        assert ranks[1]["metrics"] == [first, second]
        assert first["val_loss"] != second["val_loss"]
        for rank, own in zip(ranks, (first, second), strict=True):
            assert rank["logged"]["val_loss"] == own["val_loss"]
            # sync_dist=True: the mean, in both.
            assert rank["logged"]["train_loss"] == first["train_loss"] == second["train_loss"]
            # ModelCheckpoint and EarlyStopping decide by it: the mean of what each is by itself.
            assert rank["logged"]["val_acc"] == pytest.approx((first["val_acc"] + second["val_acc"]) / 2)
        for rank, own in zip(ranks, (first, second), strict=True):
            net = Net()
            net.load_state_dict(rank["final"])
            inputs, labels = points(1).tensors
            with torch.no_grad():
                right = (net.eval().net(inputs)[:, 0] > 0) == (labels > 0)
            assert own["val_acc"] == pytest.approx(right.float().mean().item())

    def test_each_rank_s_checkpoint_is_a_plain_lightning_checkpoint_of_its_particle(self, trained, tmp_path):
        first, second = seen(trained)
        assert {"last.ckpt", "rank1.last.ckpt"} <= files(trained)
        assert Net.load_from_checkpoint(trained / "last.ckpt").hparams.width == 4
        for name, rank in (("last.ckpt", first), ("rank1.last.ckpt", second)):
            checkpoint = torch.load(trained / name, weights_only=True)
            assert checkpoint["epoch"] == 3
            # The whole state: stock Lightning goes on from it, on one device.
            quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
            trainer = Trainer(max_epochs=5, accelerator="cpu", default_root_dir=tmp_path, **quiet)
            model = Net()
            trainer.fit(model, DataLoader(points(0), 16), ckpt_path=trained / name, weights_only=False)
            assert trainer.current_epoch == 5
            assert checkpoint["state_dict"].keys() == rank["final"].keys()

    def test_checkpoints_are_kept_and_removed_together_though_ranks_name_them_differently(self, trained):
        names = files(trained)
        assert len(names) == 6  # two best and the last, of two ranks
        ours = {name for name in names if not name.startswith("rank1.")}
        assert names == ours | {f"rank1.{name}" for name in ours}
        first, second = seen(trained)
        assert first["best"] != second["best"]

    def test_validate_test_and_predict_use_each_rank_s_own_particle_on_all_of_the_data(self, trained):
        first, second = seen(trained)
        assert first["validated"][0]["val_loss"] == pytest.approx(first["metrics"][0]["val_loss"])
        assert second["validated"][0]["val_loss"] == pytest.approx(first["metrics"][1]["val_loss"])
        assert not torch.equal(first["tested_weights"]["net.0.weight"], second["tested_weights"]["net.0.weight"])
        for rank in (first, second):
            net = Net()
            net.load_state_dict(rank["tested_weights"])
            with torch.no_grad():
                assert torch.allclose(net.eval().net(points(2).tensors[0])[:, 0], rank["predicted"], atol=1e-6)

    def test_fit_goes_on_in_a_second_call(self, trained):
        assert [rank["epochs"] for rank in seen(trained)] == [4, 4]

    def test_ranks_combine_their_particles_as_one_process_would(self, trained):
        first, second = (rank["average"] for rank in seen(trained))
        assert (first["size"], first["local"], second["size"], second["local"]) == (3, [0], 3, [1, 2])
        for rank in (first, second):
            assert rank["losses"].tolist() == [0.0, 10.0, 11.0]
            for name in MATRICES:
                ours, alone = rank[name]
                assert ours.keys() == alone.keys()
                for key, tensor in ours.items():
                    expected = alone[key][rank["local"]]
                    assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
                    assert torch.allclose(tensor.double(), expected.double(), atol=1e-6), (name, key)
        # Where all become the same, all are, to the bit.
        everybody = torch.cat([first["papa_all"][0]["fc.weight"], second["papa_all"][0]["fc.weight"]])
        assert torch.equal(everybody, everybody[:1].expand_as(everybody))
        assert torch.equal(first["nobody"][0]["fc.weight"], first["nobody"][1]["fc.weight"][:1])

    def test_ranks_may_shuffle_each_for_itself_and_start_alike(self, tmp_path):
        code, said = run(tmp_path, seed=3, epochs=1, strategy={"data": "own", "initialization": "same"})
        assert code == 0, said
        first, second = seen(tmp_path)
        assert all(torch.equal(first["initial"][name], tensor) for name, tensor in second["initial"].items())
        assert not torch.equal(torch.cat(first["batches"]), torch.cat(second["batches"]))
        whole = points(0).tensors[0].sort(dim=0).values
        assert all(torch.equal(torch.cat(rank["batches"]).sort(dim=0).values, whole) for rank in (first, second))

    def test_two_machines_train_a_swarm_as_they_would_by_ddp(self, tmp_path):
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        options = {"seed": 3, "epochs": 1, "devices": 1, "nodes": 2}
        with (
            Forked(main, tmp_path, options, NODE_RANK="0", **address) as one,
            Forked(main, tmp_path, options, NODE_RANK="1", **address) as other,
        ):
            assert [one.wait(), other.wait()] == [0, 0], (one.output, other.output)
        first, second = seen(tmp_path)
        assert len(first["metrics"]) == 2
        assert not torch.equal(first["final"]["net.0.weight"], second["final"]["net.0.weight"])


@pytest.mark.slow
class TestTrouble:
    def test_a_rank_that_is_killed_ends_the_run_with_an_error_that_names_it(self, killed):
        directory, code, said, seconds = killed
        assert code == 1
        assert "SwarmError: rank 1 of 2 is gone: its process was killed by SIGKILL; rank 0 can't go on" in said
        assert seconds < 60
        # All of it: no rank wrote down an end.
        assert not seen(directory)

    def test_the_last_checkpoint_of_a_run_that_was_killed_goes_on_to_the_same_end(self, killed, trained, tmp_path):
        code, said = run(tmp_path, seed=3, ckpt_path=str(killed[0] / "last.ckpt"))
        assert code == 0, said
        for resumed, undisturbed in zip(seen(tmp_path), seen(trained), strict=True):
            assert len(resumed["batches"]) == 3
            for name, tensor in resumed["final"].items():
                assert torch.equal(tensor, undisturbed["final"][name]), name

    def test_rank_0_s_death_ends_the_others(self, tmp_path):
        code, said = run_script(tmp_path, seed=3, kill=[0, 4])
        assert code == -9
        assert "SwarmError: rank 0 of 2 is gone: its process died; rank 1 can't go on" in said

    def test_a_rank_that_fails_tells_the_others_why(self, tmp_path):
        code, said = run(tmp_path, seed=3, fail=[1, 4])
        assert code == 1
        assert "rank 1 of 2 is gone: it failed with ZeroDivisionError: this rank can't divide" in said

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"width_of_rank_1": 5},
                "rank 1 differs from rank 0, where net.0.weight is float32 (4, 2); in rank 1 net.0.weight is float32 (5, 2)",
            ),
            ({"batches_of_rank_1": 2}, "rank 1 differs from rank 0: it has 2 training batches per epoch instead of 3"),
        ],
    )
    def test_ranks_that_differ_are_refused_in_all_ranks_before_training(self, tmp_path, options, message):
        code, said = run(tmp_path, seed=3, **options)
        assert code == 1
        for rank in ("rank0", "rank1"):
            assert f"[{rank}]: lightning_evo.swarms.errors.SwarmError: {message}" in said
        assert not files(tmp_path)

    def test_a_set_of_checkpoints_that_is_not_one_save_is_refused(self, killed, tmp_path):
        directory = killed[0]
        older = next(path for path in directory.glob("rank1.epoch*.ckpt") if "epoch=0" in path.name)
        for name in ("last.ckpt", "rank1.last.ckpt"):
            (tmp_path / name).write_bytes((directory / name).read_bytes())
        (tmp_path / "rank1.last.ckpt").write_bytes(older.read_bytes())
        code, said = run(tmp_path, seed=3, ckpt_path=str(tmp_path / "last.ckpt"))
        assert code == 1
        assert "rank 1 can't resume from" in said
        assert "belongs to another save (global step 3) than rank 0's" in said

    def test_what_a_death_between_two_ranks_writing_leaves_can_be_resumed(self, killed, trained, tmp_path):
        directory = killed[0]
        older = next(path for path in directory.glob("rank1.epoch*.ckpt") if "epoch=0" in path.name)
        (tmp_path / "last.ckpt").write_bytes((directory / "last.ckpt").read_bytes())
        # Rank 1 had written its next file, rank 0 not.
        (tmp_path / "rank1.last.ckpt").write_bytes(older.read_bytes())
        (tmp_path / "rank1.last.ckpt.previous").write_bytes((directory / "rank1.last.ckpt").read_bytes())
        code, said = run(tmp_path, seed=3, ckpt_path=str(tmp_path / "last.ckpt"))
        assert code == 0, said
        for resumed, undisturbed in zip(seen(tmp_path), seen(trained), strict=True):
            assert torch.equal(resumed["final"]["net.0.weight"], undisturbed["final"]["net.0.weight"])


def test_one_particle_is_refused_before_any_process_is_connected(tmp_path):
    trainer = Trainer(strategy="swarm", devices=1, accelerator="cpu", default_root_dir=tmp_path, logger=False)
    with pytest.raises(SwarmError, match=r"trainer\.devices: 1 is a swarm of one particle; set devices to 2 or more"):
        trainer.fit(BoringModel())
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SwarmStrategy(data="shard"), "data: 'shard' is not 'same' or 'own'"),
        (lambda: SwarmStrategy(initialization="zero"), "initialization: 'zero' is not 'own' or 'same'"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message):
    with pytest.raises(SwarmError, match=message):
        make()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_all_take_of_one_sum_is_found(size):
    generator = torch.Generator().manual_seed(size)
    weights, keep, share = torch.rand(3, size, generator=generator).double()
    share[0] = 0.0
    found = common_target(torch.diag(keep) + torch.outer(share, weights))
    assert found is not None
    rebuilt = torch.diag(found[0]) + torch.outer(found[1], found[2])
    assert torch.allclose(rebuilt, torch.diag(keep) + torch.outer(share, weights), atol=1e-12)
    pair = (
        papa_pairs(size, list(range(size)), torch.Generator().manual_seed(0)) if size == 2 else torch.eye(size).double()
    )
    assert common_target(pair) is not None


def test_what_differs_between_rows_is_no_common_sum():
    matrix = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double()
    assert common_target(matrix) is None
