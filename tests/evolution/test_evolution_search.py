"""A search from first ask to last result: budget, resume, duplicates, failures, objectives."""

from __future__ import annotations

import json
import threading
import time

import pytest
import torch
from searching import Recorded, evolution, threads, told

from lightning_evo import Archive, Budget, Evolution, Objective, SearchSpace, Workers
from lightning_evo.algorithms import (
    NSGA2,
    Algorithm,
    GenerationalEvolution,
    Operator,
    RandomSearch,
    RegularizedEvolution,
)
from lightning_evo.archive import ArchiveWriter
from lightning_evo.evolution import SearchError
from lightning_evo.genome import Boolean, Categorical, Integer, Uniform
from lightning_evo.genome.records import UncountedFlopsRecord
from lightning_evo.reporting.views.snapshot import read_snapshot
from toys import ToyNet, sphere

ALGORITHMS = [GenerationalEvolution(population_size=4), RegularizedEvolution(population_size=4), RandomSearch()]


def broken(genome, seed, directory):
    raise RuntimeError("no such luck")


def half_broken(genome, seed, directory):
    if genome["x"] < 0:
        raise RuntimeError(f"x {genome['x']} is negative")
    return sphere(genome, seed, directory)


def not_a_number(genome, seed, directory):
    return {"value": float("nan")}


def constant(genome, seed, directory):
    return {"value": 1.0}


RELEASE = threading.Event()


def waits(genome, seed, directory):
    RELEASE.wait(10)
    return sphere(genome, seed, directory)


def two_goals(genome, seed, directory):
    return {"near": -abs(genome["x"]), "far": abs(genome["x"] - 1)}


def test_a_function_is_given_what_follows_a_gene_and_the_archive_holds_the_gene(tmp_path):
    settings = {"space": {"x, a": Uniform(-1, 1)}, "links": [{"from": "a", "to": "b"}], "budget": Budget(candidates=1)}
    with threads() as pool, evolution(tmp_path, pool, **settings).run() as archive:
        [row] = archive.candidates()
        assert row["value"] == pytest.approx(-3 * row["x"] ** 2)
        assert archive.candidate(0).genome.keys() == {"x"}
    with (
        threads() as pool,
        pytest.raises(SearchError, match=r"evolution\.links\.1\.from: 'a' in the archive, 'x' given"),
    ):
        evolution(tmp_path, pool, **settings | {"links": [{"from": "x", "to": "b"}]}).run()
    with pytest.raises(SearchError, match=r"links\[0\]: 'y' is not a gene of the space, which has x"):
        evolution(tmp_path, pool, **settings | {"links": [{"from": "y", "to": "b"}]}).run()


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_a_search_spends_its_budget_and_finds_better_candidates(algorithm, tmp_path):
    with threads() as pool:
        archive = evolution(tmp_path, pool, algorithm=algorithm, budget=Budget(candidates=60)).run()
    rows = archive.candidates()
    assert [row["id"] for row in rows] == list(range(60))
    assert archive.best(1)[0]["value"] == max(row["value"] for row in rows)
    assert archive.best(1)[0]["value"] >= rows[0]["value"]


@pytest.mark.parametrize("slots", [1, 4])
def test_a_seed_gives_a_synchronous_search_the_same_archive_on_any_number_of_slots(slots, tmp_path):
    with threads() as pool, threads(slots) as more:
        one = evolution(tmp_path / "a", pool, slots=2).run()
        other = evolution(tmp_path / "b", more, slots=slots).run()
    assert told(one) == told(other)


def test_another_seed_gives_another_search(tmp_path):
    with threads() as pool:
        assert told(evolution(tmp_path / "a", pool).run()) != told(evolution(tmp_path / "b", pool, seed=2).run())


def test_a_finished_search_says_so_and_how_to_extend_it(tmp_path):
    with threads() as pool:
        first = told(evolution(tmp_path, pool).run())
        again = evolution(tmp_path, pool)
        assert told(again.run()) == first
    assert again._progress.told_ids == []
    assert any("finished (budget.candidates)" in text for text in again._progress.messages)
    assert any("raise evolution.budget" in text for text in again._progress.messages)


def test_an_extended_search_equals_one_that_had_the_budget_at_once(tmp_path):
    with threads() as pool:
        for candidates in (5, 7, 20):
            extended = evolution(tmp_path / "a", pool, budget=Budget(candidates=candidates)).run()
        whole = evolution(tmp_path / "b", pool, budget=Budget(candidates=20)).run()
    assert told(extended) == told(whole)


def test_a_duplicate_is_answered_from_the_archive(tmp_path):
    with threads() as pool:
        space = {"flag": Boolean()}
        archive = evolution(tmp_path, pool, space=space, budget=Budget(candidates=10)).run()
    assert len(list(tmp_path.glob("candidates/*/result.json"))) == 2
    rows = archive.candidates()
    assert len(rows) == 10
    answered = [row for row in rows if row.get("duplicate_of") is not None]
    assert len(answered) == 8
    assert all(row["value"] == rows[row["duplicate_of"]]["value"] for row in answered)
    assert all(row["cost/seconds"] == 0 for row in answered)


