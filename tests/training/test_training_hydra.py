"""Hydra projects: what is composed for a genome, and what is built from it."""

from __future__ import annotations

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import toys
from lightning_evo.genome import Categorical, Objective, SearchSpace, SpaceError
from lightning_evo.genome.links import Link
from lightning_evo.training.blueprint import ConfigError
from lightning_evo.training.hydra import HydraBlueprint, HydraTrainable

FILES = {
    "train.yaml": """
defaults: [_self_, model: small]
width: 4
where: ${hydra:runtime.output_dir}/out
datamodule: {_target_: toys.ToyData}
callbacks:
  stopping: {_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val_acc, patience: 7}
  unused: null
trainer:
  _target_: lightning.pytorch.Trainer
  max_epochs: ${epochs}
  accelerator: cpu
  default_root_dir: ${where}
epochs: 2
needed: ???
""",
    "model/small.yaml": "{_target_: toys.ToyNet, width: '${width}', lr: 0.1}",
    "model/slow.yaml": "{_target_: toys.ToyNet, width: 16, lr: 0.001}",
}


@pytest.fixture
def blueprint(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return HydraBlueprint(config_dir=str(tmp_path), config_name="train", overrides=("+extra=1",))


def built(blueprint, genome, **trainer):
    return blueprint.build(HydraTrainable(blueprint).resolve(genome), trainer)


def test_a_gene_is_a_value_that_others_follow_or_the_option_of_a_group(blueprint):
    assert built(blueprint, {"width": 8}).model.hparams.width == 8
    model = built(blueprint, {"model": "slow", "model.lr": 0.5}).model
    assert (model.hparams.width, model.hparams.lr) == (16, 0.5)
    assert blueprint.compose({"+added": {"a": [1]}})["added"] == {"a": [1]}
    assert blueprint.compose({})["extra"] == 1


def test_what_follows_a_gene_follows_a_group_and_may_be_one(blueprint):
    pairs = [("width", "epochs"), ("model", "needed"), ("+kind", "model")]
    links = [Link(source, target, "evolution.links") for source, target in pairs]
    composed = blueprint.compose({"width": 8, "model": "slow"}, links)
    assert (composed["width"], composed["epochs"], composed["needed"]) == (8, 8, "slow")
    assert blueprint.compose({"+kind": "slow"}, links)["model"]["lr"] == 0.001


def test_parts_are_found_and_built(blueprint, tmp_path):
    parts = blueprint.build(
        HydraTrainable(blueprint).resolve({"epochs": 3}), {"default_root_dir": str(tmp_path / "mine"), "logger": False}
    )
    assert isinstance(parts.datamodule, toys.ToyData)
    assert parts.trainer.max_epochs == 3
    assert parts.trainer.default_root_dir == str(tmp_path / "mine")
    assert [one.patience for one in parts.trainer.callbacks if type(one).__name__ == "EarlyStopping"] == [7]


def test_hydras_output_directory_is_the_candidates(blueprint, tmp_path):
    config = blueprint.compose({})
    config["model"]["width"] = "${oc.decode:'8'}"
    config["callbacks"]["stopping"]["monitor"] = "${where}"
    parts = blueprint.build(config, {"default_root_dir": str(tmp_path / "mine")})
    assert parts.model.hparams.width == 8
    stopping = next(one for one in parts.trainer.callbacks if type(one).__name__ == "EarlyStopping")
    assert stopping.monitor == f"{tmp_path}/mine/out"


def test_a_hydra_application_around_it_keeps_its_own(blueprint):
    theirs = OmegaConf.create({"hydra": {"job": {"name": "theirs"}}})
    held = HydraConfig.instance()
    before, held.cfg = held.cfg, theirs
    try:
        built(blueprint, {})
        assert held.cfg is theirs
    finally:
        held.cfg = before


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (
            {"model.nope": [1, 2]},
            r"evolution.space.model.nope: 1 is not accepted: .* no model.nope; there are _target_",
        ),
        ({"model": ["small", "nope"]}, r"evolution.space.model: 'nope' is not accepted: .*; choose from slow, small"),
        ({"width": ["${nothing}", 2]}, r"evolution.space.width: '\$\{nothing\}' is not accepted: .*nothing"),
    ],
)
def test_genes_that_hydra_refuses_are_refused_with_their_path(blueprint, genes, message):
    space = SearchSpace({path: Categorical(values) for path, values in genes.items()})
    with pytest.raises(SpaceError, match=message):
        HydraTrainable(blueprint).check(space, [Objective("val_acc", "max")])


def test_a_section_that_is_not_there_is_said_and_can_be_named(blueprint, tmp_path):
    (tmp_path / "other.yaml").write_text(
        "net: {_target_: toys.ToyNet}\ntrainer: {_target_: lightning.pytorch.Trainer}\n"
    )
    other = HydraBlueprint(config_dir=str(tmp_path), config_name="other")
    with pytest.raises(
        ConfigError, match=r"has no 'model' or .*there are net, trainer; say where it is by --model PATH"
    ):
        other.check(other.compose({}))
    named = HydraBlueprint(config_dir=str(tmp_path), config_name="other", sections={"model": "net"})
    assert isinstance(built(named, {}, accelerator="cpu").model, toys.ToyNet)


def test_a_missing_value_is_refused_where_it_is_used(blueprint):
    config = blueprint.compose({"width": "???"})
    with pytest.raises(ConfigError, match=r"Missing mandatory value: (width|model.width)"):
        blueprint.check(config)


def test_what_is_imported_first_registers_resolvers(blueprint, tmp_path, monkeypatch):
    (tmp_path / "registering.py").write_text(
        "from omegaconf import OmegaConf\nOmegaConf.register_new_resolver('twice', lambda x: 2 * x, replace=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "model" / "small.yaml").write_text("{_target_: toys.ToyNet, width: '${twice:${width}}'}")
    importing = HydraBlueprint(config_dir=blueprint.config_dir, config_name="train", imports=("registering",))
    assert built(importing, {"width": 3}).model.hparams.width == 6
    assert "registering" in HydraTrainable(importing).modules({})
