"""Every callback survives saving and resuming: a run in two parts ends as a run in one."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from lightning_evo import callbacks
from lightning_evo.callbacks import (
    Continuation,
    CostMeter,
    EarlyFitnessPrediction,
    FastTraining,
    FitnessRecorder,
    HyperparameterSchedule,
    SpeedMeter,
    StructuralGrowth,
    SwarmAveraging,
    WeightInheritance,
)
from lightning_evo.callbacks.growth.triggers import FixedInterval
from lightning_evo.swarms import ParticleStack
from toys import ToyData, ToyNet


def parent_checkpoint(directory):
    """The checkpoint of a narrower network, from which both runs inherit."""
    path = directory.parent / "parent.ckpt"
    if not path.exists():
        torch.save({"state_dict": ToyNet(width=3).state_dict()}, path)
    return str(path)


# One entry per public callback: how it is made, and what of it must come out the same.
SETTINGS = {
    Continuation: (
        lambda directory: Continuation(directory=str(directory)),
        lambda continuation: (continuation.changed, continuation.settings, continuation.checkpoint_path.name),
    ),
    CostMeter: (
        lambda directory: CostMeter(),
        lambda meter: {k: meter.cost[k] for k in ("params", "flops", "training_flops", "epochs")},
    ),
    EarlyFitnessPrediction: (
        lambda directory: EarlyFitnessPrediction(monitor="val_loss", mode="min", bar=0.5),
        lambda prediction: (prediction.extra, prediction.predicted_fitness, prediction.state_dict()),
    ),
    FastTraining: (
        lambda directory: FastTraining(),
        # Whether compiling pays is the clock's to say.
        lambda fast: {name: choice for name, choice in fast.choices.items() if name != "compile"},
    ),
    FitnessRecorder: (
        lambda directory: FitnessRecorder("val_loss", mode="min", directory=str(directory)),
        lambda recorder: (recorder.curve, recorder.best_index, recorder.point),
    ),
    HyperparameterSchedule: (
        lambda directory: HyperparameterSchedule({1: {"model.init_args.lr": 0.05}, 3: {"model.init_args.lr": 0.01}}),
        lambda schedule: (schedule.settings, schedule.state_dict()),
    ),
    SpeedMeter: (
        lambda directory: SpeedMeter(),
        # All samples seen, of which each fit's first batch counts apart; how long they took is the clock's.
        lambda meter: (meter.totals["samples"] + meter.totals["first_samples"], sorted(meter.cost)),
    ),
    StructuralGrowth: (
        lambda directory: StructuralGrowth(
            FixedInterval(1), min_epochs_between=1, layers_per_step=2, monitor="val_loss"
        ),
        lambda growth: (growth.history, growth.extra, {**growth.state_dict()["records"], "train_metric": None}),
    ),
    SwarmAveraging: (
        lambda directory: SwarmAveraging("pso", subset=2, every_n_steps=3, soup="greedy", keep="if_not_worse"),
        lambda averaging: (averaging.extra, averaging.averagings, averaging.rejected),
    ),
    WeightInheritance: (
        lambda directory: WeightInheritance(parent_checkpoint(directory)),
        lambda inheriting: inheriting.inheritance,
    ),
}


EPOCHS = 4


class Interrupts(Callback):
    """Ends a training of :data:`EPOCHS` after so many."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 == self.epochs


def model_for(callback):
    """What it works on: one module, or several."""
    return ParticleStack(ToyNet, size=3, lowering="loop") if isinstance(callback, SwarmAveraging) else ToyNet()


def fit(callback, directory, epochs=EPOCHS, ckpt_path=None):
    seed_everything(1)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[Interrupts(epochs), callback],
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=isinstance(callback, FitnessRecorder),
    )
    # Batches in a fixed order, so that the two parts see what the whole sees.
    data = ToyData()
    trainer.fit(model_for(callback), data.val_dataloader(), data.val_dataloader(), ckpt_path=ckpt_path)
    return trainer


def test_every_public_callback_is_in_the_resume_test():
    public = {getattr(callbacks, name) for name in callbacks.__all__}
    assert public == set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_a_resumed_run_leaves_the_callback_as_an_uninterrupted_one_does(kind, tmp_path):
    make, outcome = SETTINGS[kind]
    whole = make(tmp_path / "whole")
    reference = fit(whole, tmp_path / "whole")

    first = make(tmp_path / "parts")
    fit(first, tmp_path / "parts", epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = make(tmp_path / "parts")
    resumed = fit(second, tmp_path / "parts", ckpt_path=tmp_path / "half.ckpt")

    assert outcome(second) == outcome(whole)
    for name, parameter in reference.model.state_dict().items():
        assert torch.equal(parameter, resumed.model.state_dict()[name])
