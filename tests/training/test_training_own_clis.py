"""Whatever a CLI's class does in an ordinary fit, it does for a candidate, or says why not."""

from __future__ import annotations

import pytest
from own_clis import (
    DEFAULT,
    Awkward,
    HookedCLI,
    LinkedCLI,
    LockedCLI,
    OursFirst,
    OverridingCLI,
    OwnTrainerCLI,
    SavingConfig,
    TheirsFirst,
)

from lightning_evo.callbacks.search import SearchContext
from lightning_evo.genome import Integer, Objective, Ordinal, SearchSpace, SpaceError
from lightning_evo.training import Blueprint, ConfigError, ConfigTrainable, TrainingRequest, train_candidate
from lightning_evo.training.blueprint import picklable
from lightning_evo.training.final import finish_candidate
from toys import ToyData, ToyNet

ACCURACY = Objective("val_acc")


def blueprint(kind, **arguments):
    """As `EvolutionCLI` makes it in the process that the user starts."""
    attributes, left_out = picklable({"factor": 3, "lock": pytest})
    return Blueprint(kind, arguments, attributes, left_out | {"lock": "TypeError: cannot pickle"})


def test_every_hook_finds_what_it_finds_in_a_fit_and_only_the_winner_is_tested(config, tmp_path, capsys):
    made = blueprint(HookedCLI)
    complete = made.resolve({"seed_everything": 7, "name": "mine", **config})
    request = TrainingRequest(str(tmp_path), [ACCURACY])
    result = train_candidate(made, complete, request)
    assert result.status == "completed", result.error
    said = capsys.readouterr().out
    assert "HookedCLI.after_fit: trainer.test is left out" in said
    assert "before_instantiate fit mine mine; after_instantiate ToyNet mine; before_fit 96; after_fit 1 nan" in said
    assert len(result.curve) == 1  # of max_epochs in instantiate_trainer; where it writes is not its to say
    assert (tmp_path / "checkpoint.ckpt").exists()
    assert not (tmp_path / "somewhere").exists()
    final = finish_candidate(made, complete, request, str(tmp_path / "checkpoint.ckpt"), test=True)
    assert final.metrics["test_acc"] >= 0, final.error


def test_what_cant_reach_a_worker_is_named_where_it_is_needed(config, tmp_path):
    made = blueprint(LockedCLI)
    result = train_candidate(made, made.resolve(config), TrainingRequest(str(tmp_path), [ACCURACY]))
    assert "LockedCLI has no 'lock' in a worker process, as it can't be sent there" in result.error


def test_a_trainer_that_the_search_cant_have_its_say_in_is_refused(config):
    with pytest.raises(ConfigError, match=r"OwnTrainerCLI.instantiate_trainer makes a Trainer by itself"):
        Blueprint(OwnTrainerCLI).build(config, {"logger": False})


def test_a_hook_that_overrules_a_gene_is_named(config, tmp_path):
    context = SearchContext(0, 1, (ACCURACY,), genes={"model.init_args.width": 4})
    made = Blueprint(OverridingCLI)
    result = train_candidate(made, made.resolve(config), TrainingRequest(str(tmp_path), [ACCURACY], context=context))
    expected = (
        "model.init_args.width: the gene has no effect: it says 4, OverridingCLI.before_instantiate_classes sets 16"
    )
    assert expected in result.error


def test_a_config_is_saved_where_the_cli_saves_it_besides(config, tmp_path, capsys):
    made = Blueprint(cli_arguments={"save_config_callback": SavingConfig, "save_config_kwargs": {"overwrite": True}})
    result = train_candidate(made, made.resolve(config), TrainingRequest(str(tmp_path), [ACCURACY]))
    assert result.status == "completed", result.error
    assert "saved 4 True" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [OursFirst, TheirsFirst])
def test_sections_may_have_other_names_and_the_model_may_be_a_property(kind):
    made = Blueprint(kind, {"model_class": ToyNet, "datamodule_class": ToyData}, {})
    assert set(made.module_sections) == {"routine", "optimizer", "lr_scheduler"}
    complete = made.resolve({"routine": {"width": 5}, "trainer": {"accelerator": "cpu"}})
    parts = made.build(complete, {"logger": False})
    assert parts.model.hparams.width == 5
    assert parts.datamodule.batch_size == 32


def test_values_that_no_config_can_hold_are_left_out_and_their_defaults_hold(config):
    config["model"] = {"class_path": "own_clis.Awkward", "init_args": {"width": 3}}
    made = Blueprint()
    resolved = made.resolve(config)
    arguments = resolved["model"]["init_args"]
    assert set(arguments) & {"untyped", "number", "tensor", "function", "thing", "several", "mapping"} == set()
    assert arguments["kind"] == "PLAIN"
    assert "0x" not in str(resolved)
    assert made.resolve(resolved) == resolved
    given = made.build(resolved, {"logger": False}).model.given
    defaults = dict(zip(Awkward.__init__.__code__.co_varnames[2:14], Awkward.__init__.__defaults__[1:], strict=True))
    assert given["thing"] is DEFAULT
    assert {name: type(given[name]) for name in defaults} == {name: type(value) for name, value in defaults.items()}
    gene = ConfigTrainable(config).resolve({"model.init_args.number": 0.5})
    assert made.build(gene, {"logger": False}).model.given["number"] == 0.5


@pytest.mark.parametrize(
    ("path", "gene", "expected"),
    [
        (
            "model.width",
            Ordinal([8, 16]),
            "it says 16, but 32 is what holds; the CLI links data.batch_size to model.width",
        ),
        ("model.width", Ordinal([8]), "it says 8, but 32 is what holds"),
        ("model.features", Integer(2, 4), "the CLI links data.num_features to model.features: put the gene there"),
        ("trainer.devices", Integer(1, 2), "the search decides the Trainer's devices"),
    ],
)
def test_a_gene_without_effect_is_refused(path, gene, expected):
    made = Blueprint(LinkedCLI, {"model_class": ToyNet, "datamodule_class": ToyData}, {})
    trainable = ConfigTrainable({"trainer": {"accelerator": "cpu"}}, made)
    with pytest.raises(SpaceError, match=rf"^evolution\.space\.{path}: the gene has no effect.*{expected}"):
        trainable.check(SearchSpace({path: gene}), [ACCURACY])


def test_two_classes_fixed_in_a_cli_are_two_searches():
    described = [
        ConfigTrainable({}, Blueprint(cli_arguments={"model_class": kind})).describe() for kind in (ToyNet, Awkward)
    ]
    assert described[0]["classes"] == {"model": "toys.ToyNet"}
    assert described[1]["classes"] == {"model": "own_clis.Awkward"}
    earlier = {key: value for key, value in described[0].items() if key != "classes"}
    assert ConfigTrainable({}, Blueprint(cli_arguments={"model_class": ToyNet})).complete(earlier) == described[0]


def test_candidates_that_hooks_surround_dont_train_in_stacks(config):
    assert ConfigTrainable(config, blueprint(HookedCLI)).alone == "HookedCLI.before_fit is called for each of them"
    assert ConfigTrainable(config).alone == ""