def test_an_exhausted_space_ends_the_search(tmp_path):
    with threads() as pool:
        search = evolution(
            tmp_path, pool, space={"flag": Boolean()}, budget=Budget(wall_time=60), algorithm=RandomSearch()
        )
        search.run()
    assert any("exhausted" in text for text in search._progress.messages)


def test_wall_time_ends_a_search_and_is_added_up_over_runs(tmp_path):
    with threads() as pool:
        started = time.monotonic()
        search = evolution(tmp_path, pool, budget=Budget(wall_time=0.5), function=sphere, algorithm=RandomSearch())
        archive = search.run()
        assert time.monotonic() - started < 20
        count = len(archive.candidates())
        assert (
            evolution(tmp_path, pool, budget=Budget(wall_time=0.5), algorithm=RandomSearch())
            .run()
            .counts()["completed"]
            <= count + 2
        )


def test_failed_candidates_are_recorded_with_their_traceback_and_the_search_goes_on(tmp_path):
    with threads() as pool:
        archive = evolution(tmp_path, pool, function=half_broken, budget=Budget(candidates=20)).run()
    counts = archive.counts()
    assert counts["failed"] > 0
    assert counts["completed"] > 0
    failed = archive.candidates(status="failed")[0]
    assert "half_broken" in archive.result(failed["id"]).error
    assert failed["error_type"].startswith("RuntimeError: x -")


@pytest.mark.parametrize(("function", "said"), [(broken, "no such luck"), (not_a_number, "not finite")])
def test_when_the_first_candidates_all_fail_alike_the_search_stops_with_that_error(function, said, tmp_path):
    with threads() as pool, pytest.raises(SearchError, match=f"all of the first 3 candidates failed: .*{said}"):
        evolution(tmp_path, pool, function=function).run()


def test_a_search_in_which_nothing_finished_may_be_replaced_by_another(tmp_path):
    with threads() as pool:
        with pytest.raises(SearchError, match="failed"):
            evolution(tmp_path, pool, function=broken).run()
        archive = evolution(tmp_path, pool, space={"x": Uniform(-2, 2)}).run()
    assert archive.counts()["completed"] == 12
    assert list(tmp_path.glob("*replaced*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"space": {"x": Uniform(-1, 2), "y": Uniform(-1, 1)}},
            r"space\.x\.init_args\.high: 1\.0 in the archive, 2\.0 given",
        ),
        ({"algorithm": GenerationalEvolution(population_size=6)}, "population_size: 4 in the archive, 6 given"),
        (
            {"algorithm": GenerationalEvolution(population_size=4, select=Operator("selBest"))},
            "evolution.algorithm.init_args.select",
        ),
        ({"objectives": [Objective("value", "min")]}, "mode"),
        ({"seed": 2}, "seed: 1 in the archive, 2 given"),
        ({"fitness_epoch": "last"}, "fitness_epoch"),
    ],
)
def test_a_directory_of_a_different_search_is_refused_naming_what_differs(change, said, tmp_path):
    with threads() as pool:
        before = told(evolution(tmp_path, pool).run())
        with pytest.raises(SearchError, match=f"(?s)holds a different search.*{said}"):
            evolution(tmp_path, pool, **change).run()
    assert told(Archive(tmp_path)) == before


def test_budget_and_workers_may_change_between_runs(tmp_path):
    with threads() as pool:
        evolution(tmp_path, pool).run()
        changed = {"budget": Budget(candidates=14), "workers": Workers(slots=1, max_retries=0)}
        assert evolution(tmp_path, pool, **changed).run().counts()["completed"] == 14


def test_several_objectives_make_a_pareto_search(tmp_path):
    goals = [Objective("near"), Objective("far", "min")]
    with threads() as pool:
        archive = evolution(
            tmp_path,
            pool,
            algorithm=NSGA2(population_size=8),
            space={"x": Uniform(-1, 2)},
            function=two_goals,
            objectives=goals,
            budget=Budget(candidates=80),
        ).run()
    front = [row for row in archive.candidates() if row["id"] in archive.pareto()]
    assert len(front) > 3
    # Every x between the two goals is on the front, nothing outside is.
    assert all(-0.05 <= row["x"] <= 1.05 for row in front)


class Opposite(Uniform):
    """A user's own gene: its mutation changes the sign."""

    def mutate(self, value, rng):
        return -value


class Downhill(Algorithm):
    """A user's own algorithm: children of the very best only."""

    def select_parents(self):
        return [self.hall_of_fame[0]]

    def vary(self, parents):
        return self.toolbox.mutate(parents[0].genome)

    def survive(self, population):
        return population


