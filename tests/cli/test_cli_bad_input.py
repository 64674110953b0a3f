"""Bad input gets one clear error that names path, value and what is accepted; exit code 2, and nothing is trained."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from commands import command, write
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim.lr_scheduler import StepLR

from lightning_evo.cli import EvolutionCLI, main
from lightning_evo.utils import config_files

LR, WIDTH = "model.init_args.lr", "model.init_args.width"


def gene(class_path, **init_args):
    return {"class_path": class_path, "init_args": init_args}


def put(*path, value):
    """A change that puts ``value`` at a path in the evolution section."""

    def change(config, whole):
        at = whole["evolution"]
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value

    return change


def drop(name):
    return lambda config, whole: whole["evolution"].pop(name)


def config_with(*path, value):
    def change(config, whole):
        at = config
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = value

    return change


CASES = {
    "unknown path": (
        put("space", "model.init_args.wdth", value=gene("Integer", low=1, high=2)),
        "evolution.space.model.init_args.wdth: 1 is not accepted: model: Option 'wdth' is not accepted; "
        "there are width, lr, depth, activation, features, misbehave",
    ),
    "unknown section": (
        put("space", "modle.init_args.width", value=gene("Integer", low=1, high=2)),
        "evolution.space.modle.init_args.width: 1 is not accepted: Option 'modle.init_args.width' is not accepted; "
        "there are trainer, model, data",
    ),
    "wrong type": (
        put("space", WIDTH, value=gene("Uniform", low=1, high=2)),
        f"evolution.space.{WIDTH}: 1.0 is not accepted: model.width: Expected a int. Got value: 1.0",
    ),
    "empty range": (
        put("space", WIDTH, value=gene("Categorical", choices=[])),
        f"evolution.space.{WIDTH}.choices: [] is not a non-empty list of values",
    ),
    "low above high": (
        put("space", LR, value=gene("LogUniform", low=0.1, high=0.01)),
        f"evolution.space.{LR}.low: 0.1 is not below high 0.01",
    ),
    "log range with 0": (
        put("space", LR, value=gene("LogUniform", low=0, high=0.01)),
        f"evolution.space.{LR}.low: 0.0 is not above 0, which a logarithmic range needs",
    ),
    "unknown gene": (
        put("space", LR, value=gene("LogUnform", low=1, high=2)),
        f"evolution.space.{LR}: Expected a class that can be imported, not LogUnform; choose from Bitstring, Boolean,",
    ),
    "unknown argument of a gene": (
        put("space", LR, value=gene("LogUniform", low=1, hgh=2)),
        f"evolution.space.{LR}: Option 'hgh' is not accepted",
    ),
    "wrong type in a gene": (
        put("space", LR, value=gene("LogUniform", low="a", high=2)),
        f"evolution.space.{LR}.low: Expected a float. Got value: a",
    ),
    "condition on no gene": (
        put("space", LR, "init_args", "when", value={"model.init_args.kind": ["conv"]}),
        f"evolution.space: {LR}.when: 'model.init_args.kind' is not a gene of this space",
    ),
    "no space": (drop("space"), "evolution.space: nothing is set; give at least one config path with a gene"),
    "no budget": (drop("budget"), "evolution.budget: nothing is set; give candidates, epochs or wall_time"),
    "no objectives": (drop("objectives"), "evolution.objectives: nothing is set; name at least one metric"),
    "budget 0": (put("budget", "candidates", value=0), "evolution.budget.candidates: 0 is not above 0"),
    "a budget without end": (
        put("budget", "wall_time", value=float("nan")),
        "evolution.budget.wall_time: nan is not a number",
    ),
    "no directory": (put("directory", value=""), "evolution.directory: '' is not the path of a directory"),
    "a directory that is null": (
        put("directory", value=None),
        "evolution.directory: null is not accepted; leave it out",
    ),
    "a name that is too long": (put("directory", value="x" * 300), "can't be a directory: File name too long"),
    "a fitness epoch that is null": (
        put("fitness_epoch", value=None),
        "evolution.fitness_epoch: null is not accepted; leave it out for the default, 'best'",
    ),
    "a population that is null": (
        put("algorithm", value=gene("RegularizedEvolution", population_size=None)),
        "evolution.algorithm.population_size: null is not accepted; leave it out for the default, 16",
    ),
    "a population that is true": (
        put("algorithm", value=gene("RegularizedEvolution", population_size=True)),
        "evolution.algorithm.population_size: Expected a int. Got value: True",
    ),
    "devices that are null": (
        put("workers", "devices_per_candidate", value=None),
        "evolution.workers.devices_per_candidate: null is not accepted; leave it out for the default, 1",
    ),
    "overrides that are null": (
        put("final", value={"overrides": None}),
        "evolution.final.overrides: null is not accepted",
    ),
    "as many slots as no machine has": (
        put("workers", "slots", value=10**30),
        f"evolution.workers: slots: {10**30} of 1 process(es) each are more than the 4096",
    ),
    "a gene that is no mapping": (put("space", LR, value=0.1), f"evolution.space.{LR}: 0.1 is not a gene"),
    "a gene without bounds": (
        put("space", LR, value={"distribution": "normal", "mu": 0, "sigma": 1}),
        f"evolution.space.{LR}.distribution: 'normal' is not supported, as genes have bounds or choices; accepted are",
    ),
    "a link that is none": (
        put("links", value=[{"source": LR, "target": WIDTH}]),
        "evolution.links[0]: {'source': 'model.init_args.lr', 'target': 'model.init_args.width'} is not a link; give {from:",
    ),
    "a link to a gene": (
        put("links", value=[{"from": "data.init_args.size", "to": WIDTH}]),
        f"evolution.links[0]: {WIDTH} can't follow data.init_args.size: it has a gene, {WIDTH}",
    ),
    "a gene given twice": (
        put("space", "model", value={"parameters": {"init_args.lr": [0.1, 0.2]}}),
        f"evolution.space.{LR}: is given twice, once under parameters",
    ),
    "a gene that is nothing": (put("space", LR, value=None), f"evolution.space.{LR}: None is not a gene"),
    "a gene without a path": (
        put("space", 7, value=gene("Boolean")),
        "evolution.space: 7 is not a config path, such as",
    ),
    "a database that is a file": (
        put("database", value="team.sqlite"),
        "evolution.database: 'team.sqlite' is not the URL of a database, such as postgresql://host/evolution",
    ),
    "a database without its driver": (
        put("database", value="mssql+pymssql://user@host/base"),
        "evolution.database: mssql+pymssql://user@host/base: not a database URL that SQLAlchemy can open: ",
    ),
    "a section that is a list": (
        lambda config, whole: whole.update(evolution=[1]),
        "evolution: [1] is not a mapping; give space, objectives and budget",
    ),
    "budget of words": (
        put("budget", "wall_time", value="soon"),
        "evolution.budget.wall_time: 'soon' is not a number of seconds or DD:HH:MM:SS",
    ),
    "unknown key in the section": (put("bugdet", value=1), "does not accept option 'evolution.bugdet'"),
    "unknown key deeper": (put("budget", "candidats", value=1), "evolution.budget: Option 'candidats' is not accepted"),
    "unknown key at the top": (lambda config, whole: whole.update(evolutoin=1), "does not accept option 'evolutoin'"),
    "unknown mode": (
        put("objectives", value=[{"monitor": "val_acc", "mode": "up"}]),
        "evolution.objectives[0].mode: Expected a typing.Literal['max', 'min']. Got value: up",
    ),
    "unknown cost": (
        put("objectives", value=[{"monitor": "cost/parms", "mode": "min"}]),
        "evolution.objectives: 'cost/parms' is not measured; there are cost/params, cost/flops, cost/training_flops",
    ),
    "unknown algorithm": (
        put("algorithm", value=gene("RegularisedEvolution")),
        "evolution.algorithm: Expected a class that can be imported, not RegularisedEvolution; choose from "
        "GenerationalEvolution, LocalSearch, NSGA2, PopulationBasedTraining, PredictorSearch, RandomSearch, "
        "RegularizedEvolution, SwarmOptimization",
    ),
    "population 0": (
        put("algorithm", value=gene("RegularizedEvolution", population_size=0)),
        "evolution.algorithm.population_size: 0 is not at least 1",
    ),
    "shared argument misspelt": (
        put("algorithm", value=gene("RegularizedEvolution", duplicate_retris=3)),
        "evolution.algorithm: Option 'duplicate_retris' is not accepted",
    ),
    "operator that the algorithm has no use for": (
        put("algorithm", value=gene("RegularizedEvolution", mate="uniform")),
        "evolution.algorithm: Option 'mate' is not accepted",
    ),
    "unknown operator": (
        put("algorithm", "init_args", "select", value={"name": "selTornament"}),
        "evolution.algorithm.select: 'selTornament' is not an operator; did you mean 'selTournament'?",
    ),
    "unknown predictor": (
        put("algorithm", "init_args", "prescreen", value={"predictor": gene("ForrestPredictor")}),
        "evolution.algorithm.prescreen.predictor: Expected a class that can be imported, not ForrestPredictor; choose from "
        "EnsemblePredictor, ForestPredictor,",
    ),
    "no predictor": (
        put("algorithm", "init_args", "prescreen", value={"pool": 5}),
        "evolution.algorithm.prescreen: the following arguments are required: predictor",
    ),
    "pool 1": (
        put("algorithm", "init_args", "prescreen", value={"predictor": "ForestPredictor", "pool": 1}),
        "evolution.algorithm.prescreen.pool: 1 is not at least 2",
    ),
    "unknown key in the prescreen": (
        put("algorithm", "init_args", "prescreen", value={"predictor": "ForestPredictor", "pol": 1}),
        "evolution.algorithm.prescreen: Option 'pol' is not accepted",
    ),
    "unknown proxy": (
        put("algorithm", "init_args", "prescreen", value={"predictor": gene("ForestPredictor", proxies=["nas"])}),
        "evolution.algorithm.prescreen.predictor.proxies: 'nas' is not one of naswot, synflow, gradient_norm, params, flops",
    ),
    "a predictor of layers without layers": (
        put("algorithm", "init_args", "prescreen", value={"predictor": "LSTMPredictor"}),
        "evolution.algorithm.prescreen.predictor: LSTMPredictor",
    ),
    "an earlier search that isn't there": (
        put("algorithm", "init_args", "prescreen", value={"predictor": "ForestPredictor", "archives": ["nowhere"]}),
        "evolution.algorithm.prescreen.archives[0]: nowhere: no archive here",
    ),
    "delta 0": (
        put("callbacks", value=[gene("EarlyFitnessPrediction", delta=0)]),
        "evolution.callbacks[0].delta: 0.0 is not between 0 and 1 (both excluded)",
    ),
    "fewer epochs than a prediction needs": (
        put("callbacks", value=[gene("EarlyFitnessPrediction")]),
        "evolution.callbacks[0].minimum_epochs: a prediction needs 3 epochs, and candidates train 2 (trainer.max_epochs)",
    ),
    "nothing to predict": (
        lambda config, whole: whole["evolution"].update(
            callbacks=[gene("EarlyFitnessPrediction")], objectives=[{"monitor": "cost/params", "mode": "min"}]
        ),
        "evolution.callbacks[0].monitor: every objective is a cost",
    ),
    "unknown callback": (
        put("callbacks", value=[gene("EarlyFitnessPredicton")]),
        "evolution.callbacks[0]: Expected a class that can be imported, not EarlyFitnessPredicton; choose from "
        "Continuation, EarlyFitnessPrediction, ",
    ),
    "unknown mode of W&B": (
        put("reporters", value=[gene("WandbReporter", mode="onlin")]),
        "evolution.reporters[0].mode: Expected a typing.Literal['online', 'offline', 'disabled']",
    ),
    "unknown option of W&B": (
        put("reporters", value=[gene("WandbReporter", projekt="nets")]),
        "evolution.reporters[0]: Option 'projekt' is not accepted",
    ),
    "no name for a project": (
        put("reporters", value=[gene("WandbReporter", project="a/b", mode="offline")]),
        "evolution.reporters[0].project: 'a/b' is not a valid name: at most 128 characters, none of / \\ # ? % :",
    ),
    "unknown predictor of curves": (
        put("callbacks", value=[gene("EarlyFitnessPrediction", predictor="BayesCurve")]),
        "not BayesCurve. Given value: BayesCurve; choose from BayesianCurve, LastValue, RegressionCurve",
    ),
    "unknown policy": (
        put("callbacks", value=[gene("EarlyFitnessPrediction", policy="Median")]),
        "evolution.callbacks[0].policy: Expected a class that can be imported, not Median. Given value: Median; choose from "
        "Hyperband, MedianRule, ",
    ),
    "a policy of the second callback": (
        put(
            "callbacks",
            value=["FastTraining", gene("EarlyFitnessPrediction", policy=gene("MedianRule", minimum_epochs=-1))],
        ),
        "evolution.callbacks[1].policy.minimum_epochs: -1 is not at least 1",
    ),
    "a trigger within a trigger": (
        put(
            "callbacks",
            value=[
                gene("StructuralGrowth", triggers=[gene("AllOf", triggers=["Plateau", gene("Plateau", horizon=-1)])])
            ],
        ),
        "evolution.callbacks[0].triggers[0].triggers[1].horizon: -1 is not",
    ),
    "a population whose training has no end": (
        lambda config, whole: (
            config["trainer"].update(max_epochs=-1),
            whole["evolution"].update(algorithm=gene("PopulationBasedTraining")),
        ),
        "trainer.max_epochs: -1 is not a valid length for PopulationBasedTraining",
    ),
    "a population that trains longer than the Trainer": (
        put("algorithm", value=gene("PopulationBasedTraining", epochs=9)),
        "evolution.algorithm.epochs: 9 is more than trainer.max_epochs, 2, on which schedules are based",
    ),
    "early stopping of a population": (
        lambda config, whole: whole["evolution"].update(
            algorithm=gene("PopulationBasedTraining"), callbacks=[gene("EarlyFitnessPrediction")]
        ),
        "evolution.callbacks: EarlyFitnessPrediction ends trainings early, which members of PopulationBasedTraining",
    ),
    "epochs as a gene of a population": (
        lambda config, whole: whole["evolution"].update(
            algorithm=gene("PopulationBasedTraining"), space={"trainer.max_epochs": gene("Integer", low=1, high=3)}
        ),
        "evolution.space.trainer.max_epochs: PopulationBasedTraining trains all members equally long",
    ),
    "a gene of a population that can't change in mid-training": (
        lambda config, whole: whole["evolution"].update(
            algorithm=gene("PopulationBasedTraining"),
            space={"trainer.limit_val_batches": gene("Integer", low=1, high=2)},
        ),
        "evolution.space: PopulationBasedTraining finds a schedule of hyperparameters: ",
    ),
    "structural genes of a population": (
        put("algorithm", value=gene("PopulationBasedTraining", population_size=2)),
        f"evolution.space.{WIDTH}: ",
    ),
    "a stack of one": (
        put("workers", "stack", value=1),
        "evolution.workers.stack: 1 is not 'auto' or a number of at least 2",
    ),
    "a module that isn't there": (
        put("workers", "preload", value=["toys", "nope.part"]),
        "evolution.workers.preload: there is no module 'nope.part'",
    ),
    "a text in the place of modules": (put("workers", "preload", value="toys"), "evolution.workers.preload: "),
    "a file in the place of a module": (
        put("workers", "preload", value=["./net.py"]),
        "evolution.workers.preload: './net.py' is not the name of a module, such as 'package.module'",
    ),
    "a stack of no number": (put("workers", "stack", value="many"), "evolution.workers.stack: "),
    "a stack across devices": (
        put("workers", value={"stack": 4, "devices_per_candidate": 2}),
        "evolution.workers.stack: 4 with devices_per_candidate 2: a stack trains several candidates on one device; leave "
        "one of the two out",
    ),
    "early stopping in a stack": (
        lambda config, whole: (
            config["trainer"].update(max_epochs=4),
            whole["evolution"]["workers"].update(stack="auto"),
            whole["evolution"].update(callbacks=[gene("EarlyFitnessPrediction")]),
        ),
        "evolution.callbacks: EarlyFitnessPrediction needs a Trainer for each candidate, but evolution.workers.stack: auto "
        "trains several in one; leave one of the two out",
    ),
    "a population in a stack": (
        lambda config, whole: (
            whole["evolution"]["workers"].update(stack="auto"),
            whole["evolution"].update(
                algorithm=gene("PopulationBasedTraining"), space={LR: whole["evolution"]["space"][LR]}
            ),
        ),
        "evolution.workers.stack: auto: candidates of PopulationBasedTraining continue each other one by one",
    ),
    "a swarm of one particle": (
        put("algorithm", value=gene("SwarmOptimization", particles=1)),
        "evolution.algorithm.particles: 1 is not at least 2; one particle is no swarm",
    ),
    "a swarm larger than the budget": (
        put("algorithm", value=gene("SwarmOptimization")),
        "evolution.budget.candidates: 6 is less than one swarm of SwarmOptimization, which has 12 particles",
    ),
    "a subset larger than the swarm": (
        lambda config, whole: whole["evolution"].update(
            algorithm=gene("SwarmOptimization", particles=4), callbacks=[gene("SwarmAveraging", subset=6)]
        ),
        "evolution.callbacks[0].subset: 6 is more than the 4 particles there are at most",
    ),
    "alpha 1": (
        put("callbacks", value=[gene("SwarmAveraging", alpha=1.0)]),
        "evolution.callbacks[0].alpha: 1.0 is not above 0 and below 1",
    ),
    "two intervals": (
        put("callbacks", value=[gene("SwarmAveraging", every_n_steps=4, every_n_epochs=1)]),
        "evolution.callbacks[0].every_n_steps",
    ),
    "slots 0": (put("workers", "slots", value=0), "evolution.workers.slots: 0 is not at least 1"),
    "more devices than exist": (
        lambda config, whole: (
            config["trainer"].update(accelerator="gpu"),
            whole["evolution"]["workers"].update(devices_per_candidate=99),
        ),
        "evolution.workers: ",
    ),
    "final override that doesn't exist": (
        put("final", value={"retrain": True, "overrides": {"trainer.max_epoch": 3}}),
        "evolution.final.overrides.trainer.max_epoch: 3 is not accepted: Group 'trainer' does not accept option 'max_epoch'",
    ),
    "no such model": (
        config_with("model", "class_path", value="toys.Nope"),
        "model: module 'toys' has no attribute 'Nope'",
    ),
    "checkpoint to continue from": (
        config_with("ckpt_path", value="some.ckpt"),
        "ckpt_path: 'some.ckpt' can't be used in a search",
    ),
}


def a_fit(stack=None, callback=None, **particle):
    """An ordinary fit of a stack, or of one particle, with averaging."""
    model = {"class_path": "toys.ToyNet", "init_args": {"width": 4, **particle}}
    if stack is not None:
        model = {"class_path": "lightning_evo.ParticleStack", "init_args": {"particles": model, **stack}}
    callbacks = [] if callback is None else [gene("SwarmAveraging", **callback)]
    return {
        "model": model,
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False, "callbacks": callbacks},
    }


SWARMS = {
    "different architectures": (a_fit({"size": 2, "vary": {"width": [2, 4]}}), "net.0"),
    "alpha 0": (a_fit({"size": 4}, {"alpha": 0.0}), "alpha: 0.0 is not above 0 and below 1"),
    "a subset larger than the swarm": (a_fit({"size": 4}, {"subset": 6}), "subset"),
    "one particle": (a_fit(callback={}), "a swarm of one particle has no other to average with"),
    "a stack of one": (a_fit({"size": 1}), "1"),
    "a value read in a vmapped step": (
        a_fit({"size": 2, "lowering": "stack", "particles": {"class_path": "swarm_nets.ReadsItsMetric"}}),
        "metric",
    ),
}


def a_growing_fit(strategy="auto", **settings):
    """An ordinary fit of a network that grows."""
    config = a_fit()
    config["trainer"]["strategy"] = strategy
    config["trainer"]["callbacks"] = [gene("StructuralGrowth", **settings)]
    return config


def a_growing_fit_with(section, class_path, **settings):
    """The same, with an optimizer or a schedule of one's own."""
    return {
        **a_growing_fit(triggers=FIXED, **settings),
        "optimizer": gene("torch.optim.SGD", lr=0.1),
        section: gene(class_path, **({"step_size": 1} if section == "lr_scheduler" else {})),
    }


