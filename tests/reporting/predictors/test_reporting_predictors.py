import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from browser import CHROMIUM

from lightning_evo.algorithms import Predictor
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.evolution.description import describe
from lightning_evo.genome import (
    Candidate,
    Categorical,
    Genome,
    Integer,
    Layers,
    Prediction,
    Result,
    SearchSpace,
    Uniform,
)
from lightning_evo.reporting.predictors import as_text, check_plot, plot, predictor_report
from lightning_evo.reporting.predictors.results import load_results

SPACE = {"x": Uniform(-1, 1), "n": Integer(1, 9), "kind": Categorical(["a", "b", "c"])}
VALUE = [{"monitor": "value", "mode": "max"}]
LOSS = [{"monitor": "loss", "mode": "min"}]


def value(genome):
    """What training would give."""
    return genome["x"] + 0.1 * genome["n"] + {"a": 0.0, "b": 1.0, "c": -1.0}[genome["kind"]]


def write(place, count=60, seed=0, space=SPACE, objectives=VALUE, function=value, costs=True, predicted=None, start=0):
    """An archive of a random search, or more candidates in it."""
    rng, space = random.Random(seed), SearchSpace(space)
    with ArchiveWriter(place) as writer:
        writer.set_meta("search", {"evolution": {"space": describe(space)}})
        writer.set_meta("objectives", objectives)
        for id in range(start, start + count):
            genome = space.sample(rng)
            fitness = tuple(function(genome) * (-1 if o["mode"] == "min" else 1) for o in objectives)
            prediction = None if predicted is None else predicted(id, fitness)
            writer.record_candidate(Candidate(id, genome, prediction=prediction), queued=0.0)
            cost = {"params": 10 + id % 7, "flops": 100 + id % 5} if costs else {}
            writer.record_result(id, Result("completed", fitness, cost=cost))
    return str(place)


def r2(report, name, models):
    return next(e for e in report.evaluations if e.name == name).at(models, "r2")[0]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    place = write(tmp_path_factory.mktemp("search"), count=130)
    return predictor_report([place], ["size", "forest"], repeats=2)


# -- what is learned from ----------------------------------------------------------------------------------------------


def test_only_completed_finite_results_that_were_trained_count_and_each_phenotype_once(tmp_path):
    write(tmp_path, count=3)
    with Archive(tmp_path) as archive:
        genome = archive.candidate(0).genome
    with ArchiveWriter(tmp_path) as writer:
        others = [
            (Genome({**genome, "n": 1}), Result("failed", error="e", error_type="e")),
            (Genome({**genome, "n": 2}), Result("stopped", (9.0,))),
            (Genome({**genome, "n": 3}), Result("completed", (math.nan,))),
            (Genome({**genome, "n": 4}), None),
            (genome, Result("completed", (value(genome) + 2.0,))),
        ]
        for id, (other, result) in enumerate(others, start=3):
            writer.record_candidate(Candidate(id, other), queued=0.0)
            if result is not None:
                writer.record_result(id, result)
        writer.record_candidate(Candidate(8, genome, duplicate_of=0), queued=0.0)
        writer.record_result(8, Result("completed", (value(genome),)))
    results = load_results([tmp_path])
    assert len(results.genomes) == 3
    assert results.counts == {str(tmp_path): 4}
    assert results.fitness[0] == pytest.approx(value(genome) + 1.0)  # trained twice: the mean


def test_what_is_minimised_is_learned_the_other_way_round_and_shown_in_its_own_units(tmp_path):
    report = predictor_report([write(tmp_path, objectives=LOSS)], ["forest"], repeats=1)
    assert report.results.higher_is_better == [-loss for loss in report.results.fitness]
    true, predicted, _ = zip(*report.evaluations[0].scatter, strict=True)
    assert set(true) <= set(report.results.fitness)
    assert min(report.results.fitness) <= min(predicted) <= max(predicted) <= max(report.results.fitness)


def test_any_objective_can_be_chosen(tmp_path):
    place = write(tmp_path, objectives=[*VALUE, *LOSS])
    assert load_results([place]).objective.monitor == "value"
    assert load_results([place], "loss").objective.monitor == "loss"
    with pytest.raises(ValueError, match=r"monitor: .* has no objective 'los'; its objectives: value \(max\), loss"):
        load_results([place], "los")


def test_many_archives_are_learned_from_together(tmp_path):
    places = [write(tmp_path / str(seed), count=20, seed=seed) for seed in range(3)]
    report = predictor_report(places, ["forest"], repeats=1)
    assert len(report.results.genomes) == 60
    assert list(report.results.counts.values()) == [20, 20, 20]
    # A long path is broken anywhere, and so is the line behind it.
    assert f"{places[2]}:20results" in "".join(as_text(report).split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"x": Uniform(-1, 1)}, "function": lambda g: g["x"]}, "only one of them has kind, n"),
        ({"space": {**SPACE, "n": Integer(40, 50)}}, "n: 4. is not in 1..9"),
        ({"objectives": LOSS}, r"has the objectives loss \(min\), .* has value \(max\): give searches for the same"),
    ],
)
def test_searches_that_do_not_fit_together_are_refused(changes, message, tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", **changes)
    with pytest.raises(ValueError, match=message):
        predictor_report([one, two], ["forest"])


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="no archive here"):
        predictor_report([tmp_path])
    ArchiveWriter(tmp_path).close()
    with pytest.raises(ArchiveError, match="the archive has no objectives"):
        predictor_report([tmp_path])
    with pytest.raises(ValueError, match="locations: give at least one search"):
        predictor_report([])


