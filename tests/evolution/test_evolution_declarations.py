"""A callback is treated by what it declares, whoever wrote it: no feature is known to the core by its class."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
import warm
from lightning.pytorch import Trainer
from searching import Recorded, threads

import lightning_evo
from lightning_evo import Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import PopulationBasedTraining, RegularizedEvolution, SwarmOptimization
from lightning_evo.callbacks import StructuralGrowth
from lightning_evo.callbacks.search import ExportedStructure, Inherited, SearchCallback, SearchContext
from lightning_evo.evolution import SearchError
from lightning_evo.functional.growth import GrowthError
from lightning_evo.genome import LogUniform, Ordinal
from lightning_evo.training import Blueprint, TrainingRequest, train_candidate
from lightning_evo.training.packing import pack, restore_structure
from lightning_evo.training.proxies import measure_candidate
from toys import ToyData, ToyNet

LR, WIDTH = "model.init_args.lr", "model.init_args.width"


class Averaging(SearchCallback):
    """Somebody else's averaging of weights, which writes down what it may know."""

    averages_weights = True
    works_in_stacks = True

    def __init__(self, members: int = 2) -> None:
        self.members = members

    def check_stack(self, size: int) -> None:
        if self.members > size:
            raise ValueError(f"members: {self.members} of {size}")

    def join_search(self, context: SearchContext) -> None:
        told = {"exchange": context.exchange, "ancestry": context.ancestry}
        Path(context.directory, "told.json").write_text(json.dumps(told))


class Fitting(SearchCallback):
    """Somebody else's inheritance."""

    needs_parent = True
    fits_structures = True


class Ending(SearchCallback):
    """Somebody else's early stopping."""

    ends_trainings = True


class Alone(SearchCallback):
    """Needs a Trainer of its own, as is the default."""


class Doubling(SearchCallback):
    """Changes the structure: another layer behind the last."""

    changes_structure = True

    def setup(self, trainer: Trainer, pl_module: ToyNet, stage: str) -> None:
        if len(pl_module.net) == 3:
            pl_module.net.append(torch.nn.Linear(2, 2))

    @classmethod
    def restore_structure(cls, pl_module, checkpoint):
        if checkpoint["state_dict"].get("net.3.weight", torch.empty(0)).shape != (2, 2):
            return False
        pl_module.net.append(torch.nn.Linear(2, 2))
        return True

    @classmethod
    def export_structure(cls, checkpoint, to):
        # Only a checkpoint that is trusted comes here: of every search of this process, not of ours alone.
        state = torch.load(checkpoint, weights_only=False)["state_dict"]
        if state.get("net.3.weight", torch.empty(0)).shape != (2, 2):
            return None
        (to / "model.ckpt").write_bytes(checkpoint.read_bytes())
        section = {"class_path": "elsewhere.Deeper", "init_args": {}}
        return ExportedStructure((to / "model.ckpt",), "it is deeper now", section)


class Resuming(SearchCallback):
    """Has ``fit`` continue another training, before all other callbacks."""

    comes_first = True

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    @property
    def resume_from(self) -> str:
        return self.checkpoint

    def on_train_start(self, trainer, pl_module):
        self.began = trainer.current_epoch
        self.place = trainer.callbacks.index(self)

    @property
    def extra(self):
        return {"began": self.began, "place": self.place}


class Rigid(SearchCallback):
    """Works on one structure alone."""

    fixed_structure = "it counts layers"


class Heir(SearchCallback):
    """Takes a parent's weights before another callback changes the structure."""

    needs_parent = True

    def __init__(self) -> None:
        self.steps: list[str] = []

    def inherit_early(self, pl_module, checkpoint):
        pl_module.load_state_dict(checkpoint["state_dict"])
        return True

    def on_early_growth(self, growth, before, pl_module):
        self.steps.append(growth.step.operation)


