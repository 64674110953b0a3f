"""A training that starts from a parent's weights: in a Trainer, in a search, resumed, and when there is no parent left."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from lightning_evo.callbacks.inheritance import WeightInheritance
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.genome import Objective, Segment
from toys import ToyData, ToyNet

POINTS = torch.randn(16, 2, generator=torch.Generator().manual_seed(3))


class AdamNet(ToyNet):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Watched(AdamNet):
    """Remembers what it computes, and its optimizer's state, as training begins."""

    def on_train_start(self):
        with torch.no_grad():
            self.at_start = self(POINTS).clone()
        self.group = dict(self.trainer.optimizers[0].param_groups[0])
        self.moments = {
            name: {key: value.clone() for key, value in self.trainer.optimizers[0].state[parameter].items()}
            for name, parameter in self.named_parameters()
            if self.trainer.optimizers[0].state[parameter]
        }


def fit(model, tmp_path, callback=None, epochs=1, ckpt_path=None):
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback] if callback is not None else [],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ToyData(), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture
def parent(tmp_path):
    """A trained net and its checkpoint."""
    seed_everything(1)
    net = AdamNet(width=4, lr=0.05)
    fit(net, tmp_path, WeightInheritance(), epochs=2).save_checkpoint(tmp_path / "parent.ckpt")
    return net, str(tmp_path / "parent.ckpt")


def scores(net):
    with torch.no_grad():
        return net(POINTS)


def test_a_wider_and_deeper_child_begins_where_its_parent_ended(parent, tmp_path):
    net, checkpoint = parent
    child, callback = Watched(width=6, depth=2), WeightInheritance(checkpoint)
    fit(child, tmp_path, callback)
    assert torch.allclose(child.at_start, scores(net), atol=1e-5)
    assert callback.inheritance["preserving"]
    assert callback.inheritance["copied"] == ["net.4.bias"]
    assert callback.inheritance["sliced"] == ["net.0.weight", "net.0.bias", "net.4.weight"]
    assert callback.inheritance["identity"] == ["net.2.weight", "net.2.bias"]
    assert callback.inheritance["fresh"] == []
    assert not torch.allclose(scores(child), child.at_start)  # it went on learning


def test_another_activation_is_found_out_though_no_weight_tells(parent, tmp_path):
    callback = WeightInheritance(parent[1])
    fit(AdamNet(activation="tanh"), tmp_path, callback)
    assert len(callback.inheritance["copied"]) == 4
    assert not callback.inheritance["preserving"]
    assert callback.inheritance["why_not"][0].startswith("what lies between the layers differs")


def test_a_checkpoint_of_a_training_without_the_callback_will_do(parent, tmp_path):
    fit(parent[0], tmp_path).save_checkpoint(tmp_path / "plain.ckpt")
    child, callback = Watched(width=6), WeightInheritance(str(tmp_path / "plain.ckpt"))
    fit(child, tmp_path, callback)
    assert torch.allclose(child.at_start, scores(parent[0]), atol=1e-5)
    assert callback.inheritance["why_not"] == ["what lies between the parent's layers isn't known"]


def test_the_childs_own_hyperparameters_win_over_those_of_the_checkpoint(parent, tmp_path):
    child = Watched(lr=0.01)
    trainer = fit(child, tmp_path, WeightInheritance(parent[1], optimizer=True))
    assert child.group["lr"] == child.hparams.lr == 0.01
    assert trainer.current_epoch == 1


