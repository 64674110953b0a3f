"""Searches whose candidates grow: children are their parent plus a step, growth policies vary, winners open again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import warm
import yaml
from commands import write
from lightning.pytorch import Trainer

from lightning_evo import Archive
from lightning_evo.callbacks.growth.loading import load_grown
from lightning_evo.cli import main
from toys import ToyData, ToyNet

GROWTH = "trainer.callbacks.StructuralGrowth.init_args"
INITIAL = f"{GROWTH}.initial"
LR = "model.init_args.lr"


def gene(class_path, **init_args):
    return {"class_path": class_path, "init_args": init_args}


def search(space=None, policy=None, algorithm=None, candidates=8, **section):
    """A change to a search over growth: the callback in the config, inherited weights, a rate that barely trains."""

    def change(config, whole):
        policy_ = {"triggers": gene("FixedInterval", epochs=100), "spread": 0.0, **(policy or {})}
        config["trainer"] |= {"callbacks": [gene("StructuralGrowth", **policy_)]}
        whole["evolution"] |= {
            "space": {LR: gene("LogUniform", low=1e-6, high=1e-5), **(space or {})},
            "algorithm": algorithm or gene("RegularizedEvolution", population_size=3, tournament_size=2),
            "callbacks": [gene("WeightInheritance", new_units="net2wider")],
            "budget": {"candidates": candidates},
            "workers": {"slots": 1},
            **section,
        }

    return change


def growths(archive) -> dict[int, list[dict]]:
    return {row["id"]: list(archive.result(row["id"]).extra.get("growth", [])) for row in archive.candidates()}


def steps(records) -> list[str]:
    return [json.dumps([record[name] for name in ("operation", "layer", "settings")]) for record in records]


def first_loss(archive, id: int) -> float:
    return archive.result(id).curve[0]["val_loss"]


@pytest.mark.slow
def test_a_child_is_its_parent_plus_a_step_and_computes_what_its_parent_computed(tmp_path, capsys):
    steps_gene = gene("GrowthSteps", operations=["widen", "insert", "residual"], mutations={"append": 1.0})
    main(write(tmp_path, search({INITIAL: steps_gene}, candidates=14)))
    with Archive(tmp_path / "run") as archive:
        rows = archive.candidates()
        assert {row["status"] for row in rows} == {"completed"}, [archive.result(row["id"]).error for row in rows]
        grown, taken = growths(archive), archive.extras("inheritance")
        more = 0
        for row in rows:
            mine = grown[row["id"]]
            assert len(mine) == len(row[INITIAL])
            assert all(record["after"] > record["before"] for record in mine)
            if row["inherits"] is None:
                continue
            theirs = grown[row["inherits"]]
            assert steps(mine)[: len(theirs)] == steps(theirs)
            more += len(mine) - len(theirs)
            assert taken[row["id"]]["from"] == row["inherits"]
            assert taken[row["id"]]["preserving"], taken[row["id"]]["why_not"]
            # With this learning rate next to nothing is learned: the loss is the parent's, whatever the child's seed.
            assert first_loss(archive, row["id"]) == pytest.approx(first_loss(archive, row["inherits"]), abs=1e-3)
        scratch = [first_loss(archive, row["id"]) for row in rows if row["inherits"] is None]
        assert max(scratch) - min(scratch) > 0.01
        assert more >= 4
        assert {record["operation"] for records in grown.values() for record in records} == {
            "widen",
            "insert",
            "residual",
        }
    capsys.readouterr()
    main(["leaderboard", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "growth: " in shown
    assert " to " in shown


@pytest.mark.slow
def test_a_child_of_a_parent_that_grew_by_its_triggers_starts_with_all_of_that(tmp_path):
    policy = {"triggers": gene("FixedInterval", epochs=1), "min_epochs_between": 1, "operations": ["widen"]}
    steps_gene = gene("GrowthSteps", operations=["widen"], mutations={"append": 1.0})
    change = search({INITIAL: steps_gene}, policy, candidates=6, fitness_epoch="last")
    main(write(tmp_path, change))
    with Archive(tmp_path / "run") as archive:
        rows = archive.candidates()
        assert {row["status"] for row in rows} == {"completed"}, [archive.result(row["id"]).error for row in rows]
        grown, taken = growths(archive), archive.extras("inheritance")
        children = [row for row in rows if row["inherits"] is not None]
        assert children
        for row in children:
            mine, theirs = grown[row["id"]], grown[row["inherits"]]
            assert any(record["epoch"] for record in theirs)
            assert steps(mine)[: len(theirs)] == steps(theirs)
            assert taken[row["id"]]["preserving"], taken[row["id"]]["why_not"]


@pytest.mark.slow
def test_how_a_network_grows_can_vary_triggers_included(tmp_path):
    space = {
        f"{GROWTH}.expand_ratio": gene("Categorical", choices=[0.7, 1.0]),
        f"{GROWTH}.triggers.0.init_args.epochs": gene("Categorical", choices=[1, 100]),
        f"{GROWTH}.operations": gene("Categorical", choices=[["widen"], ["residual"]]),
    }
    policy = {"triggers": [gene("FixedInterval", epochs=2)], "min_epochs_between": 1}
    change = search(space, policy, gene("RandomSearch"), candidates=10, callbacks=[])
    main(write(tmp_path, change))
    seen = set()
    with Archive(tmp_path / "run") as archive:
        for row in archive.candidates():
            config = yaml.safe_load((tmp_path / f"run/candidates/{row['id']:06d}/config.yaml").read_text())
            (callback,) = config["trainer"]["callbacks"]
            asked = callback["init_args"]
            assert asked["expand_ratio"] == row[f"{GROWTH}.expand_ratio"]
            assert asked["triggers"][0]["init_args"]["epochs"] == row[f"{GROWTH}.triggers.0.init_args.epochs"]
            records = growths(archive)[row["id"]]
            assert bool(records) == (asked["triggers"][0]["init_args"]["epochs"] == 1)
            for record in records:
                assert record["operation"] == asked["operations"][0]
                assert 0 < record["after"] - record["before"] <= asked["expand_ratio"] * record["before"]
            seen.update(record["operation"] for record in records)
    assert seen == {"widen", "residual"}


def winner(directory: Path, operations, **section) -> None:
    """A search of which every candidate has grown by one of ``operations``."""
    steps_gene = gene("GrowthSteps", operations=operations, initial_steps=2, max_steps=2)

    def change(config, whole):
        search({INITIAL: steps_gene}, candidates=2, **section)(config, whole)
        place = 0.0
        ratio = {"ratio": 2.0} if operations == ["widen"] else {}
        value = [{"operation": operations[0], "place": place, **ratio}]
        algorithm = gene("RandomSearch", initial=[{INITIAL: value}, {INITIAL: value}])
        whole["evolution"]["algorithm"] = algorithm

    main(write(directory, change))


def test_result(config: Path, checkpoint: Path, cwd: Path) -> dict:
    code = (
        "from lightning.pytorch.cli import LightningCLI; "
        f"LightningCLI(args=['test', '--config', {str(config)!r}, '--ckpt_path', {str(checkpoint)!r}])"
    )
    tests = Path(__file__).parents[1]
    return warm.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tests)!r}); {code}"],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
    )


test_result.__test__ = False


@pytest.mark.slow
def test_a_winner_that_its_class_can_express_opens_in_stock_lightning(tmp_path, capsys):
    winner(tmp_path, ["widen"])
    assert "the network has grown: config.yaml holds the model as it is now" in capsys.readouterr().out
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best"), "--torch-export"])
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"config.yaml", "model.ckpt", "model.pt2"}
    config = yaml.safe_load((tmp_path / "best/config.yaml").read_text())
    assert config["model"]["init_args"]["width"] == 8
    assert "StructuralGrowth" not in (tmp_path / "best/config.yaml").read_text()
    opened = ToyNet.load_from_checkpoint(tmp_path / "best/model.ckpt")
    assert opened.net[0].out_features == 8
    (tested,) = Trainer(logger=False, enable_progress_bar=False).test(opened, ToyData(), verbose=False)
    with Archive(tmp_path / "run") as archive:
        assert tested["test_loss"] == pytest.approx(archive.meta["final"]["metrics"]["test_loss"], abs=1e-6)
    stock = test_result(tmp_path / "best/config.yaml", tmp_path / "best/model.ckpt", tmp_path)
    assert stock.returncode == 0, stock.stderr


@pytest.mark.slow
def test_a_winner_that_its_class_cannot_express_comes_with_a_recipe(tmp_path, capsys):
    winner(tmp_path, ["residual"])
    capsys.readouterr()
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "best"), "--torch-export"])
    assert "lightning_evo.load_grown opens model.ckpt" in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names == {"config.yaml", "model.ckpt", "grown.yaml", "model.pt2"}
    opened = load_grown(tmp_path / "best/model.ckpt")
    (tested,) = Trainer(logger=False, enable_progress_bar=False).test(opened, ToyData(), verbose=False)
    with Archive(tmp_path / "run") as archive:
        assert tested["test_loss"] == pytest.approx(archive.meta["final"]["metrics"]["test_loss"], abs=1e-6)
    points = torch.randn(7, 2)
    program = torch.export.load(tmp_path / "best/model.pt2").module()
    assert torch.allclose(program(points), opened.eval()(points), atol=1e-5)
    again = test_result(tmp_path / "best/config.yaml", tmp_path / "best/model.ckpt", tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_candidate_other_than_the_winner_is_exported_as_it_has_grown(tmp_path):
    winner(tmp_path, ["widen"])
    with Archive(tmp_path / "run") as archive:
        (best,) = archive.best(1)
        other = next(row["id"] for row in archive.candidates() if row["id"] != best["id"])
    main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "other"), "--candidate", str(other)])
    assert ToyNet.load_from_checkpoint(tmp_path / "other/model.ckpt").net[0].out_features == 8


@pytest.mark.slow
def test_a_winner_that_has_grown_is_retrained_and_tested(tmp_path):
    winner(tmp_path, ["insert"], final={"retrain": True, "overrides": {"trainer.max_epochs": 3}})
    with Archive(tmp_path / "run") as archive:
        assert archive.meta["final"]["retrained"]
        assert "test_acc" in archive.meta["final"]["metrics"]
    assert load_grown(tmp_path / "run/final/model.ckpt").net(torch.zeros(1, 2)).shape == (1, 2)


REFUSED = {
    "growth without the callback": (
        lambda config, whole: config["trainer"].pop("callbacks"),
        {INITIAL: gene("GrowthSteps")},
        f"evolution.space.{INITIAL}: trainer.callbacks.StructuralGrowth: 'StructuralGrowth' names no element of the list",
    ),
    "an operation that is none": (
        lambda config, whole: None,
        {INITIAL: gene("GrowthSteps", operations=["deepen"])},
        "'deepen' is not one of insert, widen",
    ),
    "a trigger that isn't there": (
        lambda config, whole: None,
        {f"{GROWTH}.triggers.Plateau.init_args.epsilon": gene("Uniform", low=0.1, high=0.2)},
        f"evolution.space.{GROWTH}.triggers.Plateau.init_args.epsilon: ",
    ),
    "a policy out of range": (
        lambda config, whole: None,
        {f"{GROWTH}.expand_ratio": gene("Categorical", choices=["much", 0.5])},
        f"evolution.space.{GROWTH}.expand_ratio: 'much' is not accepted",
    ),
    "growth of a population": (
        lambda config, whole: whole["evolution"].update(algorithm=gene("PopulationBasedTraining"), callbacks=[]),
        {INITIAL: gene("GrowthSteps")},
        "evolution.space: PopulationBasedTraining finds a schedule of hyperparameters: ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_genes_of_growth_that_cannot_be_are_refused_before_anything_trains(case, tmp_path, capsys):
    alter, space, expected = REFUSED[case]

    def change(config, whole):
        search(space, {"triggers": [gene("FixedInterval", epochs=2)]})(config, whole)
        alter(config, whole)

    with pytest.raises(SystemExit) as stop:
        main(write(tmp_path, change))
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert expected in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run/candidates").exists()
