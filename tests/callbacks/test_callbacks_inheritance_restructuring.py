"""A training goes on in a network of another structure: weights and moments fitted, everything else as it was."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from lightning_evo.callbacks import Continuation, WeightInheritance
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.genome import Objective, Segment
from toys import ToyData, ToyNet


class Scheduled(ToyNet):
    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


def train(kind, directory, segment, parent=None, **shape):
    """Train a segment of a network; returns the Trainer and the callback that inherits."""
    inherited = None if parent is None else Inherited(0, str(parent), 0)
    context = SearchContext(1, 3, (Objective("val_acc"),), directory=str(directory), parent=inherited, segment=segment)
    callbacks = [Continuation(), WeightInheritance()]
    for callback in callbacks:
        callback.join_search(context)
    directory.mkdir()
    seed_everything(1, verbose=False)
    trainer = Trainer(
        max_epochs=6,
        accelerator="cpu",
        callbacks=callbacks,
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(kind(**shape), ToyData(), ckpt_path=callbacks[0].resume_from)
    return trainer, callbacks[1]


@pytest.fixture
def parent(tmp_path):
    train(Scheduled, tmp_path / "parent", Segment(0, 2), width=4, depth=2)
    return tmp_path / "parent" / "checkpoint.ckpt"


class Watches(Scheduled):
    """Notes what it is before its first step."""

    def on_train_start(self):
        optimizer = self.optimizers()
        self.before = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.rate = optimizer.param_groups[0]["lr"]
        self.moments = optimizer.state[self.net[0].weight]["exp_avg"].clone()
        self.began = self.trainer.current_epoch


def test_weights_moments_and_the_place_in_the_schedule_go_on_in_a_wider_and_deeper_network(parent, tmp_path):
    saved = torch.load(parent, weights_only=True)
    trainer, inheriting = train(Watches, tmp_path / "child", Segment(2, 4), parent, width=6, depth=3)
    child = trainer.lightning_module
    points = torch.randn(64, 2)
    old = ToyNet(width=4, depth=2)
    old.load_state_dict(saved["state_dict"])
    new = ToyNet(width=6, depth=3)
    new.load_state_dict(child.before)
    torch.testing.assert_close(new(points), old(points), rtol=0, atol=1e-5)
    moments = saved["optimizer_states"][0]["state"][0]["exp_avg"]
    assert torch.equal(child.moments[:4], moments)
    assert not child.moments[4:].any()
    assert child.rate == pytest.approx(0.1 * 0.5**2)
    assert (child.began, trainer.current_epoch) == (2, 4)
    record = inheriting.extra["inheritance"]
    assert record["from"] == 0
    assert record["sliced"]
    assert record["identity"]
    assert record["optimizer"] == "kept"
    assert torch.load(tmp_path / "child" / "checkpoint.ckpt", weights_only=True)["epoch"] == 4


def test_where_the_structure_is_the_same_the_training_goes_on_exactly(parent, tmp_path):
    whole, _ = train(Scheduled, tmp_path / "whole", Segment(0, 4), width=4, depth=2)
    parts, inheriting = train(Scheduled, tmp_path / "child", Segment(2, 4), parent, width=4, depth=2)
    pairs = zip(whole.lightning_module.parameters(), parts.lightning_module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert inheriting.extra == {}


def test_where_the_checkpoint_has_vanished_the_training_begins_anew(tmp_path):
    trainer, inheriting = train(Scheduled, tmp_path / "child", Segment(2, 4), tmp_path / "nowhere.ckpt")
    assert trainer.current_epoch == 4
    assert inheriting.extra == {}