class Sharded(SingleDeviceStrategy):
    """A strategy that is neither a single device nor DDP."""


class PerGroup(StepLR):
    """A schedule that keeps something for each parameter group, as far as anybody knows."""


FIXED = {"class_path": "FixedInterval", "init_args": {"epochs": 1}}
GROWTH = {
    "an optimizer that has no groups to extend": (
        a_growing_fit_with("optimizer", "torch.optim.LBFGS"),
        "StructuralGrowth: the optimizer can't be extended by new parameters: LBFGS keeps its parameters outside",
    ),
    "a schedule bound to its groups": (
        a_growing_fit_with("lr_scheduler", f"{__name__}.PerGroup", rate=0.5),
        "StructuralGrowth: rate: 0.5 puts new parameters in groups of their own, but the scheduler can't have more: ",
    ),
    "a strategy that can't be wrapped again": (
        # As FSDP is on GPUs.
        a_growing_fit(strategy=gene(f"{__name__}.Sharded", device="cpu"), triggers=FIXED),
        "StructuralGrowth: trainer.strategy Sharded can't be wrapped around a network that has changed",
    ),
    "a strategy that needs GPUs": (
        a_growing_fit(strategy="fsdp", triggers=FIXED),
        "trainer: The strategy `fsdp` requires a GPU accelerator, but ",
    ),
    "a layer that isn't there": (
        a_growing_fit(triggers=FIXED, layers=["net.7"]),
        "layers: 'net.7' is not a layer of the network; there are net.2, net.1, net.0",
    ),
    "an operation that isn't known": (
        a_growing_fit(triggers=FIXED, operations=["shrink"]),
        "trainer.callbacks[0].operations: Expected a typing.Literal['insert', 'widen', 'residual', 'prune', 'kernel', "
        "'activation']. Got value: shrink",
    ),
    "an operation that no layer offers": (
        a_growing_fit(triggers=FIXED, operations=["kernel"]),
        "operations: 'kernel' can be done to no layer: net.0: ",
    ),
    "fewer parameters than there are": (
        a_growing_fit(triggers=FIXED, max_parameters=10),
        "max_parameters: 10 is below the 22 parameters that the network has",
    ),
    "no share to grow by": (
        a_growing_fit(triggers=FIXED, expand_ratio=0.0),
        "trainer.callbacks[0].expand_ratio: 0.0 is not above 0",
    ),
    "no epochs between steps": (
        a_growing_fit(triggers=FIXED, min_epochs_between=0),
        "min_epochs_between: 0 is not an integer of at least 1",
    ),
    "no metric for a plateau": (a_growing_fit(), "monitor: null, but Plateau needs it"),
    "a request that can't be fulfilled": (
        a_growing_fit(triggers=FIXED, initial=[{"operation": "widen", "place": 3}]),
        "initial[0]: place: 3 is not from 0 to 1",
    ),
    "a number of a trigger in a list": (
        a_growing_fit(triggers=[{"class_path": "FixedInterval", "init_args": {"epochs": 0}}]),
        "trainer.callbacks[0].triggers[0].epochs: 0 is not an integer of at least 1",
    ),
    "a trigger's number": (
        a_growing_fit(triggers={"class_path": "FixedInterval", "init_args": {"epochs": 0}}),
        "trainer.callbacks[0].triggers.epochs: 0 is not an integer of at least 1",
    ),
}


