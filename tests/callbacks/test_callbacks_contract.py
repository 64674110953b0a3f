"""The contract of all callbacks, one row each: working alone, pickled, saved and resumed, and cleaning up after errors."""

from __future__ import annotations

import json
import pickle

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
    """The checkpoint of a narrower network, always the same, from which runs inherit."""
    path = directory / "parent.ckpt"
    path.parent.mkdir(exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
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


def fit(callback, directory, epochs=EPOCHS, ckpt_path=None, module=None, others=()):
    seed_everything(1)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[Interrupts(epochs), callback, *others],
        default_root_dir=directory,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=isinstance(callback, FitnessRecorder),
    )
    # Batches in a fixed order, so that the two parts see what the whole sees.
    data = ToyData()
    trainer.fit(module or model_for(callback), data.val_dataloader(), data.val_dataloader(), ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """For a kind of callback one that was there in an uninterrupted training without a search, and the weights."""
    directory, done = tmp_path_factory.mktemp("whole"), {}

    def of(kind):
        if kind not in done:
            callback = SETTINGS[kind][0](directory / kind.__name__)
            done[kind] = callback, fit(callback, directory / kind.__name__).model.state_dict()
        return done[kind]

    return of


def test_every_public_callback_is_in_the_table():
    assert {getattr(callbacks, name) for name in callbacks.__all__} == set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_alone_in_a_trainer_it_reports_plain_data(kind, reference):
    callback, _ = reference(kind)
    extra = dict(getattr(callback, "extra", {}))
    assert json.loads(json.dumps(extra)) == extra


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_a_resumed_run_leaves_the_callback_as_an_uninterrupted_one_does(kind, reference, tmp_path):
    make, outcome = SETTINGS[kind]
    whole, weights = reference(kind)
    fit(make(tmp_path), tmp_path, epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = make(tmp_path)
    resumed = fit(second, tmp_path, ckpt_path=tmp_path / "half.ckpt").model.state_dict()
    assert outcome(second) == outcome(whole)
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_a_pickled_callback_does_what_the_original_does(kind, reference, tmp_path):
    make, outcome = SETTINGS[kind]
    whole, weights = reference(kind)
    copied = pickle.loads(pickle.dumps(make(tmp_path)))
    trained = fit(copied, tmp_path).model.state_dict()
    assert outcome(copied) == outcome(whole)
    assert all(torch.equal(value, trained[name]) for name, value in weights.items())


class Fails(Callback):
    """Ends a training by an exception amid its second epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1:
            raise RuntimeError("amid an epoch")


def traces(module):
    """What a callback may have left: hooks, methods of the module replaced by others, settings of the process."""
    hooks = [
        len(getattr(part, name))
        for part in module.modules()
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_load_state_dict_pre_hooks")
    ]
    # A grown network saves its recipe from now on, whatever becomes of the training.
    replaced = {name for name in vars(module) if hasattr(type(module), name)} - {"on_save_checkpoint"}
    process = (
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
    )
    return sum(hooks), replaced, process


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_after_an_exception_it_leaves_no_traces(kind, tmp_path):
    callback = SETTINGS[kind][0](tmp_path)
    module = model_for(callback)
    before = traces(module)
    with pytest.raises(RuntimeError, match="amid an epoch"):
        fit(callback, tmp_path, module=module, others=[Fails()])
    assert traces(module) == before