# -- how good predictors are -------------------------------------------------------------------------------------------


def test_a_forest_learns_and_size_does_not_where_it_says_nothing(report):
    assert report.models == [25, 50, 100]
    assert report.held_out == 30
    assert r2(report, "forest", 25) < r2(report, "forest", 100)
    assert r2(report, "forest", 100) > 0.7
    assert r2(report, "size", 100) < 0.3
    assert abs(report.sizes["params"]) < 0.3


def test_predictors_are_judged_on_the_same_results_which_they_have_not_seen(report):
    size, forest = report.evaluations
    assert [true for true, _, _ in size.scatter] == [true for true, _, _ in forest.scatter]
    assert len(forest.scatter) == report.held_out


def test_the_same_seed_gives_the_same_numbers(report, tmp_path):
    place = next(iter(report.results.counts))
    again = predictor_report([place], ["forest"], repeats=2)
    other = predictor_report([place], ["forest"], repeats=2, seed=1)
    assert again.evaluations[0].scatter == report.evaluations[1].scatter
    assert other.evaluations[0].scatter != report.evaluations[1].scatter


@pytest.mark.slow
def test_layers_are_also_learned_by_lstm_and_ensemble_unless_told_otherwise(tmp_path):
    report = predictor_report([write_layers(tmp_path)], repeats=1)
    assert [evaluation.name for evaluation in report.evaluations] == ["size", "forest", "lstm", "ensemble"]
    assert all(math.isfinite(evaluation.at(25, "r2")[0]) for evaluation in report.evaluations)
    assert r2(report, "forest", 25) > 0.3


def write_layers(place):
    """A search over layers, in which fewer are better."""
    path = "model.init_args.layers"
    return write(place, 40, space={path: Layers([1, 8, 8], 10)}, function=lambda genome: -len(genome[path]))


class Mean(Predictor):
    """A user's own predictor, which expects of everything what all were on average."""

    min_results = 30

    def fit(self, genomes, fitness):
        self._mean = sum(fitness) / len(fitness)
        return self

    def predict(self, genomes):
        return numpy.full(len(genomes), self._mean), numpy.ones(len(genomes))


class Demanding(Mean):
    def __init__(self, wish):
        """It can't be made without an argument."""


def test_a_predictor_of_ones_own_is_named_by_its_import_path(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    own = f"{__name__}.Mean"
    report = predictor_report([write(tmp_path, 70)], [own, "forest"], repeats=2)
    assert report.evaluations[0].name == own
    assert r2(report, own, 50) == pytest.approx(0.0, abs=0.3)
    # It expects the same of all: there is no order to compare; and at 25 it would know too little.
    assert math.isnan(report.evaluations[0].at(50, "tau")[0])
    text = as_text(report)
    assert [line.split()[1:] for line in text.splitlines() if "too few" in line] == [["25", "too", "few"]]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))