@pytest.mark.parametrize("case", {**SWARMS, **GROWTH})
def test_a_swarm_or_growth_that_cannot_be_is_refused_before_training(case, tmp_path, capsys, monkeypatch):
    config, expected = {**SWARMS, **GROWTH}[case]
    monkeypatch.chdir(tmp_path)
    # Lightning's own logger writes to the standard error of another test.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "fit.yaml", "--trainer.enable_progress_bar=false"])
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert expected in printed.err
    assert printed.err.count("lightning-evo: error:") == 1
    assert "Traceback" not in printed.err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_trained(case, tmp_path, capsys):
    change, expected = CASES[case]
    with pytest.raises(SystemExit) as stop:
        main(write(tmp_path, change))
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert expected in printed.err
    assert printed.err.count("lightning-evo: error:") == 1
    assert "Traceback" not in printed.err
    assert not (tmp_path / "run").exists()


BOMB = "\n".join(
    ["x: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"] + [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 10)]
)
FILES = {
    "a section without anything in it": (b"evolution:", "evolution: None is not a mapping"),
    "a gene line that was copied": (
        b"evolution:\n  space:\n    model.lr: 1\n    model.width: 2\n    model.lr: 3\n",
        "line 5: the key 'model.lr' is already on line 3",
    ),
    "JSON with a key twice": (
        b'{"evolution": {"seed": 1,\n "seed": 2}}',
        "line 2: the key 'seed' is already on line 1",
    ),
    "not UTF-8": (b"evolution:\n  directory: caf\xe9\n", "line 2: the byte 0xe9 is not UTF-8"),
    "UTF-16": ("evolution:".encode("utf-16"), "encoded as UTF-16 or UTF-32; save it as UTF-8"),
    "a NUL": (b"evolution:\n  seed: \0", "line 2: the character U+0000 is not allowed in YAML"),
    "an anchor within itself": (b"evolution: &a\n  space: *a\n", "line 2: *a stands within what it refers to"),
    "a bomb of aliases": (BOMB.encode(), "aliases stand for more than 100000 values"),
    "a bomb of brackets": (b"x: " + b"[" * 100_000, "line 1, column"),
    "a tower of mappings": (b"{a: " * 200 + b"}" * 200, "line 1: nested deeper than 100 levels"),
    "too large": (b"a: 1\n" + b"#" * 3_000_000, "larger than 2 MiB, so not a config file"),
    "nothing": (b"", "holds nothing, not a mapping of settings"),
    "a list": (b"- 1", "holds a list, not a mapping of settings"),
    "a tag of Python": (b"a: !!python/object:os.system x", "could not determine a constructor for the tag"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_config_is_refused_by_name_and_line(case, tmp_path, capsys):
    content, expected = FILES[case]
    arguments = write(tmp_path)
    (tmp_path / "search.yaml").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert expected in said
    assert said.count("\n") == 1
    assert "search.yaml" in said or said.startswith("lightning-evo: error: evolution: ")


def test_a_byte_order_mark_and_merge_keys_are_no_errors(tmp_path, capsys):
    arguments = write(tmp_path, lambda config, whole: [whole["evolution"].pop(name) for name in ("budget", "workers")])
    with (tmp_path / "search.yaml").open("rb+") as file:
        text = file.read()
        file.seek(0)
        file.write(b"\xef\xbb\xbf" + text + b"  workers: {<<: &w {slots: 2}, <<: {threads: 1}}\n")
    with pytest.raises(SystemExit):
        main(arguments)
    assert "evolution.budget: nothing is set" in capsys.readouterr().err


class NamingCLI(EvolutionCLI):
    """A command line with a mapping of its own."""

    def add_arguments_to_parser(self, parser):
        parser.add_argument("--names", type=dict[int, str])


def test_keys_of_the_users_own_mappings_may_be_anything(tmp_path, capsys):
    arguments = write(tmp_path, drop("budget"))
    with (tmp_path / "config.yaml").open("a") as file:
        file.write("names: {0: zero, 1: one}\n")
    with pytest.raises(SystemExit):
        NamingCLI(args=arguments)
    assert "evolution.budget: nothing is set" in capsys.readouterr().err


def test_days_of_a_budget_are_not_read_in_base_60(tmp_path, capsys, monkeypatch):
    arguments = write(tmp_path, put("budget", value={"wall_time": "LATER"}))
    search = tmp_path / "search.yaml"
    search.write_text(search.read_text().replace("LATER", "1:00:00:00"))
    found = []
    monkeypatch.setattr("lightning_evo.cli.lightning.Evolution.run", lambda evolution: found.append(evolution.budget))
    main(arguments)
    assert found[0].seconds == 86400


@pytest.mark.parametrize(
    ("make", "expected"), [(os.mkfifo, "nobody has written"), (os.mkdir, "a directory, not a file")]
)
def test_what_is_no_file_is_refused(make, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(config_files, "PATIENCE", 0.1)
    make(tmp_path / "it")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(tmp_path / "it")])
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_section_is_read_once_or_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(config_files, "PATIENCE", 0.1)
    pipe, config = tmp_path / "it", tmp_path / "config.yaml"
    os.mkfifo(pipe)
    config.write_text(f"trainer: {pipe}\n")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "trainer: " in error
    assert "nobody has written" in error
    with ThreadPoolExecutor(1) as threads:
        threads.submit(pipe.write_text, 'max_epochs: "12:30:00"\n')
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config)])
    error = capsys.readouterr().err
    assert "trainer.max_epochs: " in error
    assert "Expected a int. Given value: 12:30:00" in error