def test_a_users_own_algorithm_and_gene_run_like_ours(tmp_path):
    with threads() as pool:
        archive = evolution(tmp_path, pool, space={"x": Opposite(-1, 1)}, algorithm=Downhill()).run()
    assert archive.counts()["completed"] == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {}}, "evolution.space: nothing is set"),
        ({"objectives": []}, "evolution.objectives: nothing is set"),
        ({"objectives": [Objective("value"), Objective("value")]}, "names a metric twice"),
        ({"budget": None}, "evolution.budget: nothing is set"),
        ({"keep_checkpoints": -1}, "keep_checkpoints: -1 is not at least 0"),
        ({"config": {}}, "give one of config .* and function"),
        ({"function": None}, "give one of config .* and function"),
    ],
)
def test_arguments_that_make_no_search_are_refused(change, said, tmp_path):
    with threads() as pool, pytest.raises(SearchError, match=said):
        evolution(tmp_path, pool, **change)
    assert not any(tmp_path.iterdir())


def test_two_searches_never_write_one_directory(tmp_path):
    with threads() as pool:
        first = threading.Thread(
            target=lambda: evolution(tmp_path, pool, function=waits, budget=Budget(candidates=2)).run()
        )
        first.start()
        time.sleep(0.5)
        try:
            with pytest.raises(Exception, match=r"(?i)lock|another|writ"):
                evolution(tmp_path, pool, function=waits).run()
        finally:
            RELEASE.set()
            first.join()


def killed_after_the_first(directory, archive):
    """A search whose controller was killed when candidate 0 had ended: asked, not told. Returns its directory."""
    search = evolution(directory, None)
    with ArchiveWriter(directory) as writer, Archive(directory) as reader:
        search._claim(writer, reader)
        writer.record_candidate(archive.candidate(0), queued=0.0)
    place = directory / "candidates" / "000000"
    place.mkdir(parents=True)
    return place


def test_a_result_the_controller_could_not_record_is_adopted(tmp_path):
    with threads() as pool:
        archive = evolution(tmp_path / "a", pool).run()
    place = killed_after_the_first(tmp_path / "b", archive)
    (place / "result.json").write_text(json.dumps(archive.result(0).to_dict() | {"extra": {"adopted": True}}))
    with threads() as pool:
        resumed = evolution(tmp_path / "b", pool).run()
    assert resumed.result(0).extra == {"adopted": True}
    assert told(resumed) == told(archive)


@pytest.mark.parametrize(
    "content", ['{"status": "completed", "fitness": [NaN]}', "[]", '{"status": "completed"}', None]
)
def test_the_candidate_of_a_result_that_is_wrong_is_trained_again(tmp_path, content):
    with threads() as pool:
        archive = evolution(tmp_path / "a", pool).run()
    place = killed_after_the_first(tmp_path / "b", archive)
    # Another candidate's is as whole as can be.
    other = (tmp_path / "a" / "candidates" / "000001" / "result.json").read_text()
    (place / "result.json").write_text(other if content is None else content)
    shown = Recorded()
    with threads() as pool:
        resumed = evolution(tmp_path / "b", pool, progress=shown).run()
    assert told(resumed) == told(archive)
    assert any("000000/result.json is damaged" in text and "trained again" in text for text in shown.messages)


def test_the_archive_is_friendly_to_pandas_columns(tmp_path):
    with threads() as pool:
        space = {"kind": Categorical(["a", "b"]), "x": Uniform(0, 1, when={"kind": ["a"]})}

        archive = evolution(tmp_path, pool, space=space, function=constant).run()
    rows = archive.candidates()
    assert {row["kind"] for row in rows} <= {"a", "b"}
    assert all(("x" in row) == (row["kind"] == "a") for row in rows)


def test_a_search_runs_in_worker_processes_by_default(tmp_path):
    search = Evolution(
        space={"x": Uniform(-1, 1)},
        objectives=[Objective("value")],
        budget=Budget(candidates=4),
        workers=Workers(slots=1),
        directory=tmp_path,
        function=sphere,
        progress=Recorded(),
    )
    archive = search.run()
    assert archive.counts()["completed"] == 4
    assert isinstance(SearchSpace(search.space), SearchSpace)


class Rotates(ToyNet):
    """Computes what no formula is known of."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 0 * torch.linalg.qr(torch.eye(2))[0].sum()


def test_what_flops_leave_out_is_said_once(tmp_path, config):
    config = {
        **config,
        "model": {"class_path": f"{__name__}.Rotates"},
        "trainer": {"max_steps": 2, "accelerator": "cpu"},
    }
    progress = Recorded()
    with threads(1) as pool:
        settings = {
            "space": {"model.init_args.width": Integer(2, 9)},
            "budget": Budget(candidates=2),
            "progress": progress,
        }
        evolution(
            tmp_path, pool, 1, function=None, config=config, objectives=[Objective("val_loss", "min")], **settings
        ).run()
    assert [text for text in progress.messages if "cost/flops" in text] == [
        "cost/flops leaves out aten::linalg_qr (1 call per step): "
        "torch.utils.flop_counter.register_flop_formula adds a formula"
    ]
    with Archive(tmp_path) as archive:
        remark = {id: str(entry) for id, entry in archive.entries(UncountedFlopsRecord).items()}
        assert list(remark) == [0, 1]
        assert read_snapshot(archive).uncounted[1].calls == {"aten::linalg_qr": 1}
