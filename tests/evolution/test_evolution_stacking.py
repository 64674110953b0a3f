"""Candidates that differ only in numbers train as one stack, and each is recorded as if it had trained by itself."""

from __future__ import annotations

import json

import pytest
from searching import Recorded, threads
from stacking_nets import Witness

from lightning_evo import Archive, Budget, Evolution, Objective, Workers
from lightning_evo.algorithms import GenerationalEvolution, PopulationBasedTraining, RandomSearch, SwarmOptimization
from lightning_evo.callbacks import EarlyFitnessPrediction, WeightInheritance
from lightning_evo.callbacks.averaging.swarm_averaging import SwarmAveraging
from lightning_evo.evolution import SearchError
from lightning_evo.evolution.checks import compare_in_worker
from lightning_evo.evolution.stacking import AUTO, Grouping, fixed_genes
from lightning_evo.genome import (
    Candidate,
    Categorical,
    Genome,
    Integer,
    LogUniform,
    Ordinal,
    SearchSpace,
    Uniform,
)
from lightning_evo.genome.links import read_links
from lightning_evo.training import ConfigTrainable
from lightning_evo.training.structure import StructureComparison
from toys import ToyNet, sphere

LR, WIDTH = "model.init_args.lr", "model.init_args.width"
RATES = {LR: LogUniform(1e-3, 0.4)}


def config(model="toys.ToyNet", epochs=2, **arguments):
    return {
        "model": {"class_path": model, "init_args": {"width": 4, **arguments}},
        "data": {"class_path": "toys.ToyData"},
        "trainer": {"max_epochs": epochs, "accelerator": "cpu", "enable_model_summary": False},
    }


def search(directory, pool=None, **changes) -> Evolution:
    settings = {
        "space": RATES,
        "algorithm": GenerationalEvolution(population_size=6, elitism=2),
        "objectives": [Objective("val_loss", "min")],
        "budget": Budget(candidates=6),
        "workers": Workers(slots=1, stack="auto", threads=None if pool else 1),
        "seed": 1,
        "config": config(),
        "executor": pool,
        "final": None,
        "progress": Recorded(),
    } | changes
    return Evolution(directory=directory, **settings)


def losses(archive: Archive) -> dict[int, float]:
    return {row["id"]: row["val_loss"] for row in archive.candidates() if row["status"] == "completed"}


def candidates(*genomes) -> list[Candidate]:
    return [Candidate(i, Genome(genome)) for i, genome in enumerate(genomes)]


def ids(groups) -> list[list[int]]:
    return [[candidate.id for candidate in group] for group in groups]


# -- who is put together -----------------------------------------------------------------------------------------------


def test_candidates_that_agree_in_all_fixed_genes_are_put_together_up_to_the_limit():
    made = candidates(*[{"model.width": width, "model.lr": lr} for lr in (0.1, 0.2, 0.3) for width in (8, 16)])
    grouping = Grouping({"model.width": "changes the structure", "model.lr": ""}, 2)
    assert ids(grouping.split(made)) == [[0, 2], [1, 3], [4], [5]]


def test_candidates_with_other_active_genes_are_kept_apart():
    made = candidates({"model.a": 1}, {"model.a": 2, "model.b": 1}, {"model.a": 3})
    assert ids(Grouping({"model.a": "", "model.b": ""}, "auto").split(made)) == [[0, 2], [1]]


def test_nobody_is_put_together_without_being_asked_or_without_a_gene_that_may_differ():
    made = candidates({"model.lr": 0.1}, {"model.lr": 0.2})
    for grouping in (Grouping(), Grouping({"model.lr": "belongs to data"}, "auto")):
        assert grouping.capacity == 1
        assert ids(grouping.split(made)) == [[0], [1]]