def search(directory, pool=None, callbacks=(), **changes):
    settings = {
        "space": {LR: LogUniform(1e-3, 0.4)},
        "algorithm": RegularizedEvolution(population_size=2),
        "objectives": [Objective("val_loss", "min")],
        "budget": Budget(candidates=2),
        "workers": Workers(slots=1, threads=None if pool else 1),
        "seed": 1,
        "config": {
            "model": {"class_path": "toys.ToyNet", "init_args": {"width": 4}},
            "data": {"class_path": "toys.ToyData"},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        },
        "executor": pool,
        "final": None,
        "progress": Recorded(),
    } | changes
    return Evolution(directory=directory, callbacks=list(callbacks), **settings)


def told(directory, candidate=0):
    return json.loads((directory / "candidates" / f"{candidate:06d}" / "told.json").read_text())


def test_whatever_averages_weights_is_given_the_exchange_and_the_ancestry(tmp_path):
    with threads(1) as pool:
        search(tmp_path, pool, [Averaging()]).run()
    assert told(tmp_path) == {"exchange": str(tmp_path / "exchange"), "ancestry": "0"}


def test_whatever_averages_weights_takes_the_place_of_a_swarms_own_callback(tmp_path):
    given = search(tmp_path, callbacks=[Averaging()], algorithm=SwarmOptimization(particles=2))
    assert [type(one) for one in given.callbacks] == [Averaging]
    added = search(tmp_path, algorithm=SwarmOptimization(particles=4))
    assert [type(one).__name__ for one in added.callbacks] == ["SwarmAveraging"]
    assert added.callbacks[0].subset == 2


def test_a_stack_is_refused_by_a_callback_that_does_not_work_in_it_or_needs_a_larger_one(tmp_path):
    workers = Workers(slots=1, stack=4, threads=1)
    with pytest.raises(SearchError, match="Alone needs a Trainer for each candidate"):
        search(tmp_path, callbacks=[Alone()], workers=workers).run()
    with pytest.raises(SearchError, match=r"evolution\.callbacks\[0\]\.members: 5 of 4"):
        search(tmp_path, callbacks=[Averaging(5)], workers=workers).run()


def test_a_population_is_refused_a_callback_that_ends_trainings(tmp_path):
    with pytest.raises(SearchError, match="Ending ends trainings early"):
        search(tmp_path, callbacks=[Ending()], algorithm=PopulationBasedTraining(2))


def test_a_population_may_change_the_structure_where_a_callback_fits_it(tmp_path):
    changes = {"space": {WIDTH: Ordinal([2, 4])}, "algorithm": PopulationBasedTraining(2)}
    with pytest.raises(SearchError, match=r"put the callback Fitting or .*WeightInheritance"):
        search(tmp_path, **changes)._check()
    search(tmp_path, callbacks=[Fitting()], **changes)._check()


def test_whatever_needs_a_parent_has_children_inherit(tmp_path):
    assert search(tmp_path, callbacks=[Fitting()]).search.inherits
    assert not search(tmp_path, callbacks=[Ending()]).search.inherits


def test_a_network_is_measured_with_the_structure_that_a_callback_gives_it(config):
    def parameters(**trainer):
        complete = Blueprint().resolve({**config, "trainer": {**config["trainer"], **trainer}})
        result = measure_candidate(blueprint=Blueprint(), config=complete, names=["params"])
        assert result.status == "completed", result.error
        return result.metrics["params"]

    assert parameters(callbacks=[{"class_path": f"{__name__}.Doubling"}]) == parameters() + 6


def test_a_network_whose_structure_a_callback_changed_is_packed_and_restored_by_it(config, tmp_path):
    module = ToyNet()
    Doubling().setup(Trainer(barebones=True), module, "fit")
    torch.save({"state_dict": module.state_dict()}, tmp_path / "deep.ckpt")
    torch.save({"state_dict": ToyNet().state_dict()}, tmp_path / "plain.ckpt")
    config["trainer"]["callbacks"] = [{"class_path": f"{__name__}.{name}"} for name in ("Doubling", "Rigid")]
    to = tmp_path / "to"
    to.mkdir()
    text = Blueprint().resolve(config)
    package = pack(json.dumps(text), tmp_path / "deep.ckpt", to, trusted=True)
    assert package.message == "it is deeper now"
    written = lightning_evo.training.blueprint.load_yaml((to / "config.yaml").read_text())
    assert written["model"]["class_path"] == "elsewhere.Deeper"
    assert [one["class_path"].rpartition(".")[2] for one in written["trainer"]["callbacks"]] == ["Rigid"]
    assert pack(json.dumps(text), tmp_path / "plain.ckpt", to, trusted=False).message == ""
    restored = ToyNet()
    restore_structure(restored, tmp_path / "plain.ckpt", trusted=False)
    assert len(restored.net) == 3
    restore_structure(restored, tmp_path / "deep.ckpt", trusted=True)
    assert len(restored.net) == 4


