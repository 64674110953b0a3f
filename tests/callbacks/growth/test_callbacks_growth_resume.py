"""A training in which the network grows may end at any moment: it goes on as if it hadn't."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch
from callbacks_growing import ConvNet, fit, growing, images, net
from comparing import same
from forked import Forked
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_evo.callbacks.continuation import Continuation
from lightning_evo.callbacks.growth.recipe import recipe_of
from lightning_evo.callbacks.growth.structural_growth import StructuralGrowth
from lightning_evo.callbacks.growth.triggers import EntropySaturation, FixedInterval
from lightning_evo.functional.growth import GrowthError


def ended(trainer):
    """Everything that a training ends with."""
    return {
        "weights": trainer.lightning_module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "names": [
            [[name for name, p in trainer.lightning_module.named_parameters() if p is one] for one in group["params"]]
            for optimizer in trainer.optimizers
            for group in optimizer.param_groups
        ],
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "growth": trainer.callbacks[-1].history,
    }


SETTINGS = {
    "adam": ({}, {}),
    "sgd and a cosine": ({"optimizer": "sgd", "schedule": "cosine"}, {}),
    "groups and a cycle": ({"optimizer": "groups", "schedule": "onecycle"}, {"operations": ["insert", "widen"]}),
    "a rate of their own": ({"optimizer": "groups", "schedule": "cosine"}, {"rate": 0.5, "operations": ["insert"]}),
    "all operations": ({}, {"operations": ["residual", "kernel", "prune", "activation", "insert"]}),
    "gradmax": ({}, {"operations": ["widen"], "new_units": "gradmax"}),
    "two at a time": ({}, {"layers_per_step": 2, "expand_ratio": 1.0}),
    "entropy": (
        {},
        {"triggers": EntropySaturation(window=2, minimum=2, variance=1.0, level=0.0), "operations": ["widen"]},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("until", [1, 3])
def test_a_training_in_two_parts_ends_as_one(case, until, tmp_path):
    hparams, settings = SETTINGS[case]
    whole = ended(fit(net(**hparams), tmp_path, [growing(**copy.deepcopy(settings))], epochs=5))
    assert whole["growth"]

    first = fit(net(**hparams), tmp_path, [growing(**copy.deepcopy(settings))], epochs=5, until=until)
    first.save_checkpoint(tmp_path / "half.ckpt")
    second = growing(**copy.deepcopy(settings))
    resumed = fit(net(**hparams), tmp_path, [second], epochs=5, ckpt_path=tmp_path / "half.ckpt")
    for name, value in ended(resumed).items():
        assert same(value, whole[name]), name


@pytest.mark.parametrize("on_validation", [False, True])
def test_checkpoints_written_by_modelcheckpoint_resume_too(on_validation, tmp_path):
    def checkpoints(name):
        options = {"save_on_train_epoch_end": not on_validation, "save_top_k": -1, "filename": "{epoch}"}
        return ModelCheckpoint(tmp_path / name, **options)

    def trained(name, **options):
        callbacks = [growing(), checkpoints(name)]
        trainer = fit(net(), tmp_path, callbacks, enable_checkpointing=True, **options)
        return trainer.lightning_module.state_dict(), callbacks[0].history, callbacks[0]._records.metric

    whole = trained("whole")
    resumed = trained("resumed", ckpt_path=tmp_path / "whole" / "epoch=1.ckpt")
    assert same(resumed[0], whole[0])
    assert same(resumed[1:], whole[1:])


def test_steps_asked_for_before_training_are_not_repeated_on_top(tmp_path):
    def growth():
        return growing(initial=[{"operation": "widen", "place": 0.0, "ratio": 2.0}], operations=["insert"])

    whole = ended(fit(net(), tmp_path, [growth()]))
    assert [(one["epoch"], one["source"]) for one in whole["growth"]][:2] == [(None, "initial"), (1, "trigger")]
    fit(net(), tmp_path, [growth()], until=2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = ended(fit(net(), tmp_path, [growth()], ckpt_path=tmp_path / "half.ckpt"))
    for name, value in resumed.items():
        assert same(value, whole[name]), name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_segments_of_a_continued_training_equal_the_whole(dropout, tmp_path):
    def run(name, end=None, ckpt_path=None):
        growth = growing(operations=["insert", "widen"])
        callbacks = [Continuation(end=end, directory=str(tmp_path / name)), growth]
        trainer = fit(net(dropout=dropout), tmp_path, callbacks, epochs=5, ckpt_path=ckpt_path)
        return ended(trainer)

    whole = run("whole")
    run("first", end=2)
    rest = run("rest", ckpt_path=tmp_path / "first" / "state.ckpt")
    assert len(whole["growth"]) == 4
    for name, value in rest.items():
        assert same(value, whole[name]), name


class Dies(Callback):
    """Is killed in the middle of the fourth epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 3 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def train(optimizer, directory, out, dies, ckpt_path):
    """A training in a process of its own, which saves what it ends with."""
    torch.set_num_threads(1)
    growth, saving = growing(), ModelCheckpoint(directory, save_last=True)
    module = net(optimizer=optimizer, schedule="cosine")
    callbacks = [growth, saving, *([Dies()] if dies else [])]
    trainer = fit(module, directory, callbacks, epochs=5, ckpt_path=ckpt_path, enable_checkpointing=True)
    torch.save([module.state_dict(), trainer.optimizers[0].state_dict(), growth.history], out)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_killed_training_resumes_bit_for_bit(optimizer, tmp_path):
    def run(name, dies=False, ckpt=None):
        out = tmp_path / f"{name}.pt"
        with Forked(train, optimizer, tmp_path / name, out, dies, ckpt) as process:
            assert process.wait() == (-signal.SIGKILL if dies else 0), process.output
        return torch.load(out, weights_only=False) if out.exists() else None

    whole = run("whole")
    assert run("killed", dies=True) is None
    last = tmp_path / "killed" / "last.ckpt"
    assert len(torch.load(last, weights_only=True)["grown"]["steps"]) == 2
    resumed = run("resumed", ckpt=last)
    assert len(whole[2]) == 4
    assert same(resumed, whole)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_recipe_weights_alone_or_not(tmp_path):
    trainer = fit(net(), tmp_path, [growing()])
    for weights_only in (False, True):
        trainer.save_checkpoint(tmp_path / "end.ckpt", weights_only=weights_only)
        held = torch.load(tmp_path / "end.ckpt", weights_only=True)["grown"]
        assert held["version"] == 1
        assert held["class_path"] == "callbacks_growing.ConvNet"
        assert [step["operation"] for step in held["steps"]] == ["widen", "insert", "widen"]
        assert len(held["parameters"]) == 4
        assert held["parameters"][-1] == sum(p.numel() for p in trainer.lightning_module.parameters())
        assert held["parameters"] == sorted(set(held["parameters"]))


