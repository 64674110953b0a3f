import pytest
from searching import evolution, threads, told

from lightning_evo import Archive, Budget, Objective
from lightning_evo.algorithms import NSGA2, GenerationalEvolution, PredictorSearch, Prescreen, RandomSearch
from lightning_evo.evolution import SearchError
from lightning_evo.genome import Uniform
from lightning_evo.predictors import ForestPredictor, ZeroCostPredictor

SPACE = {"x": Uniform(-1, 1), "y": Uniform(-1, 1)}


def forest(**settings):
    return Prescreen(ForestPredictor(trees=20), **settings)


def predictions(archive):
    return [archive.candidate(id).prediction for id in range(sum(archive.counts().values()))]


def prescreened(directory, executor, **changes):
    settings = {
        "algorithm": GenerationalEvolution(population_size=8, prescreen=forest(pool=5)),
        "budget": Budget(candidates=40),
    } | changes
    return evolution(directory, executor, **settings)


def test_what_was_predicted_stands_beside_the_truth_and_the_quality_over_time(tmp_path):
    with threads() as executor:
        search = prescreened(tmp_path, executor)
        archive = search.run()
    quality = archive.meta["predictor_quality"]
    assert [row["results"] for row in quality] == sorted({row["results"] for row in quality})
    assert quality[-1]["monitor"] == "value"
    assert quality[-1]["tau"] > 0.5
    rows = archive.candidates()
    used = [row for row in rows if row.get("prescreened")]
    assert len(used) > 10
    # The last generation is filtered by what all before taught: predictions are close to the truth there.
    assert all(abs(row["predicted/value"] - row["value"]) < 1 for row in used[-8:])
    said = [message for message in search._progress.messages if "prescreening" in message]
    assert said[0].startswith("prescreening: candidates are unfiltered until 13 have ended")
    assert said[1].startswith("prescreening on: value: cross-validated Kendall tau 0.")
    assert len([message for message in said if "unfiltered until" in message]) == 1


def test_a_search_continued_in_pieces_chooses_and_records_as_an_undisturbed_one(tmp_path):
    with threads() as executor:
        whole = prescreened(tmp_path / "whole", executor).run()
        for candidates in (9, 17, 18, 33, 40):
            pieces = prescreened(tmp_path / "pieces", executor, budget=Budget(candidates=candidates)).run()
    assert told(pieces) == told(whole)
    assert predictions(pieces) == predictions(whole)
    rows = [[{**row, "seconds": 0} for row in archive.meta["predictor_quality"]] for archive in (pieces, whole)]
    assert rows[0] == rows[1]


def test_slots_make_no_difference_to_what_a_synchronous_search_chooses(tmp_path):
    with threads(4) as executor:
        one = prescreened(tmp_path / "one", executor, slots=1).run()
        four = prescreened(tmp_path / "four", executor, slots=4).run()
    assert told(one) == told(four)
    assert predictions(one) == predictions(four)


def test_the_predictor_search_and_several_objectives_run(tmp_path):
    with threads() as executor:
        algorithm = PredictorSearch(ForestPredictor(trees=20), population_size=8)
        best = prescreened(tmp_path / "search", executor, algorithm=algorithm).run().best()[0]
        objectives = [Objective("value"), Objective("steepness", "min")]
        archive = prescreened(
            tmp_path / "pareto",
            executor,
            algorithm=NSGA2(population_size=8, prescreen=forest(pool=4)),
            objectives=objectives,
            function=two_values,
        ).run()
    assert best["value"] > -0.05
    assert {row["monitor"] for row in archive.meta["predictor_quality"]} == {"value", "steepness"}
    assert len([p for p in predictions(archive) if p.used][-1].mean) == 2


def two_values(genome, **_):
    return {"value": -(genome["x"] ** 2), "steepness": abs(genome["x"] - 0.5) + genome["y"] ** 2}


def test_a_predictor_trained_on_one_archive_starts_another_search(tmp_path):
    with threads() as executor:
        evolution(tmp_path / "harvest", executor, algorithm=RandomSearch(), budget=Budget(candidates=40)).run()
        algorithm = RandomSearch(prescreen=forest(archives=[str(tmp_path / "harvest")], explore=0.0))
        search = prescreened(tmp_path / "next", executor, algorithm=algorithm, budget=Budget(candidates=10))
        archive = search.run()
        first = predictions(archive)
        assert all(p.used for p in first)
        assert first[0].results == 40
        assert archive.meta["predictor_quality"][0]["results"] == 0
        # What was learned from is in the run's own archive: the other may go.
        (tmp_path / "harvest").rename(tmp_path / "gone")
        prescreened(tmp_path / "next", executor, algorithm=algorithm, budget=Budget(candidates=14)).run()
    with Archive(tmp_path / "next") as archive:
        assert archive.counts()["completed"] == 14


@pytest.mark.parametrize(
    ("space", "objective", "message"),
    [
        ({"x": Uniform(-1, 1), "z": Uniform(-1, 1)}, "value", "it searched another space: y: not in the search space"),
        ({"x": Uniform(-1, 1), "y": Uniform(5, 6)}, "value", r"it searched another space: y: .* is not between 5.0"),
        (SPACE, "steepness", r"it optimised value \(max\), not steepness \(max\)"),
    ],
)
def test_an_archive_of_another_search_is_refused_before_anything_runs(tmp_path, space, objective, message):
    with threads() as executor:
        evolution(tmp_path / "harvest", executor, algorithm=RandomSearch(), budget=Budget(candidates=4)).run()
        algorithm = RandomSearch(prescreen=forest(archives=[str(tmp_path / "harvest")]))
        search = prescreened(
            tmp_path / "next", executor, algorithm=algorithm, space=space, objectives=[Objective(objective)]
        )
        with pytest.raises(SearchError, match=r"evolution.algorithm.prescreen.archives\[0\]: .*" + message):
            search.run()
    assert not (tmp_path / "next" / "candidates").exists()


def test_an_archive_that_is_not_there_is_refused(tmp_path):
    with threads() as executor:
        algorithm = RandomSearch(prescreen=forest(archives=[str(tmp_path / "nowhere")]))
        with pytest.raises(SearchError, match=r"archives\[0\]: .*nowhere: no archive here"):
            prescreened(tmp_path / "next", executor, algorithm=algorithm).run()


def test_proxies_of_a_plain_function_are_refused_before_anything_runs(tmp_path):
    with threads() as executor:
        algorithm = RandomSearch(prescreen=Prescreen(ZeroCostPredictor("naswot")))
        with pytest.raises(
            SearchError, match=r"evolution.algorithm.prescreen.predictor: .*zero-cost proxies \(naswot\)"
        ):
            prescreened(tmp_path, executor, algorithm=algorithm).run()


def test_a_prescreen_makes_it_another_search(tmp_path):
    with threads() as executor:
        prescreened(tmp_path, executor, budget=Budget(candidates=8)).run()
        other = GenerationalEvolution(population_size=8, prescreen=forest(pool=6))
        with pytest.raises(SearchError, match=r"prescreen\.pool"):
            prescreened(tmp_path, executor, algorithm=other).run()
