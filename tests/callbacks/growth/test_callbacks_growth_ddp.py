"""A network that grows under DDP is the same in all ranks: its structure, its weights, what optimizers know of them."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from callbacks_growing import QUIET, ConvNet, growing, images
from forked import run_ranks
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth
from lightning_evo.callbacks.growth.triggers import EntropySaturation, FixedInterval


class Gradients(Callback):
    """What the first step after growth trains with: this rank's data alone, and what the step really took."""

    def __init__(self):
        self.seen, self.wrapped = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch and batch_idx == 0:
            inputs, labels = batch
            loss = nn.functional.cross_entropy(pl_module.body(inputs), labels)
            names = [name for name, _ in pl_module.named_parameters()]
            self.own = dict(zip(names, torch.autograd.grad(loss, list(pl_module.parameters())), strict=True))
            gc.collect()
            self.wrapped.append(sum(isinstance(one, DistributedDataParallel) for one in gc.get_objects()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.current_epoch and trainer.fit_loop.epoch_loop.batch_idx == 0:
            used = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
            self.seen.append((self.own, used))


class NoNorm(ConvNet):
    """Batch statistics would make a rank's gradient depend on when it is taken."""

    def __init__(self, **hparams):
        super().__init__(**hparams)
        self.body[1] = nn.Identity()


def train(directory, name, settings, hparams, ddp, epochs, entropy, ckpt, save):
    """One rank's training; what it ends with is saved under ``name`` and its rank."""
    torch.set_num_threads(1)
    torch.manual_seed(100 + int(os.environ["LOCAL_RANK"]))  # differently, but for what Lightning does about it
    gc.freeze()  # what was there before is no wrapper, and looking through all of it takes seconds
    growth = growing(**settings)
    if entropy:
        trigger = EntropySaturation(window=2, minimum=2, variance=1.0, level=0.0)
        growth = StructuralGrowth([trigger, FixedInterval(1)], min_epochs_between=1, operations=["widen"])
    gradients, module = Gradients(), NoNorm(**hparams)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(**ddp),
        callbacks=[gradients, growth],
        default_root_dir=directory,
        enable_checkpointing=False,
        **QUIET,
    )
    trainer.fit(module, images(), images(1), ckpt_path=ckpt)
    if save:
        trainer.save_checkpoint(save)
    torch.save(
        {
            "weights": module.state_dict(),
            "optimizer": trainer.optimizers[0].state_dict(),
            "history": growth.history,
            "entropies": growth._records.entropies,
            "gradients": gradients.seen,
            "wrapped": gradients.wrapped,
            "own": next(iter(trainer.train_dataloader))[0],
        },
        directory / f"{name}{trainer.global_rank}.pt",
    )


def run(directory, settings=None, hparams=None, ddp=None, epochs=4, entropy=False, ckpt=None, save=None, name="rank"):
    """Train in two processes; what each ends with."""
    run_ranks(2, train, directory, name, settings or {}, hparams or {}, ddp or {}, epochs, entropy, ckpt, save)
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
        # Batch normalizations of inserted layers aside: what their forward pass before did to them doesn't show in training.
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