def test_a_network_that_has_not_grown_has_no_recipe(tmp_path):
    trainer = fit(net(), tmp_path, [StructuralGrowth(FixedInterval(9))], epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert "grown" not in torch.load(tmp_path / "end.ckpt", weights_only=True)


def test_checkpoints_can_be_read_without_unpickling_foreign_objects(tmp_path):
    fit(net(), tmp_path, [growing(operations=["insert"], new_units="gradmax")]).save_checkpoint(tmp_path / "end.ckpt")
    assert torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]


@pytest.mark.parametrize("fresh", [False, True])
def test_an_earlier_and_smaller_network_is_tested_after_training(fresh, tmp_path):
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}", save_on_train_epoch_end=True)
    module, growth = net(), growing()
    trainer = fit(module, tmp_path, [growth, saving], enable_checkpointing=True)
    at_end = {name: value.clone() for name, value in module.state_dict().items()}
    if fresh:
        module = net()
        trainer = Trainer(accelerator="cpu", callbacks=[growing()], logger=False, enable_progress_bar=False)
    losses = []
    for epoch in (0, 3, 1, 2):
        path = tmp_path / f"epoch={epoch}.ckpt"
        (metrics,) = trainer.test(module, images(1), ckpt_path=path, verbose=False)
        losses.append(metrics["test_loss"])
        assert len(recipe_of(module).steps) == epoch
        assert same(dict(module.state_dict()), dict(torch.load(path, weights_only=True)["state_dict"]))
    assert len(set(losses)) == 4
    trainer.test(module, images(1), ckpt_path=tmp_path / "epoch=3.ckpt", verbose=False)
    assert same(dict(module.state_dict()), at_end)
    assert "on_load_checkpoint" not in vars(module)


def test_predicting_and_validating_repeat_the_growth_too(tmp_path):
    trained = fit(net(), tmp_path, [growing()])
    trained.save_checkpoint(tmp_path / "end.ckpt")
    trainer = Trainer(accelerator="cpu", callbacks=[growing()], logger=False, enable_progress_bar=False)
    (metrics,) = trainer.validate(net(), images(1), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert metrics["val_loss"] == pytest.approx(float(trained.callback_metrics["val_loss"]))


def test_training_goes_on_with_a_module_that_has_grown(tmp_path):
    module = net()
    fit(module, tmp_path, [growing()], epochs=3)
    again = growing()
    trainer = fit(module, tmp_path, [again], epochs=2)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert len(again.history) == 1
    assert len(torch.load(tmp_path / "end.ckpt", weights_only=True)["grown"]["steps"]) == 3
    (metrics,) = Trainer(accelerator="cpu", callbacks=[growing()], logger=False, enable_progress_bar=False).test(
        net(), images(1), ckpt_path=tmp_path / "end.ckpt", verbose=False
    )
    assert metrics["test_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-5)


def test_a_copy_of_a_grown_module_is_a_grown_module_of_its_own(tmp_path):
    module = net()
    trainer = fit(module, tmp_path, [growing()], epochs=2)
    copied = copy.deepcopy(module)
    copied._trainer = None
    checkpoint = {}
    copied.on_save_checkpoint(checkpoint)
    assert len(checkpoint["grown"]["steps"]) == 1
    assert trainer.lightning_module is module


class Other(ConvNet):
    """Has other layers."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))


def test_a_checkpoint_whose_growth_does_not_fit_the_module_is_refused(tmp_path):
    fit(net(), tmp_path, [growing()], epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    with pytest.raises(GrowthError, match="the checkpoint's growth can't be repeated in Other"):
        fit(net(Other), tmp_path, [growing()], ckpt_path=tmp_path / "end.ckpt")


def test_the_users_own_hooks_for_checkpoints_are_called(tmp_path):
    class Own(ConvNet):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["own"] = len(recipe_of(self).steps)

        def on_load_checkpoint(self, checkpoint):
            self.loaded = checkpoint["own"]

    fit(net(Own), tmp_path, [growing()], epochs=3).save_checkpoint(tmp_path / "end.ckpt")
    module = net(Own)
    fit(module, tmp_path, [growing()], ckpt_path=tmp_path / "end.ckpt")
    assert module.loaded == 2