def test_a_swarm_is_one_stack_whatever_the_limit():
    made = candidates(*[{"model.lr": 0.1 * i} for i in range(1, 7)])
    grouping = Grouping({"model.lr": ""}, 2, swarm=lambda candidate: candidate.id // 3)
    assert ids(grouping.split(made)) == [[0, 1, 2], [3, 4, 5]]


def test_auto_asks_for_so_many_per_free_slot():
    assert Grouping({"model.lr": ""}, "auto").capacity == AUTO
    assert Grouping({"model.lr": ""}, 5).capacity == 5


def test_each_gene_that_must_not_differ_says_why():
    space = SearchSpace(
        {
            LR: LogUniform(1e-3, 1e-1),
            WIDTH: Ordinal([2, 4]),
            "model.init_args.activation": Categorical(["relu", "tanh"]),
            "data.init_args.batch_size": Ordinal([16, 32]),
            "trainer.gradient_clip_val": Uniform(0.1, 1.0),
            "model.init_args.features": Integer(2, 3),
        }
    )
    reasons = fixed_genes(space, compare_in_worker(ConfigTrainable(config()), space))
    assert reasons[LR] == ""
    assert reasons[WIDTH].startswith("changes the structure: net.0")
    assert reasons["model.init_args.activation"] == "is a Categorical, not a number"
    assert reasons["data.init_args.batch_size"] == "belongs to data, which a stack shares"
    assert reasons["trainer.gradient_clip_val"] == "belongs to trainer, which a stack shares"
    assert reasons["model.init_args.features"].startswith("changes the structure")
    sections = SearchSpace({"optimizer": Categorical([{"class_path": "torch.optim.SGD"}]), "width": Integer(1, 8)})
    assert fixed_genes(sections, StructureComparison()) == {
        "optimizer": "is a Categorical, not a number",
        "width": "isn't named model.NAME, so it may concern the data, which a stack shares",
    }
    links = read_links([{"from": LR, "to": "data.init_args.size"}], space)
    followed = fixed_genes(space, StructureComparison(), links)[LR]
    assert followed == "is followed by data.init_args.size, which belongs to data, which a stack shares"


# -- a search ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """A search whose candidates trained in one stack."""
    directory = tmp_path_factory.mktemp("stacked")
    with threads(1) as pool:
        made = search(directory, pool)
        return directory, made.run(), made


def test_each_member_is_a_candidate_of_its_own(stacked):
    directory, archive, _ = stacked
    assert archive.counts()["completed"] == 6
    for row in archive.candidates():
        place = directory / "candidates" / f"{row['id']:06d}"
        assert {"config.yaml", "curve.jsonl", "result.json"} <= {path.name for path in place.iterdir()}
        result = archive.result(row["id"])
        assert len(result.curve) == 2
        assert {"train_loss", "val_acc", "val_loss"} == set(result.metrics)
        assert result.metrics == {
            k: v for k, v in min(result.curve, key=lambda p: p["val_loss"]).items() if k != "epoch"
        }
        assert result.extra["stack"]["size"] == 6
        assert result.extra["stack"]["position"] == row["id"]
        assert result.extra["stack"]["lowering"] in ("stack", "loop")


def test_costs_are_a_members_own_and_its_share(stacked):
    _, archive, _ = stacked
    alone = ToyNet()
    for row in archive.candidates():
        assert row["cost/params"] == sum(parameter.numel() for parameter in alone.parameters())
        assert row["cost/epochs"] == 2
        # Forward, and backward to weights and activations but not to the input: two layers of 2 x 4 and 4 x 2.
        assert row["cost/flops"] == 2 * (8 + 8) + 2 * (8 + 8 + 8)
        assert 0 < row["cost/seconds"] < row["ended"] - row["started"]


def test_the_kept_checkpoints_open_with_the_candidates_own_class(stacked):
    directory, archive, _ = stacked
    kept = [row for row in archive.candidates() if row["checkpoint"]]
    assert len(kept) == 3
    for row in kept:
        model = ToyNet.load_from_checkpoint(directory / row["checkpoint"])
        assert model.hparams.lr == row[LR]
        assert (directory / row["checkpoint"]).stat().st_size == archive.result(row["id"]).checkpoint_bytes


@pytest.mark.parametrize("workers", [Workers(slots=1, stack=4), Workers(slots=1, stack=2)])
def test_a_result_does_not_depend_on_who_else_was_in_the_stack(workers, stacked, tmp_path):
    _, archive, _ = stacked
    with threads(1) as pool:
        other = search(tmp_path, pool, workers=workers).run()
    assert losses(other) == pytest.approx(losses(archive), rel=1e-4)


def test_a_candidate_left_over_trains_by_itself_on_the_same_data(stacked, tmp_path):
    _, archive, _ = stacked
    with threads(1) as pool:
        other = search(tmp_path, pool, workers=Workers(slots=1, stack=5)).run()
    assert "stack" not in other.result(5).extra
    assert losses(other)[5] == pytest.approx(losses(archive)[5], rel=1e-4)


def test_candidates_that_differ_in_structure_train_in_stacks_of_their_own(tmp_path):
    with threads(1) as pool:
        space = {**RATES, WIDTH: Ordinal([2, 4])}
        archive = search(tmp_path, pool, space=space, budget=Budget(candidates=8)).run()
    groups = {}
    for row in archive.candidates():
        record = archive.result(row["id"]).extra.get("stack", {"id": row["id"]})
        groups.setdefault(record["id"], set()).add(row[WIDTH])
    assert all(len(widths) == 1 for widths in groups.values())
    assert len(groups) < 8


def test_one_member_whose_loss_is_not_a_number_fails_alone(tmp_path):
    with threads(1) as pool:
        algorithm = RandomSearch(initial=[{LR: 0.1}, {LR: 1e30}, {LR: 0.2}])
        space = {LR: LogUniform(1e-3, 1e30)}
        archive = search(tmp_path, pool, space=space, algorithm=algorithm, budget=Budget(candidates=3)).run()
    assert [row["status"] for row in archive.candidates()] == ["completed", "failed", "completed"]
    assert archive.candidates()[1]["error_type"] == "ArithmeticError: val_loss is nan at the best evaluation"
    assert archive.result(1).extra["stack"]["size"] == 3


def touchy(directory, pool, misbehave, **changes):
    algorithm = RandomSearch(initial=[{LR: 0.1}, {LR: 0.9}, {LR: 0.2}])
    return search(
        directory,
        pool,
        **{
            "space": {LR: LogUniform(1e-3, 1.0)},
            "algorithm": algorithm,
            "budget": Budget(candidates=3),
            "config": config("stacking_nets.Touchy", misbehave=misbehave),
            **changes,
        },
    )


def test_where_one_member_breaks_the_whole_stack_they_are_trained_one_by_one(tmp_path):
    with threads(1) as pool:
        made = touchy(tmp_path, pool, "raise")
        archive = made.run()
    assert [row["status"] for row in archive.candidates()] == ["completed", "failed", "completed"]
    assert archive.candidates()[1]["error_type"] == "RuntimeError: lr 0.9 is too much"
    assert archive.result(0).extra["stack"]["lowering"] == "alone"
    assert any("a stack of 3 failed" in message for message in made._progress.messages)


@pytest.mark.slow
def test_where_the_stacks_worker_dies_its_members_are_trained_one_by_one(tmp_path, monkeypatch):
    archive = touchy(tmp_path, None, "kill", workers=Workers(slots=1, stack="auto", threads=1, max_retries=1)).run()
    assert [row["status"] for row in archive.candidates()] == ["completed", "failed", "completed"]
    assert archive.candidates()[1]["error_type"].startswith("WorkerDied")
    assert "died" in archive.result(0).extra["stack"]["reason"]


@pytest.mark.slow
def test_a_stack_may_take_as_long_as_its_members_together(tmp_path):
    # Two epochs of two batches at 0.3 s or, in a loop, three times that; alone each would be over the limit in both cases.
    slow = touchy(
        tmp_path / "a", None, "dawdle", workers=Workers(slots=1, stack="auto", threads=1, time_limit=60)
    ).run()
    assert slow.counts()["completed"] == 3
    with pytest.raises(SearchError, match="all of the first 3 candidates failed: TimeLimit"):
        touchy(tmp_path / "b", None, "dawdle", workers=Workers(slots=1, stack="auto", threads=1, time_limit=0.3)).run()
    with Archive(tmp_path / "b") as archive:
        assert archive.result(2).error == "ran longer than its time limit of 0.9 s and was killed"


def test_a_metric_that_is_never_logged_stops_the_search_with_that_error(tmp_path):
    with (
        threads(1) as pool,
        pytest.raises(SearchError, match="the first candidate failed: MetricNotLogged: val_acuracy"),
    ):
        search(tmp_path, pool, objectives=[Objective("val_acuracy")]).run()


def test_a_member_that_cannot_be_built_fails_alone(tmp_path):
    with threads(1) as pool:
        space = {**RATES, "model.init_args.depth": Integer(1, 1)}
        made = search(tmp_path, pool, space=space, config=config(misbehave="crash"))
        with pytest.raises(SearchError, match="this model always crashes"):
            made.run()


def test_a_finished_stacked_search_trains_nothing_again_and_an_extended_one_asks_the_same(stacked, tmp_path):
    directory, archive, _ = stacked
    before = losses(archive)
    with threads(1) as pool:
        again = search(directory, pool)
        assert losses(again.run()) == before
        assert again._progress.told_ids == []
        longer = search(tmp_path / "a", pool, budget=Budget(candidates=10))
        whole = longer.run()
        search(tmp_path / "b", pool, budget=Budget(candidates=4)).run()
        extended = search(tmp_path / "b", pool, budget=Budget(candidates=10)).run()
    assert [row[LR] for row in extended.candidates()] == [row[LR] for row in whole.candidates()]


def test_a_result_that_a_member_left_is_adopted_and_the_rest_trained(stacked, tmp_path):
    _, archive, _ = stacked
    from lightning_evo.archive import ArchiveWriter

    made = search(tmp_path, None)
    with ArchiveWriter(tmp_path) as writer, Archive(tmp_path) as reader:
        made._claim(writer, reader)
        for id in range(6):
            writer.record_candidate(archive.candidate(id), queued=0.0)
    place = tmp_path / "candidates" / "000002"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps(archive.result(2).to_dict() | {"extra": {"adopted": True}}))
    with threads(1) as pool:
        resumed = search(tmp_path, pool).run()
    assert resumed.result(2).extra == {"adopted": True}
    assert losses(resumed) == pytest.approx(losses(archive), rel=1e-4)
    assert resumed.result(0).extra["stack"]["size"] == 5


