"""Zero-cost proxies of a candidate that is built from its config and never trained."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_evo.functional import gradient_norm, naswot, synflow
from lightning_evo.predictors import PROXIES
from lightning_evo.training import ConfigTrainable
from lightning_evo.training.proxies import measure_candidate

HERE = __name__


def measure(config, *names, seed=3, **arguments):
    trainable = ConfigTrainable(config)
    config = {"seed_everything": seed, **trainable.resolve({})}
    return measure_candidate(blueprint=trainable.blueprint, config=config, names=names or PROXIES, **arguments)


def toy(**init_args):
    return {"model": {"class_path": "toys.ToyNet", "init_args": init_args}, "data": {"class_path": "toys.ToyData"}}


def digits(model, **init_args):
    arguments = {"in_channels": 1, **init_args}
    return {
        "model": {"class_path": f"lightning_evo.models.{model}", "init_args": arguments},
        "data": {"class_path": "lightning_evo.data.Digits", "init_args": {"batch_size": 32}},
    }


def test_every_proxy_of_a_users_own_module_is_measured():
    result = measure(toy(width=64), batch_size=4)
    assert result.status == "completed"
    assert set(result.metrics) == set(PROXIES)
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.metrics["params"] == 2 * 64 + 64 + 64 * 2 + 2
    assert result.metrics["flops"] == 2 * (2 * 64 + 64 * 2)


def test_they_are_those_of_the_model_and_batch_that_training_would_begin_with():
    result = measure(toy(width=64), "naswot", "synflow", "gradient_norm", batch_size=4, data_seed=5)
    from toys import ToyData, ToyNet

    torch.manual_seed(3)
    model = ToyNet(width=64)
    torch.manual_seed(5)
    points, labels = next(iter(ToyData().train_dataloader()))
    assert result.metrics["synflow"] == pytest.approx(synflow(model, points))
    assert result.metrics["naswot"] == pytest.approx(naswot(model, points[:4]))
    assert result.metrics["gradient_norm"] == pytest.approx(gradient_norm(model, points[:4], labels[:4]), rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(digits("BitstringCNN", image_size=8), id="BitstringCNN"),
        pytest.param(digits("ImageClassifier", backbone="mobilenet_v3_small"), id="ImageClassifier"),
        pytest.param(
            {
                "model": {
                    "class_path": "lightning_evo.models.TemplateNet",
                    "init_args": {"layers": ["Conv2d 8", "ReLU"], "input_shape": [1, 8, 8]},
                },
                "data": {"class_path": "lightning_evo.data.Digits"},
            },
            id="TemplateNet",
        ),
    ],
)
def test_the_models_that_ship_can_be_measured(config):
    result = measure(config)
    assert result.status == "completed", result.error
    assert "unmeasured" not in result.extra
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_parameters_and_flops_of_a_template_are_those_it_prints():
    from lightning_evo.genome import Template

    layers = ["Conv2d 8 kernel=3", "ReLU", "MaxPool2d", "Linear 16", "ReLU"]
    arguments = {"layers": layers, "input_shape": [1, 8, 8]}
    config = {
        "model": {"class_path": "lightning_evo.models.TemplateNet", "init_args": arguments},
        "data": {"class_path": "lightning_evo.data.Digits"},
    }
    result = measure(config, "params", "flops")
    template = Template.parse(layers, [1, 8, 8], 10)
    assert (result.metrics["params"], result.metrics["flops"]) == (template.params, template.flops)


def test_a_network_that_grows_before_training_is_measured_as_it_has_grown():
    growth = {
        "class_path": "lightning_evo.callbacks.StructuralGrowth",
        "init_args": {"initial": [{"operation": "widen", "place": 0.0, "ratio": 2.0}], "monitor": "val_loss"},
    }
    result = measure({**toy(width=5), "trainer": {"callbacks": [growth]}}, "params", "flops")
    assert result.metrics["params"] == 2 * 10 + 10 + 10 * 2 + 2
    assert result.metrics["flops"] == 2 * (2 * 10 + 10 * 2)


def test_the_seed_of_the_config_decides_the_weights_and_the_data_seed_the_batch():
    first, again = (measure(toy(width=64), batch_size=8).metrics for _ in range(2))
    weights = measure(toy(width=64), seed=4, batch_size=8).metrics
    batch = measure(toy(width=64), batch_size=8, data_seed=1).metrics
    assert first == again
    assert first["synflow"] == batch["synflow"] != weights["synflow"]
    assert first["gradient_norm"] != batch["gradient_norm"]


def test_random_state_and_warnings_are_left_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    measure(toy(width=8))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_a_model_that_raises_is_a_failed_result():
    result = measure(toy(misbehave="crash"))
    assert result.status == "failed"
    assert "this model always crashes" in result.error


def test_a_proxy_that_has_no_meaning_is_nan_with_its_reason_and_the_others_stand():
    config = {"model": {"class_path": "toys.NoTestNet"}, "data": {"class_path": "toys.ToyData"}}
    result = measure(config)  # has no forward, and no unit
    assert math.isnan(result.metrics["naswot"])
    assert "NotImplementedError" in result.extra["unmeasured"]["naswot"]
    assert result.metrics["params"] == 6
    assert result.metrics["gradient_norm"] > 0
    tanh = measure(toy(activation="tanh"), "naswot", "synflow")
    assert list(tanh.extra["unmeasured"]) == ["naswot"]


def test_an_infinite_proxy_is_nan():
    result = measure(toy(width=1), "naswot")  # one unit can't tell 32 images apart
    assert math.isnan(result.metrics["naswot"])
    assert "-inf" in result.extra["unmeasured"]["naswot"]


def test_a_name_that_is_no_proxy_is_a_failed_result_naming_those_there_are():
    result = measure(toy(), "snip")
    assert "'snip' is not one of naswot, synflow" in result.error


# -- unusual modules and data ------------------------------------------------------------------------------------------


class Unusual(LightningModule):
    """Sizes itself by its data, asks its trainer, logs, wants a mapping, returns a mapping, and has a loader of its own."""

    def __init__(self, own_data: bool = False) -> None:
        super().__init__()
        self.own_data = own_data

    def setup(self, stage):
        assert self.trainer.max_epochs == 2
        self.net = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, points):
        return self.net(points)

    def train_dataloader(self):
        return Mapped().train_dataloader() if self.own_data else super().train_dataloader()

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch["points"]), batch["labels"])
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({"again": loss})
        return {"loss": loss, "epoch": self.trainer.current_epoch}


class Mapped(LightningDataModule):
    """Batches that are mappings, made ready by a hook."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.num_workers = num_workers

    def train_dataloader(self):
        points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(points, torch.arange(40) % 2), 20, num_workers=self.num_workers)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {"points": batch[0], "labels": batch[1]}


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_builds_itself_in_setup_and_asks_its_trainer_is_measured():
    config = {
        "model": {"class_path": f"{HERE}.Unusual"},
        "data": {"class_path": f"{HERE}.Mapped"},
        "trainer": {"max_epochs": 2, "logger": True, "precision": "bf16-mixed"},
    }
    result = measure(config, batch_size=6)
    assert result.status == "completed", result.error
    assert "unmeasured" not in result.extra
    assert result.metrics["params"] == 3 * 16 + 16 + 16 * 2 + 2


def test_a_module_that_compiles_itself_is_measured_without_compiling():
    config = digits("BitstringCNN", image_size=8, compile=True)
    result = measure(config, "gradient_norm")
    assert result.metrics["gradient_norm"] > 0
    assert result.ended - result.started < 20
