"""FastTraining as a whole: what makes a training fast changes nothing else."""

from __future__ import annotations

import pytest
import torch
from fast_examples import LOADERS, NOTHING, ImageNet, assert_equal_training, fit, images, trained
from torch import nn
from torch.utils.data import DataLoader

from lightning_evo.callbacks import FastTraining
from lightning_evo.callbacks.fast.choices import (
    Choice,
)
from lightning_evo.data import Digits
from lightning_evo.models import ImageClassifier
from lightning_evo.swarms import ParticleStack
from toys import ToyData, ToyNet


def test_everything_can_be_switched_off():
    fast = FastTraining(**NOTHING)
    assert_equal_training(trained(None, LOADERS["shuffled"]), trained(fast, LOADERS["shuffled"]))
    assert {name: (choice.on, choice.why) for name, choice in fast.choices.items()} == dict.fromkeys(
        NOTHING, (False, "switched off")
    )


def test_every_choice_is_said_once_and_archived(caplog):
    fast = FastTraining()
    with caplog.at_level("INFO"):
        fit(ImageNet(), DataLoader(images(), 4), fast=fast, epochs=12)
    said = [record.message for record in caplog.records if record.message.startswith("FastTraining: ")]
    for name in NOTHING:
        assert sum(line.startswith(f"FastTraining: {name} ") for line in said) == (2 if name == "compile" else 1), said
    assert fast.extra["fast"].keys() == NOTHING.keys()
    assert fast.extra["fast"]["fused"] == {"on": True, "why": "one kernel for all weights", "value": "Adam"}


def test_the_second_fit_decides_anew():
    fast = FastTraining()
    fit(ImageNet(), DataLoader(images(), 4), fast=fast)
    assert fast.choices["channels_last"].on
    fit(ToyNet(), ToyData(), fast=fast)
    assert not fast.choices["channels_last"].on


class Deepens(FastTraining):
    """Puts in another convolution after the first epoch, as StructuralGrowth does, and says so."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.net[3] = nn.Conv2d(4, 4, 3)
            trainer.optimizers[0].add_param_group({"params": list(pl_module.net[3].parameters())})
            self.on_structure_change(trainer, pl_module, None)
            self.new = [group["fused"] for group in trainer.optimizers[0].param_groups]
            self.format = pl_module.net[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_a_network_has_grown_is_treated_alike():
    fast = Deepens(compile=True, compile_backend="eager")
    fit(ImageNet(), DataLoader(images(), 4), fast=fast, epochs=3)
    assert fast.new == [True, True]
    assert fast.format
    assert fast.choices["compile"].on


def test_a_stack_of_particles_keeps_its_own_formats_and_optimizers():
    fast = FastTraining(precision="bf16-mixed")
    fit(ParticleStack(ToyNet, size=3, lowering="loop"), ToyData(), fast=fast)
    on = {name for name, choice in fast.choices.items() if choice.on}
    assert on == {"precision", "data"}


def test_a_shipped_model_learns_on_a_shipped_set():
    fast, data = FastTraining(), Digits(limit_train=64, limit_validation=32)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    fit(ImageClassifier(net, 10, in_channels=1), data, fast=fast, epochs=1)
    assert fast.choices["data"] == Choice(False, "Digits indexes whole batches in memory already")
    assert {name for name, choice in fast.choices.items() if choice.on} == {"channels_last", "fused"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fused": "yes"}, "fused: 'yes' is not one of auto, true, false"),
        ({"compile": 1.5}, "compile: 1.5 is not one of auto, true, false"),
        ({"precision": "bf16"}, "precision: 'bf16' is not one of auto, 32-true"),
        ({"memory_share": 0}, "memory_share: 0 is not above 0"),
        ({"num_workers": -1}, "num_workers: -1 is not at least 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FastTraining(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_all_of_it_works_together():
    model = ImageNet()
    fast = FastTraining()
    fit(model, DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4), fast=fast, accelerator="gpu", devices=1)
    assert {"precision", "fused", "data", "cudnn_benchmark"} <= {n for n, choice in fast.choices.items() if choice.on}
    assert all(batch[0].device.type == "cuda" for batch in model.batches)
    assert torch.backends.cudnn.benchmark is False