# -- swarms ------------------------------------------------------------------------------------------------------------


def swarms(directory, pool, count=2, **changes):
    return search(
        directory,
        pool,
        **{
            "space": {**RATES, WIDTH: Ordinal([2, 4, 8])},
            "algorithm": SwarmOptimization(particles=4, population_size=1),
            "budget": Budget(candidates=4 * count),
            "workers": Workers(slots=1),
            "callbacks": [SwarmAveraging(method="apso", subset=2, alpha=0.5, every_n_steps=1)],
            "config": config(epochs=4),
            **changes,
        },
    )


def test_a_swarm_trains_as_one_stack_and_averages(tmp_path):
    with threads(1) as pool:
        archive = swarms(tmp_path, pool).run()
    assert archive.counts()["completed"] == 8
    for first in (0, 4):
        records = [archive.result(id).extra for id in range(first, first + 4)]
        assert {record["stack"]["id"] for record in records} == {first}
        assert len({archive.candidate(id).genome[WIDTH] for id in range(first, first + 4)}) == 1
        assert len({archive.candidate(id).genome[LR] for id in range(first, first + 4)}) == 4


def test_averaging_makes_a_difference_that_the_seed_decides(tmp_path):
    with threads(1) as pool:
        one, again = (losses(swarms(tmp_path / name, pool, 1).run()) for name in "ab")
        none = losses(
            swarms(
                tmp_path / "c", pool, 1, callbacks=[SwarmAveraging(method="apso", subset=2, every_n_steps=1000)]
            ).run()
        )
    assert one == pytest.approx(again, rel=1e-4)
    assert one != pytest.approx(none, rel=1e-3)