def test_moments_are_kept_only_where_they_are_asked_for(parent, tmp_path):
    saved = torch.load(parent[1], weights_only=True)["optimizer_states"][0]["state"]
    without, with_moments = Watched(), Watched()
    fit(without, tmp_path, WeightInheritance(parent[1]))
    callback = WeightInheritance(parent[1], optimizer=True)
    fit(with_moments, tmp_path, callback)
    assert without.moments == {}
    assert callback.inheritance["optimizer"] == "kept"
    for number, name in enumerate(["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]):
        assert torch.equal(with_moments.moments[name]["exp_avg"], saved[number]["exp_avg"])
        assert with_moments.moments[name]["step"] == saved[number]["step"]


def test_another_optimizers_state_is_left_and_said_so(parent, tmp_path):
    class Momentum(ToyNet):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    callback = WeightInheritance(parent[1], optimizer=True)
    with pytest.warns(UserWarning, match="SGD keeps momentum_buffer; the parent's optimizer kept exp_avg"):
        fit(Momentum(), tmp_path, callback)
    assert callback.inheritance["optimizer"].startswith("fresh: SGD keeps momentum_buffer")
    assert len(callback.inheritance["copied"]) == 4


def test_a_run_that_is_resumed_inherits_nothing_again(parent, tmp_path):
    callback, child = WeightInheritance(parent[1]), Watched(width=6)
    fit(child, tmp_path, callback).save_checkpoint(tmp_path / "child.ckpt")
    trained = scores(child)
    again, second = WeightInheritance(parent[1]), Watched(width=6)
    fit(second, tmp_path, again, epochs=2, ckpt_path=tmp_path / "child.ckpt")
    assert torch.allclose(second.at_start, trained)
    assert again.inheritance == callback.inheritance


def test_a_run_resumed_from_a_checkpoint_without_the_callback_inherits_nothing(parent, tmp_path):
    child = Watched(width=6)
    fit(child, tmp_path).save_checkpoint(tmp_path / "child.ckpt")
    callback, second = WeightInheritance(parent[1]), Watched(width=6)
    fit(second, tmp_path, callback, epochs=2, ckpt_path=tmp_path / "child.ckpt")
    assert torch.allclose(second.at_start, scores(child))
    assert callback.inheritance == {}


class Foreign:
    """Something that only trusted checkpoints may hold."""


def vanished(path):
    return path + ".gone", "does not exist"


def truncated(path):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])
    return path, "cannot be read"


def emptied(path):
    Path(path).write_bytes(b"")
    return path, "cannot be read"


def no_checkpoint(path):
    torch.save({"weights": {}}, path)
    return path, "it has no state_dict"


def untrusted(path):
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "foreign": Foreign()}, path)
    return path, "holds more than tensors and plain data"


def other_family(path):
    torch.save({"state_dict": nn.Conv2d(3, 4, 3).state_dict(prefix="net.")}, path)
    return path, "no layer of the child matches"


