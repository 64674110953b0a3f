"""A candidate is built as LightningCLI builds, links and types included."""

from __future__ import annotations

import os
import pickle
import sys

import pytest
import torch
import warm
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import EarlyStopping, Timer
from training_cli import ARGUMENTS, LinkedCLI

from lightning_evo.training import Blueprint, ConfigError
from lightning_evo.training.blueprint import dump_yaml, load_yaml
from toys import ToyNet, WideNet


def test_a_resolved_config_is_complete_plain_data(config):
    resolved = Blueprint().resolve(config)
    assert resolved["model"]["init_args"]["lr"] == 0.1
    assert resolved["trainer"]["accumulate_grad_batches"] == 1
    assert load_yaml(dump_yaml(resolved)) == resolved


def test_resolving_twice_changes_nothing(config):
    blueprint = Blueprint()
    assert blueprint.resolve(blueprint.resolve(config)) == blueprint.resolve(config)


def test_parts_are_what_the_config_says(config):
    config["trainer"]["callbacks"] = [
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 7}}
    ]
    parts = Blueprint().build(config, {"logger": False, "max_epochs": 5})
    assert type(parts.model) is ToyNet
    assert parts.model.hparams.width == 4
    assert parts.datamodule.batch_size == 32
    assert parts.trainer.max_epochs == 5
    assert [c.patience for c in parts.trainer.callbacks if isinstance(c, EarlyStopping)] == [7]


def test_each_candidate_has_its_own_hyperparameters(config):
    # LightningCLI caches the first config's dump, and would save that one's hyperparameters for all.
    blueprint = Blueprint()
    for width in (3, 5):
        config["model"]["init_args"]["width"] = width
        hyperparameters = blueprint.build(config, {"logger": False}).model.hparams
        assert hyperparameters["width"] == width


def test_two_candidates_share_no_callback_and_none_is_there_twice():
    blueprint = Blueprint(LinkedCLI, ARGUMENTS)
    trainers = [blueprint.build({"trainer": {"accelerator": "cpu"}}, {"logger": False}).trainer for _ in range(2)]
    timers = [[c for c in trainer.callbacks if isinstance(c, Timer)] for trainer in trainers]
    assert [len(found) for found in timers] == [1, 1]
    assert timers[0][0] is not timers[1][0]


def test_links_of_the_users_cli_hold_for_every_candidate():
    blueprint = Blueprint(LinkedCLI, ARGUMENTS)
    base = blueprint.resolve({"trainer": {"accelerator": "cpu"}})
    for batch_size in (8, 16):
        base["data"]["batch_size"] = batch_size
        model = blueprint.build(base, {"logger": False}).model
        assert model.hparams.width == batch_size
        assert model.net[0].in_features == 2


def test_another_class_keeps_the_arguments_it_takes(config):
    blueprint = Blueprint()
    base = blueprint.resolve(config)
    changed = blueprint.resolve({"model": {"class_path": "toys.WideNet"}}, base)
    assert changed["model"]["init_args"] == {"width": 4, "lr": 0.1, "extra": 1}
    assert type(blueprint.build(changed, {"logger": False}).model) is WideNet


def test_an_error_says_path_and_reason_in_one_line(config):
    config["trainer"]["max_epochs"] = "many"
    with pytest.raises(ConfigError, match=r"^trainer.max_epochs: Expected a int\. Given value: many$"):
        Blueprint().resolve(config)


def test_what_a_constructor_raises_is_raised_as_it_is(config):
    config["model"]["init_args"]["misbehave"] = "crash"
    # Before 4.49 jsonargparse keeps only what was said.
    kind = RuntimeError if hasattr(ArgumentParser, "instantiate") else ValueError
    with pytest.raises(kind, match=r"^this model always crashes$"):
        Blueprint().build(config, {"logger": False})


def test_a_blueprint_crosses_process_borders():
    blueprint = Blueprint(LinkedCLI, ARGUMENTS)
    assert pickle.loads(pickle.dumps(blueprint)).resolve({}) == blueprint.resolve({})


def test_the_optimizer_of_the_config_is_used(config):
    config["optimizer"] = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5}}
    parts = Blueprint().build(config, {"logger": False})
    optimizer = parts.model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_short_class_name_resolves_in_a_process_that_has_imported_no_callback_yet():
    lines = (
        "from lightning.pytorch.demos.boring_classes import BoringModel",
        "from lightning_evo.training import Blueprint",
        "trainer = {'callbacks': [{'class_path': 'StructuralGrowth'}], 'strategy': 'swarm'}",
        "config = Blueprint(cli_arguments={'model_class': BoringModel}).resolve({'trainer': trainer})",
        "print(config['trainer']['callbacks'][0]['class_path'])",
    )
    ran = warm.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "lightning_evo.callbacks.StructuralGrowth", ran.stderr


def test_a_path_that_is_not_utf8_survives_yaml():
    config = {"data": {"init_args": {"root": os.fsdecode(b"/data/caf\xe9"), "name": "größe 🙂 \x1b"}}}
    assert load_yaml(dump_yaml(config)) == config