def test_without_averaging_among_the_callbacks_the_references_is_added_and_said(tmp_path):
    with threads(1) as pool:
        made = swarms(tmp_path, pool, 1, callbacks=None)
        made.run()
    said = [message for message in made._progress.messages if "averages weights" in message]
    assert len(said) == 1
    assert "subset 2, alpha 0.5" in said[0]


def test_a_swarm_that_does_not_fit_the_budget_is_not_begun(tmp_path):
    with threads(1) as pool:
        archive = swarms(tmp_path, pool, budget=Budget(candidates=7)).run()
        assert sum(archive.counts().values()) == 4
        assert sum(swarms(tmp_path, pool, budget=Budget(candidates=8)).run().counts().values()) == 8


def test_a_swarm_of_which_some_results_were_lost_is_trained_whole_again(tmp_path):
    from lightning_evo.archive import ArchiveWriter

    with threads(1) as pool:
        archive = swarms(tmp_path / "a", pool).run()
        made = swarms(tmp_path / "b", None)
        with ArchiveWriter(tmp_path / "b") as writer, Archive(tmp_path / "b") as reader:
            made._claim(writer, reader)
            for id in range(4):
                writer.record_candidate(archive.candidate(id), queued=0.0)
        place = tmp_path / "b" / "candidates" / "000001"
        place.mkdir(parents=True)
        (place / "result.json").write_text(json.dumps(archive.result(1).to_dict() | {"extra": {"adopted": True}}))
        resumed = swarms(tmp_path / "b", pool).run()
    assert resumed.result(1).extra == {"adopted": True}
    assert losses(resumed) == pytest.approx(losses(archive), rel=1e-4)
    assert [resumed.candidate(id) for id in range(8)] == [archive.candidate(id) for id in range(8)]