def test_a_callback_may_come_first_and_have_a_training_continued(config, tmp_path):
    complete = Blueprint().resolve({"seed_everything": 7, **config})
    objectives = [Objective("val_acc")]
    request = TrainingRequest(str(tmp_path / "a"), objectives, fitness_epoch="last")
    first = train_candidate(Blueprint(), complete, request)
    complete["trainer"]["max_epochs"] = 3
    resuming = Resuming(str(tmp_path / "a" / first.checkpoint))
    request = TrainingRequest(str(tmp_path / "b"), objectives, callbacks=[Alone(), resuming])
    result = train_candidate(Blueprint(), complete, request)
    assert result.status == "completed", result.error
    assert {key: result.extra[key] for key in ("began", "place")} == {"began": 2, "place": 0}


def test_growth_is_refused_by_a_callback_that_needs_one_structure(tmp_path):
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        callbacks=[StructuralGrowth(), Rigid()],
        logger=False,
    )
    with pytest.raises(GrowthError, match="Rigid can't follow a network that grows: it counts layers"):
        trainer.fit(ToyNet(), ToyData())


def test_growth_has_whatever_inherits_take_the_parents_weights_before_it_grows(tmp_path):
    torch.save({"state_dict": ToyNet().state_dict(), "callbacks": {}}, tmp_path / "parent.ckpt")
    growth = StructuralGrowth(initial=[{"operation": "widen", "place": 0.0, "ratio": 2.0}], monitor="val_acc")
    heir = Heir()
    objectives = (Objective("val_acc"),)
    growth.join_search(SearchContext(1, 1, objectives, parent=Inherited(0, str(tmp_path / "parent.ckpt"), 0)))
    module = ToyNet()
    trainer = Trainer(accelerator="cpu", callbacks=[growth, heir], barebones=True)
    growth.setup(trainer, module, "fit")
    assert heir.steps == ["widen"]
    assert module.net[0].out_features == 8


def test_this_packages_callbacks_are_found_though_nobody_has_imported_them():
    code = "from lightning_evo.callbacks.search import callbacks_that as that; print(*that('changes_structure'))"
    done = warm.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "StructuralGrowth" in done.stdout


FEATURES = {
    "callbacks/growth": {"StructuralGrowth"},
    "callbacks/averaging": {"SwarmAveraging"},
    "callbacks/fast": {"FastTraining"},
    "callbacks/inheritance": {"WeightInheritance"},
    "callbacks/continuation": {"Continuation"},
    "callbacks/hyperparameter_schedule": {"HyperparameterSchedule"},
    "callbacks/early_fitness": {"EarlyFitnessPrediction"},
    "swarms": {"ParticleStack", "SwarmStrategy"},
}
"""Where a feature is -> the classes by which it is known."""

CORE = ("evolution", "training", "execution")


def test_no_class_of_a_feature_is_named_in_the_core_or_in_another_feature():
    root = Path(lightning_evo.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).with_suffix("").as_posix()
        at_home = {name for feature, names in FEATURES.items() if place.startswith(feature) for name in names}
        if not place.startswith((*CORE, *FEATURES)):
            continue
        named = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named |= {alias.name for alias in node.names}
            named |= {getattr(node, "id", None), getattr(node, "attr", None)} - {None}
        others = set().union(*FEATURES.values()) - at_home
        found += [f"{place}: {name}" for name in sorted(named & others)]
    assert found == []