@pytest.mark.parametrize("spoil", [vanished, truncated, emptied, no_checkpoint, untrusted, other_family])
def test_without_a_usable_checkpoint_it_trains_from_scratch_says_so_once_and_records_why(spoil, parent, tmp_path):
    path, reason = spoil(parent[1])
    seed_everything(4)
    fresh = Watched()
    fit(fresh, tmp_path)
    seed_everything(4)
    child, callback = Watched(), WeightInheritance(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(child, tmp_path, callback)
    said = [str(one.message) for one in caught if "WeightInheritance" in str(one.message)]
    assert len(said) == 1
    assert reason in said[0]
    assert reason in callback.inheritance["why"]
    assert callback.inheritance["copied"] == []
    assert callback.inheritance["fresh"] == list(child.state_dict())
    assert torch.equal(child.at_start, fresh.at_start)


def context(parent, segment=None):
    return SearchContext(7, 3, (Objective("val_acc"),), parent=parent, segment=segment)


def test_in_a_search_the_search_says_whose_weights_and_gets_a_record(parent, tmp_path):
    net, checkpoint = parent
    callback, child = WeightInheritance(), Watched(width=6)
    callback.join_search(context(Inherited(2, checkpoint, asked=5, why="the checkpoint of 5 is gone")))
    fit(child, tmp_path, callback)
    record = callback.extra["inheritance"]
    assert (record["from"], record["asked"], record["why"]) == (2, 5, "the checkpoint of 5 is gone")
    assert json.loads(json.dumps(record)) == record
    assert torch.allclose(child.at_start, scores(net), atol=1e-5)


@pytest.mark.parametrize("own", [True, False])
def test_a_search_trusts_its_own_checkpoints_and_no_others(parent, tmp_path, own):
    path, _ = untrusted(parent[1])
    callback = WeightInheritance()
    callback.join_search(context(Inherited(2, path, asked=2, trusted=own)))
    fit(Watched(), tmp_path, callback)
    assert len(callback.extra["inheritance"]["copied"]) == 4 * own


def test_a_candidate_without_a_parent_has_nothing_to_record(tmp_path):
    callback = WeightInheritance()
    callback.join_search(context(None))
    fit(Watched(), tmp_path, callback)
    assert callback.extra == {}


def test_a_later_segment_of_a_population_continues_its_own_state(parent, tmp_path):
    callback = WeightInheritance()
    callback.join_search(context(Inherited(2, parent[1], asked=2), Segment(2, 4)))
    fit(Watched(), tmp_path, callback)
    assert callback.extra == {}


def test_a_subclass_decides_what_inherits(parent, tmp_path):
    class Body(WeightInheritance):
        def should_inherit(self, name, pl_module):
            return not name.startswith("net.2.")

    callback, child = Body(parent[1]), Watched()
    fit(child, tmp_path, callback)
    assert callback.inheritance["copied"] == ["net.0.weight", "net.0.bias"]
    assert callback.inheritance["fresh"] == ["net.2.weight", "net.2.bias"]
    assert not callback.inheritance["preserving"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_units": "random"}, "new_units: 'random' is not 'zero' or 'net2wider'"),
        ({"spread": 1.0}, r"spread: 1.0 is not in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeightInheritance(**arguments)


def train_rank(checkpoint, directory):
    """One rank's training of a child; what it began and ended with is saved."""
    torch.manual_seed(100 + int(os.environ["LOCAL_RANK"]))  # the processes are seeded differently
    child, callback = Watched(width=6, depth=2), WeightInheritance(checkpoint, optimizer=True)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(child, ToyData())
    torch.save([child.at_start, child.state_dict(), callback.inheritance], directory / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_inherit_the_same(parent, tmp_path):
    run_ranks(2, train_rank, parent[1], tmp_path)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.allclose(first[0], scores(parent[0]), atol=1e-5)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])
    assert first[2] == second[2]
    assert first[2]["optimizer"] == "kept"


class Body(nn.Sequential):
    """A backbone."""


class Other(nn.Sequential):
    """Another one, of the same layers."""


class Backbone(Watched):
    """Comes with trained weights where it is told to, as a network of a model zoo does."""

    def __init__(self, width=4, kind="Body", pretrained=0.0):
        super().__init__()
        self.net = {"Body": Body, "Other": Other}[kind](
            nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2)
        )
        if pretrained:
            self.net[1].running_mean += pretrained
            nn.init.constant_(self.net[0].weight, pretrained)
        self.began = self.net[0].weight.detach().clone()


@pytest.mark.parametrize(
    ("parents", "childs", "reason"),
    [
        ({}, {}, ""),
        ({}, {"width": 6}, ""),
        ({}, {"kind": "Other"}, "its backbone is test_callbacks_inheritance.Other"),
        ({"pretrained": 1.0}, {}, ""),
        ({"pretrained": 1.0}, {"pretrained": 1.0}, ""),
        ({"pretrained": 1.0}, {"pretrained": 1.0, "width": 6}, "don't have the shapes of the parent's"),
        ({}, {"pretrained": 1.0}, "better than weights that began from scratch"),
    ],
)
def test_a_family_inherits_and_pretrained_weights_are_left_alone(parents, childs, reason, tmp_path):
    parent = Backbone(**parents)
    fit(parent, tmp_path, WeightInheritance()).save_checkpoint(tmp_path / "parent.ckpt")
    child, callback = Backbone(**childs), WeightInheritance(str(tmp_path / "parent.ckpt"))
    fit(child, tmp_path, callback, epochs=0)
    assert reason in callback.inheritance["why"]
    assert bool(callback.inheritance["copied"]) != bool(reason)
    assert torch.equal(child.net[0].weight, child.began) == bool(reason)
    if "backbone" in reason:
        asked = WeightInheritance(str(tmp_path / "parent.ckpt"), cross_architecture=True)
        fit(child, tmp_path, asked, epochs=0)
        assert asked.inheritance["copied"]


def test_a_network_without_normalizations_is_pretrained_if_its_arguments_say_so(tmp_path):
    for arguments, pretrained in (
        ({"backbone": {"init_args": {"weights": "DEFAULT"}}}, True),
        ({"pretrained": True}, True),
        ({"pretrained": False, "weights": None, "class_weights": "x", "freeze": True}, False),
    ):
        module, callback = Watched(), WeightInheritance()
        module.save_hyperparameters(arguments)
        fit(module, tmp_path, callback, epochs=0)
        assert bool(callback.state_dict()["family"]["pretrained"]) == pretrained