def test_a_swarm_asked_for_in_part_is_completed_when_the_search_continues(tmp_path):
    from lightning_evo.archive import ArchiveWriter

    with threads(1) as pool:
        archive = swarms(tmp_path / "a", pool, 1).run()
        made = swarms(tmp_path / "b", None, 1)
        with ArchiveWriter(tmp_path / "b") as writer, Archive(tmp_path / "b") as reader:
            made._claim(writer, reader)
            for id in range(3):
                writer.record_candidate(archive.candidate(id), queued=0.0)
        resumed = swarms(tmp_path / "b", pool, 1).run()
    assert losses(resumed) == pytest.approx(losses(archive), rel=1e-4)


def test_a_swarm_that_failed_is_tried_again_whole(tmp_path, monkeypatch):
    bug = tmp_path / "bug"
    monkeypatch.setenv("BUG", str(bug))
    bug.touch()
    buggy = {"config": config("stacking_nets.Buggy")}
    with threads(1) as pool:
        with pytest.raises(SearchError, match="candidates failed: RuntimeError: a bug"):
            swarms(tmp_path / "a", pool, **buggy).run()
        bug.unlink()
        resumed = swarms(tmp_path / "a", pool, retry_failed=True, **buggy).run()
        assert losses(resumed) == pytest.approx(losses(swarms(tmp_path / "b", pool, **buggy).run()), rel=1e-4)


def test_a_stack_that_failed_is_tried_again_and_keeps_the_checkpoints_that_it_should(tmp_path, monkeypatch):
    bug = tmp_path / "bug"
    monkeypatch.setenv("BUG", str(bug))
    bug.touch()
    changes = {"config": config("stacking_nets.Buggy"), "budget": Budget(candidates=2), "keep_checkpoints": 1}
    with threads(1) as pool:
        with pytest.raises(SearchError, match="no candidate finished"):
            search(tmp_path / "a", pool, **changes).run()
        bug.unlink()
        resumed = search(tmp_path / "a", pool, retry_failed=True, **changes).run()
        assert losses(resumed) == pytest.approx(losses(search(tmp_path / "b", pool, **changes).run()), rel=1e-4)
    assert len([*(tmp_path / "a").glob("candidates/*/checkpoint.ckpt")]) == 1


