"""A function from a genome to model, data and the Trainer's arguments is searched as a config is."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from searching import Recorded, threads

from lightning_evo import Budget, Evolution, Final, Objective, Workers
from lightning_evo.algorithms import PopulationBasedTraining, RegularizedEvolution
from lightning_evo.callbacks import EarlyFitnessPrediction, WeightInheritance
from lightning_evo.evolution import SearchError
from lightning_evo.export import export
from lightning_evo.training import BuilderTrainable, ConfigError, ConfigTrainable
from toys import ToyData, ToyNet

SPACE = {"width": [2, 4, 8], "lr": {"low": 1e-2, "high": 1.0, "log": True}, "batch_size, size": [32, 64]}


def build(genome, epochs=2):
    data = ToyData(genome["size"], genome["batch_size"])
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    trainer = {"max_epochs": epochs, "accelerator": "cpu", "callbacks": [EarlyStopping("val_loss", patience=9)]}
    return ToyNet(genome["width"], genome["lr"]), loaders, trainer


def search(directory, pool, function=build, **changes):
    settings = {
        "space": SPACE,
        "objectives": [Objective("val_acc"), Objective("cost/flops", "min")],
        "algorithm": RegularizedEvolution(population_size=2),
        "budget": Budget(candidates=5),
        "workers": Workers(slots=2),
        "seed": 1,
        "build": function,
        "executor": pool,
        "progress": Recorded(),
    } | changes
    return Evolution(directory=directory, **settings)


def test_a_builders_candidates_are_searched_retrained_tested_and_exported(tmp_path):
    callbacks = [EarlyFitnessPrediction(), WeightInheritance()]
    final = Final(retrain=True, overrides={"trainer.max_epochs": 3, "width": 4})
    with threads() as pool:
        archive = search(tmp_path / "run", pool, callbacks=callbacks, final=final).run()
    rows = archive.candidates()
    assert {row["status"] for row in rows} <= {"completed", "stopped"}
    assert all(row["cost/flops"] > 0 for row in rows)
    assert len(archive.result(0).curve) == 2
    assert any(archive.result(row["id"]).extra.get("inheritance") for row in rows)
    assert "test_acc" in archive.meta["final"]["metrics"]
    export(tmp_path / "run", tmp_path / "best")
    opened = ToyNet.load_from_checkpoint(tmp_path / "best/model.ckpt", map_location="cpu")
    assert opened.hparams.width == 4
    assert torch.load(tmp_path / "best/model.ckpt", weights_only=True)["epoch"] <= 2
    archive.close()
    with (
        threads() as pool,
        pytest.raises(SearchError, match=r"differs:\n  build: \S+build' in the archive, \S+alone' given"),
    ):
        search(tmp_path / "run", pool, alone, callbacks=callbacks).run()


def alone(genome):
    return ToyNet(genome["width"])


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "build returned NoneType; give a LightningModule, or"),
        ((ToyData(), ToyNet()), r"build returned \(ToyData, ToyNet\); give a LightningModule"),
        ((ToyNet(), None, {}, 1), "build returned"),
        ((ToyNet(), "data"), "build returned a str as data; give a LightningDataModule, a DataLoader"),
        ((ToyNet(), []), "build returned 0 loaders; give those for"),
        ((ToyNet(), None, 3), "build returned a int as the third; give the Trainer's arguments in a dict"),
        ((ToyNet(), None, Trainer(accelerator="cpu", logger=False)), "build returned a Trainer as the third"),
    ],
)
def test_what_a_builder_may_return_is_said(returned, said):
    trainable = BuilderTrainable(lambda genome: returned)
    with pytest.raises(TypeError, match=said):
        trainable.blueprint.build(trainable.resolve({"width": 2}))


def test_a_model_alone_is_enough_and_the_trainer_keeps_what_was_asked_for():
    assert BuilderTrainable(alone).blueprint.build({"genome": {"width": 3}}).model.hparams.width == 3
    blueprint = BuilderTrainable(partial(build, epochs=5), accelerator="cpu").blueprint
    genome = {"width": 2, "lr": 0.1, "batch_size": 32, "size": 32}
    parts = blueprint.build({"genome": genome, "trainer": {"min_epochs": 2}}, {"logger": False}, [WeightInheritance()])
    assert (parts.trainer.max_epochs, parts.trainer.min_epochs) == (5, 2)
    assert [type(one) for one in parts.trainer.callbacks[:2]] == [EarlyStopping, WeightInheritance]
    described = BuilderTrainable(partial(build, epochs=5)).describe()
    assert described == {"build": f"{__name__}.build", "arguments": {"args": [], "epochs": 5}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"function": lambda genome: ToyNet()}, "can't be sent to worker processes: define it at the top level"),
        (
            {"final": Final(retrain=True, overrides={"depth": 3})},
            r"final\.overrides\.depth: is neither a gene \(width, lr, batch_size, size\)",
        ),
        ({"config": {}}, "give one of config"),
        ({"objectives": [Objective("cost/flop")]}, "'cost/flop' is not measured"),
        ({"algorithm": PopulationBasedTraining()}, "continues trainings of a LightningCLI config, not a function"),
    ],
)
def test_what_a_builder_cannot_be_asked_is_refused(changes, said, tmp_path):
    with pytest.raises(SearchError, match=said):
        search(tmp_path, None, **changes).run()


def test_classes_and_functions_of_a_config_may_be_objects():
    by_name = {"model": {"class_path": "toys.ToyNet"}, "data": {"class_path": "toys.ToyData"}}
    assert ConfigTrainable({"model": ToyNet, "data": {"class_path": ToyData}}).config == ConfigTrainable(by_name).config
    with pytest.raises(ConfigError, match=r"trainer\.callbacks\[0\]: .* is an object; each candidate needs its own"):
        ConfigTrainable({**by_name, "trainer": {"callbacks": [EarlyStopping("val_loss")]}})
    with pytest.raises(
        ConfigError, match=r"model: .*<lambda> can't be imported by workers: define it at the top level"
    ):
        ConfigTrainable({**by_name, "model": lambda: ToyNet()})