@pytest.mark.parametrize(
    ("count", "arguments", "message"),
    [
        (
            60,
            {"predictors": ["forrest"]},
            "predictor: 'forrest' is not one of size, ensemble, forest, gaussian_process, lstm",
        ),
        (60, {"predictors": ["no.such.Thing"]}, r"predictor no\.such\.Thing: can't be imported"),
        (60, {"predictors": ["json.loads"]}, "predictor: 'json.loads' is not one of"),
        (60, {"predictors": [f"{__name__}.Demanding"]}, "Demanding: .*missing 1 required positional argument: 'wish'"),
        (60, {"predictors": ["lstm"]}, "predictor lstm: LSTMPredictor reads a gene that is a sequence"),
        (60, {"predictors": ["zero_cost"]}, "predictor zero_cost: .*synflow.*nothing measures them here"),
        (
            60,
            {"at": [25, 51]},
            "there are only 60 of the required 61 finished results: 51 for training and 10 for testing",
        ),
        (60, {"at": [0, 25]}, r"at: \[0, 25\] is not a list of numbers of training results, each at least 1"),
        (60, {"at": [5]}, r"at: \[5\] are too few training results; forest needs at least 10"),
        (60, {"repeats": 0}, "repeats: 0 is not at least 1"),
        (19, {}, "there are only 19 of the required 20 finished results: 10 for training and 10 for testing"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(count, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        predictor_report([write(tmp_path, count)], **{"predictors": ["forest"], **arguments})


def test_few_results_are_divided_so_that_ten_are_left_to_judge_by(tmp_path):
    report = predictor_report([write(tmp_path, 31)], ["forest"], repeats=1)
    assert (report.models, report.held_out) == ([21], 10)


def test_costs_that_were_not_measured_leave_the_yardstick_out(tmp_path):
    place = write(tmp_path, 40, costs=False)
    report = predictor_report([place], repeats=1)
    assert [evaluation.name for evaluation in report.evaluations] == ["forest"]
    assert report.sizes == {}
    with pytest.raises(ValueError, match="predictor size: not every result has a measured cost/params"):
        predictor_report([place], ["size"])


def test_zero_cost_proxies_that_the_search_measured_are_used(tmp_path):
    def measured(id, fitness):
        return Prediction(proxies={"synflow": math.exp(fitness[0]), "naswot": float(id)})

    report = predictor_report([write(tmp_path, 60, predicted=measured)], ["zero_cost"], repeats=1)
    assert report.evaluations[0].at(25, "tau")[0] > 0.9


# -- prescreens --------------------------------------------------------------------------------------------------------


def test_what_was_predicted_before_training_stands_beside_the_truth(tmp_path, monkeypatch):
    def predicted(id, fitness):
        if id < 20:
            return None
        right = (fitness[0] + 0.001 * id,)
        return Prediction(right if id % 2 else (float(id),), (0.1,), used=bool(id % 2), results=20)

    monkeypatch.setenv("COLUMNS", "100")
    quality = {"monitor": "value", "tau": 0.5, "r2": 0.25, "baseline": 0.125, "earned": True, "seconds": 0.01}
    place = write(tmp_path, 60, predicted=predicted)
    other = {**quality, "monitor": "loss", "results": 20}
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta(
            "predictor_quality", [{**quality, "results": 40, "earned": False}, other, {**quality, "results": 20}]
        )
    (record,) = predictor_report([place], ["forest"], repeats=1).prescreens
    assert [(one.results, one.earned) for one in record.quality] == [(20, True), (40, False)]
    assert record.chosen.count == record.unfiltered.count == 20
    assert record.chosen.tau > 0.9
    assert record.chosen.r2 > 0.99
    assert record.unfiltered.r2 < 0
    text = as_text(predictor_report([place], ["forest"], repeats=1))
    assert [line.split()[:5] for line in text.splitlines() if line.endswith(" 0.01")] == [
        ["20", "0.500", "0.125", "0.250", "yes"],
        ["40", "0.500", "0.125", "0.250", "no"],
    ]
    assert "chosen by the predictor" in text


def test_a_search_without_a_prescreen_says_nothing_of_one(report):
    assert report.prescreens == []
    assert "before training" not in as_text(report)


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_its_terminal_and_has_every_number(report, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = as_text(report)
    assert max(map(len, text.splitlines())) <= width
    mean, std = report.evaluations[1].at(100, "tau")
    assert f"{mean:.3f} ± {std:.2f}" in text


def test_json_holds_what_each_repeat_gave(report):
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    points = told["predictors"]["forest"]["points"]
    assert [(point["size"], point["repeat"]) for point in points] == [(n, r) for r in range(2) for n in (25, 50, 100)]
    assert len(told["predictors"]["forest"]["scatter"]["true_predicted_std"]) == 30
    assert told["objective"] == {"monitor": "value", "mode": "max"}


def test_the_page_holds_curves_and_predictions_and_asks_nothing_of_the_network(report, tmp_path):
    plot(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "forest (100)" in page
    assert "Kendall" in page
    assert "<script src" not in page
    assert "cdn.plot.ly" not in page.partition("plotly.js v")[0]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome in the PATH")
def test_a_browser_draws_every_curve_and_point(report, tmp_path):
    plot(report, tmp_path / "report.html")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    quiet += ["--disable-component-update", "--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run(
        [CHROMIUM, "--headless", "--dump-dom", *quiet, f"file://{tmp_path / 'report.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # A mark for each number of models in three panels, and for each result held out in one; by two predictors.
    assert len(re.findall('class="point[ "]', done.stdout)) == 2 * (3 * len(report.models) + report.held_out)
    # Three curves each, a diagonal, and a line in the legend.
    assert done.stdout.count('class="js-line"') == 2 * (3 + 1 + 1)


def test_pictures_need_matplotlib(report, tmp_path):
    pytest.importorskip("matplotlib")
    for ending, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        plot(report, tmp_path / f"report{ending}")
        assert (tmp_path / f"report{ending}").read_bytes().startswith(start)


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"plot: report\.gif does not end in one of \.html, \.png, \.svg, \.pdf"):
        check_plot(Path("report.gif"))
    with pytest.raises(ValueError, match=r"plot: .*: the directory .*nowhere does not exist"):
        check_plot(tmp_path / "nowhere" / "report.html")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"plot: report\.png requires matplotlib"):
        check_plot(Path("report.png"))


def test_a_predictor_that_needs_more_than_there_is_has_no_panel(tmp_path):
    report = predictor_report([write(tmp_path, 37)], ["forest", f"{__name__}.Mean"], repeats=1)
    assert report.models == [25]
    plot(report, tmp_path / "report.html")
    assert "Mean (" not in (tmp_path / "report.html").read_text()


def test_other_commands_do_not_wait_for_what_this_one_imports():
    code = (
        "import sys; from lightning_evo.cli import main; main(['--version']); "
        "print(sorted({'numpy', 'plotly', 'sklearn', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