def test_particles_whose_module_breaks_fail_with_its_error(tmp_path):
    with threads(1) as pool, pytest.raises(SearchError, match=r"of the first 3 candidates failed: .*is too much"):
        touchy(
            tmp_path,
            pool,
            "raise",
            algorithm=SwarmOptimization(particles=3, initial=[{LR: 0.1}, {LR: 0.9}, {LR: 0.2}]),
            workers=Workers(slots=1),
        ).run()


# -- side by side, without stacks --------------------------------------------------------------------------------------


def heirs(directory, pool, **changes):
    return search(
        directory,
        pool,
        **{
            "space": {LR: LogUniform(1e-3, 0.1)},
            "algorithm": GenerationalEvolution(population_size=3, elitism=1),
            "callbacks": [WeightInheritance(), SwarmAveraging(every_n_steps=2), Witness()],
            "budget": Budget(candidates=9),
            "workers": Workers(slots=1),
            **changes,
        },
    )


def told_of(directory):
    return {int(path.parent.name): json.loads(path.read_text()) for path in directory.glob("candidates/*/told.json")}


def test_candidates_may_average_with_those_whose_weights_come_from_the_same_candidate(tmp_path):
    with threads(1) as pool:
        archive = heirs(tmp_path, pool).run()
    told = told_of(tmp_path)
    assert {each["exchange"] for each in told.values()} == {str(tmp_path / "exchange")}
    for id, each in told.items():
        root = archive.candidate(id)
        while root.inherits is not None:
            root = archive.candidate(root.inherits)
        assert each["ancestry"] == str(root.id)
    assert {id for id, each in told.items() if each["ancestry"] == str(id)} == {0, 1, 2}


def test_nobody_is_told_of_an_exchange_where_nobody_averages(tmp_path):
    with threads(1) as pool:
        heirs(tmp_path, pool, callbacks=[Witness()], budget=Budget(candidates=2)).run()
    assert {(each["exchange"], each["ancestry"]) for each in told_of(tmp_path).values()} == {(None, "")}


def test_a_swarm_is_told_its_number_and_of_no_exchange(tmp_path):
    with threads(1) as pool:
        swarms(tmp_path, pool, callbacks=[SwarmAveraging(subset=2), Witness()]).run()
    told = [json.loads((tmp_path / "stacks" / name / "told.json").read_text()) for name in ("000000", "000004")]
    assert [(each["exchange"], each["ancestry"]) for each in told] == [(None, "swarm 0"), (None, "swarm 1")]
    assert told[0]["seed"] != told[1]["seed"]


