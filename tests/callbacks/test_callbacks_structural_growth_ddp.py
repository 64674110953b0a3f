"""A network that grows under DDP is the same in all ranks: its structure, its weights, what optimizers know of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
_LAUNCHERS = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")

SCRIPT = """
import gc, os, sys
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

sys.path[:0] = {paths!r}
torch.set_num_threads(1)
from callbacks_growing import QUIET, ConvNet, growing, images
from lightning_evo.callbacks.growth_triggers import EntropySaturation, FixedInterval
from lightning_evo.callbacks.structural_growth import StructuralGrowth

rank = int(os.environ.get("LOCAL_RANK", 0))
torch.manual_seed(100 + rank)  # the processes are seeded differently, but for what Lightning does about it


class Gradients(Callback):
    # What the first step after growth trains with: this rank's data alone, and what the step really took.
    def __init__(self):
        self.seen, self.wrapped = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch and batch_idx == 0:
            inputs, labels = batch
            loss = torch.nn.functional.cross_entropy(pl_module.body(inputs), labels)
            self.own = dict(zip(
                [name for name, _ in pl_module.named_parameters()],
                torch.autograd.grad(loss, list(pl_module.parameters())),
            ))
            gc.collect()
            self.wrapped.append(sum(isinstance(one, DistributedDataParallel) for one in gc.get_objects()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.current_epoch and trainer.fit_loop.epoch_loop.batch_idx == 0:
            used = {{name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}}
            self.seen.append((self.own, used))


class NoNorm(ConvNet):
    # Batch statistics would make a rank's gradient depend on when it is taken.
    def __init__(self, **hparams):
        super().__init__(**hparams)
        self.body[1] = torch.nn.Identity()


growth = growing(**{settings!r})
if {entropy!r}:
    trigger = EntropySaturation(window=2, minimum=2, variance=1.0, level=0.0)
    growth = StructuralGrowth([trigger, FixedInterval(1)], min_epochs_between=1, operations=["widen"])
gradients, module = Gradients(), NoNorm(**{hparams!r})
trainer = Trainer(
    max_epochs={epochs}, accelerator="cpu", devices=2, strategy=DDPStrategy(**{ddp!r}), callbacks=[gradients, growth],
    default_root_dir={directory!r}, enable_checkpointing=False, **QUIET,
)
data = images()
trainer.fit(module, data, images(1), ckpt_path={ckpt!r})
if {save!r}:
    trainer.save_checkpoint({save!r})
torch.save(
    {{
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "history": growth.history,
        "entropies": growth._records.entropies,
        "gradients": gradients.seen,
        "wrapped": gradients.wrapped,
        "own": [batch[0] for batch in trainer.train_dataloader][0],
    }},
    f"{out}{{trainer.global_rank}}.pt",
)
"""


def run(directory, settings=None, hparams=None, ddp=None, epochs=4, entropy=False, ckpt="", save="", name="rank"):
    """Train in two processes; what each ends with."""
    script = directory / f"{name}.py"
    script.write_text(
        SCRIPT.format(
            paths=[str(HERE), str(HERE.parent)],
            settings=settings or {},
            hparams=hparams or {},
            ddp=ddp or {},
            epochs=epochs,
            entropy=entropy,
            directory=str(directory),
            ckpt=str(ckpt) if ckpt else None,
            save=str(save) if save else "",
            out=str(directory / name),
        )
    )
    clean = {key: value for key, value in os.environ.items() if key not in _LAUNCHERS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**clean, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=directory, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(directory / f"{name}{rank}.pt", weights_only=False) for rank in (0, 1)]


def check_alike(first, second):
    assert first["history"] == second["history"]
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    states = first["optimizer"]["state"], second["optimizer"]["state"]
    assert states[0].keys() == states[1].keys()
    for number, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(states[1][number][k])) for k, v in state.items())


@pytest.mark.slow
def test_ranks_are_identical_after_growth_and_average_the_gradients_of_what_is_new(tmp_path):
    first, second = run(tmp_path, {"operations": ["widen", "insert"], "layers_per_step": 2})
    assert not torch.equal(first["own"], second["own"]), "each rank sees its own data"
    assert [one["operation"] for one in first["history"]] == ["widen"] * 2 + ["insert"] * 2 + ["widen"] * 2
    assert len(first["weights"]) > 10
    check_alike(first, second)
    compared = 0
    for (mine, used), (theirs, others) in zip(first["gradients"], second["gradients"], strict=True):
        # Batch normalisations of inserted layers aside: what their forward pass before did to them doesn't show in training.
        for name, gradient in used.items():
            assert torch.equal(gradient, others[name])
            assert torch.allclose(gradient, (mine[name] + theirs[name]) / 2, atol=1e-6), name
            compared += 1
        assert any(not torch.allclose(mine[name], theirs[name], atol=1e-4) for name in mine)
    assert compared > 30
    assert set(first["wrapped"] + second["wrapped"]) == {1}, "the old wrapper, with its hooks, is gone"


@pytest.mark.slow
def test_gradmax_static_graph_and_another_rate_leave_ranks_identical(tmp_path):
    settings = {"operations": ["widen", "residual"], "new_units": "gradmax", "rate": 0.5}
    options = {"static_graph": True, "gradient_as_bucket_view": True}
    first, second = run(tmp_path, settings, {"schedule": "cosine"}, options)
    assert [one["operation"] for one in first["history"]] == ["widen", "residual", "widen"]
    check_alike(first, second)


@pytest.mark.slow
def test_entropy_is_the_mean_over_ranks_and_a_run_resumes_in_both(tmp_path):
    whole = run(tmp_path, entropy=True, name="whole", epochs=5)
    check_alike(*whole)
    assert whole[0]["history"]
    assert whole[0]["entropies"] == whole[1]["entropies"]
    run(tmp_path, entropy=True, name="half", epochs=3, save=tmp_path / "half.ckpt")
    resumed = run(tmp_path, entropy=True, name="resumed", epochs=5, ckpt=tmp_path / "half.ckpt")
    check_alike(*resumed)
    check_alike(resumed[0], whole[0])