def test_a_config_may_come_through_a_pipe(tmp_path, capsys):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(path.write_text, "evolution: {seed: x}\n")
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(path)])
    assert "evolution.seed: Expected a int. Given value: x" in capsys.readouterr().err


TRAINING_CASES = {
    "a metric that is never logged": (
        put("objectives", value=[{"monitor": "val_accuracy"}]),
        "the first candidate failed: MetricNotLogged: val_accuracy: never logged; "
        "the module logs train_loss, val_acc, val_loss",
    ),
    "a model that always crashes": (
        config_with("model", "init_args", "misbehave", value="crash"),
        "all of the first 3 candidates failed: RuntimeError: this model always crashes",
    ),
    "a model that kills its worker": (
        lambda config, whole: (
            config["model"]["init_args"].update(misbehave="die"),
            whole["evolution"]["workers"].update(max_retries=0),
        ),
        "all of the first 3 candidates failed: WorkerDied",
    ),
    "a disk that is full": (
        config_with("model", "init_args", "misbehave", value="full"),
        "failed because of the machine: OSError: [Errno 28] No space left on device",
    ),
}


@pytest.mark.parametrize("case", TRAINING_CASES)
def test_what_only_training_can_show_stops_the_search_with_one_error(case, tmp_path, capsys):
    change, expected = TRAINING_CASES[case]
    with pytest.raises(SystemExit) as stop:
        main(write(tmp_path, change))
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert expected in printed.err
    assert "Traceback" not in printed.err
    assert (tmp_path / "run" / "archive.sqlite").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["leaderboard", "nowhere"], "nowhere"),
        (["export", "nowhere", "--to", "best"], "nowhere"),
    ],
)
def test_reading_what_is_not_there_is_refused(arguments, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_console_script_says_the_same_without_a_traceback(tmp_path):
    arguments = write(tmp_path, CASES["low above high"][0])
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert CASES["low above high"][1] in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_directory_that_is_a_file_is_refused(tmp_path, capsys):
    arguments = write(tmp_path)
    Path(tmp_path / "run").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert str(tmp_path / "run") in capsys.readouterr().err


def test_the_process_is_left_as_it_was(tmp_path, capsys):
    argv = list(sys.argv)
    with pytest.raises(SystemExit):
        main(write(tmp_path, CASES["no budget"][0]))
    assert sys.argv == argv