@pytest.mark.slow
def test_candidates_that_train_at_the_same_time_average_through_files(tmp_path):
    settings = {
        "config": config("stacking_nets.Touchy", epochs=8, misbehave="linger"),
        "workers": Workers(slots=2, threads=1),
        "algorithm": GenerationalEvolution(population_size=2, elitism=0, tournament_size=8),
    }
    archive = heirs(tmp_path, None, budget=Budget(candidates=6), **settings).run()
    assert archive.counts()["completed"] == 6
    done = archive.extras("averaging")
    assert len(done) == 6
    assert sum(each["averagings"] for each in done.values()) > 0
    assert not list((tmp_path / "exchange").glob("*.safetensors"))


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED = {
    "a function": (
        {"function": sphere, "config": None},
        "workers.stack: auto trains several candidates as one LightningModule, but a function is evolved",
    ),
    "a population that trains in segments": (
        {"algorithm": PopulationBasedTraining(population_size=4)},
        "workers.stack: auto: candidates of PopulationBasedTraining continue each other one by one",
    ),
    "early stopping": (
        {"callbacks": [EarlyFitnessPrediction()], "config": config(epochs=4)},
        "evolution.callbacks: EarlyFitnessPrediction needs a Trainer for each candidate, but evolution.workers.stack: auto",
    ),
    "inherited weights": (
        {"callbacks": [WeightInheritance()]},
        "evolution.callbacks: WeightInheritance needs a Trainer for each candidate",
    ),
    "a subset larger than the swarm": (
        {"algorithm": SwarmOptimization(particles=3), "callbacks": [SwarmAveraging(subset=6)]},
        r"evolution.callbacks\[0\].subset: 6 is more than the 3 particles",
    ),
    "a budget below one swarm": (
        {"algorithm": SwarmOptimization(particles=12)},
        "evolution.budget.candidates: 6 is less than one swarm of SwarmOptimization, which has 12 particles",
    ),
    "a swarm of functions": (
        {"algorithm": SwarmOptimization(particles=3), "function": sphere, "config": None, "workers": Workers()},
        "evolution.algorithm: SwarmOptimization trains several candidates as one LightningModule",
    ),
    "a swarm on several devices": (
        {"algorithm": SwarmOptimization(particles=3), "workers": Workers(devices_per_candidate=2)},
        "evolution.algorithm: SwarmOptimization trains a swarm on one device, not on devices_per_candidate 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_stacked_is_refused_before_anything_is_trained(case, tmp_path):
    changes, said = REFUSED[case]
    with threads(1) as pool, pytest.raises(SearchError, match=said):
        search(tmp_path / "run", pool, **changes).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stack": 1}, "stack: 1 is not 'auto' or a number of at least 2"),
        ({"stack": "many"}, "stack: 'many' is not 'auto' or a number of at least 2"),
        (
            {"stack": 4, "devices_per_candidate": 2},
            "stack: 4 with devices_per_candidate 2: .* leave one of the two out",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Workers(**settings)


def test_without_a_gene_that_may_differ_nothing_is_stacked_and_it_is_said_why(tmp_path):
    with threads(1) as pool:
        made = search(
            tmp_path,
            pool,
            space={"model.init_args.activation": Categorical(["relu", "tanh"])},
            budget=Budget(candidates=2),
        )
        archive = made.run()
    assert archive.counts()["completed"] == 2
    assert any("no gene may differ within a stack, so nothing is stacked" in text for text in made._progress.messages)
    assert not archive.extras("stack")


def test_where_no_two_candidates_agree_in_what_is_fixed_it_is_said_that_nothing_was_stacked(tmp_path):
    space = {**RATES, WIDTH: Ordinal([2, 3, 4, 5, 6, 7])}
    with threads(1) as pool:
        made = search(tmp_path, pool, space=space, algorithm=RandomSearch(), budget=Budget(candidates=2))
        archive = made.run()
    assert len({row[WIDTH] for row in archive.candidates()}) == 2
    said = f"nothing was stacked: candidates that were there at once never agreed in {WIDTH}, which must be equal"
    assert sum(said in text for text in made._progress.messages) == 1


def test_the_search_is_described_without_its_stacks(tmp_path):
    assert search(tmp_path).describe() == search(tmp_path, workers=Workers(slots=1)).describe()
    assert "stack" not in json.dumps(search(tmp_path).describe())


def test_genes_whose_optimizers_could_not_be_compared_are_reported(tmp_path):
    with threads(1) as pool:
        space = {LR: LogUniform(1e-3, 0.9)}
        made = search(tmp_path, pool, space=space, config=config("stacking_nets.Picky"), budget=Budget(candidates=2))
        archive = made.run()
    reported = [message for message in made._progress.messages if "could not be compared" in message]
    assert len(reported) == 1
    assert f"{LR} (ValueError: lr 0.9 is too much)" in reported[0]
    assert archive.meta["uncompared"] == {LR: "ValueError: lr 0.9 is too much"}
