"""What the page is given: a run as plain JSON, and the one file that it becomes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import random
import re
import shutil
import stat
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from reporting_archives import (
    CREATED,
    FEATURED,
    HOSTILE,
    STRANGE_GENE,
    empty,
    featured,
    synthetic,
    unfinished,
)

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.page import assemble, report
from lightning_evo.reporting.page import payload as payload_of
from lightning_evo.reporting.page.assemble import compress
from lightning_evo.reporting.summaries.savings import savings


def runs_of(*directories, **known):
    archives = [Archive(directory) for directory in directories]
    found = payload_of(archives, **known)
    for archive in archives:
        archive.close()
    # What a browser would read: a NaN would be refused here.
    return json.loads(gzip.decompress(compress(found)))["runs"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return featured(tmp_path_factory.mktemp("featured"))


@pytest.fixture(scope="module")
def run(directory):
    return runs_of(directory)[0]


@pytest.fixture(scope="module")
def rows(directory):
    with Archive(directory) as archive:
        return archive.candidates()


# -- the payload -------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is(run, directory):
    assert run["name"] == HOSTILE
    assert run["directory"] == str(directory)
    assert run["status"] == "interrupted"  # two are pending, and nobody trains them
    assert run["created"] == CREATED
    assert run["algorithm"] == "RegularizedEvolution(population_size=64, tournament_size=8)"
    assert run["objectives"] == [{"monitor": "val_acc", "mode": "max"}, {"monitor": "cost/params", "mode": "min"}]
    assert run["config"]["model"]["init_args"]["head"] == [64, 10]
    assert run["final"]["candidate"] == 4
    assert run["final"]["metrics"] == {"test_acc": 0.875}
    assert [quality["results"] for quality in run["quality"]] == [8, 8, 16, 16]


def test_candidates_are_what_the_archive_says_column_by_column(run, rows):
    columns = run["candidates"]
    assert columns["id"] == [row["id"] for row in rows]
    statuses = ["pending", "completed", "stopped", "failed"]
    assert [statuses[status] for status in columns["status"]] == [row["status"] for row in rows]
    assert [columns["origins"][origin] for origin in columns["origin"]] == [row["origin"] for row in rows]
    for name in ("parents", "generation", "duplicate_of", "slot", "attempts"):
        assert columns[name] == [row[name] for row in rows]
    for name in ("queued", "started", "ended"):
        moments = [None if row[name] is None else row[name] - CREATED for row in rows]
        assert columns[name] == pytest.approx(moments, abs=0.01)
    for place, monitor in enumerate(("val_acc", "cost/params")):
        for found, row in zip(columns["fitness"][place], rows, strict=True):
            value = row.get(monitor, math.nan)
            assert found == (pytest.approx(value, rel=1e-6) if math.isfinite(value) else None)
    for cost, values in columns["costs"].items():
        expected = [row.get(f"cost/{cost}") for row in rows]
        assert [v is None for v in values] == [v is None for v in expected]
        assert [v for v in values if v is not None] == pytest.approx([v for v in expected if v is not None], rel=1e-5)
    assert set(columns["metrics"]) == {"val_acc", "val_loss", "train_loss"}


def test_a_fitness_that_is_not_finite_is_null_and_named(run):
    assert run["candidates"]["nonfinite"] == [5]
    assert run["candidates"]["fitness"][0][5] is None
    assert run["candidates"]["metrics"]["val_loss"][6] is None  # infinity


def test_choices_are_places_and_their_values_come_along(run, rows):
    genes = {gene["path"]: gene for gene in run["genes"]}
    for path, values in run["candidates"]["genes"].items():
        gene = genes[path]
        for value, row in zip(values, rows, strict=True):
            expected = row.get(path)
            if expected is None:
                assert value is None
            elif gene["choices"] is None:
                assert value == pytest.approx(expected, rel=1e-6)
            else:
                assert gene["raw"][value] == expected
    assert genes[STRANGE_GENE]["name"] == 'a<b>"c'
    assert HOSTILE in genes[STRANGE_GENE]["choices"]


def test_whoever_gave_the_weights_is_who_really_did(run):
    inherits = run["candidates"]["inherits"]
    assert [inherits[id] for id in (7, 13, 19, 21, 17, 0)] == [1, 7, 12, None, 16, None]


def test_remarks_tell_what_callbacks_did(run):
    columns = run["candidates"]
    said = {
        id: columns["remarks"][at] for id, at in zip(columns["id"], columns["remark"], strict=True) if at is not None
    }
    assert said[13] == "inherited weights: 2 copied, 1 sliced, 1 fresh tensors"
    assert said[19] == "inherited weights from an older ancestor: 2 copied, 1 sliced, 1 fresh tensors"
    assert said[21] == "started from scratch: checkpoint gone"
    assert said[17] == "trained epochs 5 to 10 of a longer training"
    assert said[12] == "grew widen net.0 to 24, insert net.2: 1,000 → 2,000 parameters"
    assert said[1] == "stack 0, 2 of 2"
    assert said[20] == "alone, not stacked: RuntimeError: lr is too much"


def test_each_error_has_one_traceback(run):
    columns = run["candidates"]
    at = [columns["error"][id] for id in (3, 11)]
    assert at == [0, 1]
    assert HOSTILE in columns["errors"][1]
    assert columns["tracebacks"][1].startswith("Traceback ...\n")
    assert columns["error"].count(None) == FEATURED - 2


def test_long_errors_and_tracebacks_are_cut(tmp_path):
    trace = "\n".join(f"line {i}" for i in range(100))
    with ArchiveWriter(tmp_path) as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=CREATED)
        writer.record_result(0, Result("failed", error=trace, error_type="E: " + "x" * 10_000))
    columns = runs_of(tmp_path)[0]["candidates"]
    assert len(columns["errors"][0]) == 4000
    assert columns["tracebacks"][0].splitlines() == [f"line {i}" for i in range(70, 100)]


def test_early_predictions_say_where_training_ended_or_would_have(run, rows):
    assert set(run["early"]) == {"7", "8", "10", "14", "15"}
    stopped, control, quiet = (run["early"][id] for id in ("7", "15", "10"))
    assert (stopped["stopped_at"], stopped["would_stop_at"], stopped["control"]) == (2, None, False)
    assert (control["stopped_at"], control["would_stop_at"], control["control"]) == (None, 2, True)
    assert stopped["end"] == control["end"] == 9
    assert set(control["predicted"]["val_acc"]) == {"mean", "low", "high"}
    assert control["predicted"]["val_acc"]["mean"] == pytest.approx(rows[15]["val_acc"] + 0.02, abs=1e-5)
    assert quiet["predicted"] == {}


@pytest.mark.parametrize("accuracy", [0.9972144961357117, 0.9888579249382019, 1 / 3])
def test_a_true_value_at_the_end_of_its_predicted_interval_is_within_it_on_the_page_too(tmp_path, accuracy):
    predicted = {"val_acc": {"mean": accuracy, "low": accuracy, "high": accuracy}}
    with ArchiveWriter(tmp_path) as writer:
        writer.update_meta({"objectives": [{"monitor": "val_acc", "mode": "max"}], "created": CREATED})
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=CREATED)
        extra = {
            "predicted": predicted,
            "would_stop_at": 2,
            "stopped_at": None,
            "horizon": 8,
            "control": True,
            "bar": 0.9,
        }
        writer.record_result(0, Result("completed", (accuracy,), {"val_acc": accuracy}, extra={"early_fitness": extra}))
    (run,) = runs_of(tmp_path)
    interval = run["early"]["0"]["predicted"]["val_acc"]
    assert interval["low"] <= run["candidates"]["fitness"][0][0] <= interval["high"]


def test_predictions_savings_front_and_bands_are_those_of_the_views(run, directory):
    with Archive(directory) as archive:
        assert run["savings"] == json.loads(json.dumps(savings(archive).to_dict()))
        assert run["front"] == [id for id in archive.pareto() if id != 5]  # its accuracy is no number
    assert set(run["predicted"]["val_acc"]) == {str(id) for id in range(12, FEATURED)}
    assert run["predicted"]["val_acc"]["12"] == [0.62, 0.05]
    bands = run["bands"]["val_acc"]
    assert bands["count"] == list(range(1, FEATURED - 1))
    assert {len(bands[name]) for name in ("best", "best_id", "q25", "q50", "q75", "epochs", "seconds")} == {
        FEATURED - 2
    }
    assert bands["best"][-1] == pytest.approx(max(v for v in bands["best"] if v is not None))


def test_all_curves_are_there_where_they_are_few(run, directory):
    assert run["curves"]["thinned"] is None
    assert run["curves"]["metrics"] == ["val_acc", "train_loss", "val_loss"]  # the objective first
    assert set(run["curves"]["every"]) == {str(id) for id in range(FEATURED - 2) if id not in (3, 9)}
    with Archive(directory) as archive:
        logged = archive.result(14).curve
    assert run["curves"]["every"]["14"]["val_acc"] == pytest.approx([p["val_acc"] for p in logged], rel=1e-4)
    assert run["curves"]["places"]["14"] == [0, 1, 2, 3]
    assert run["curves"]["along"] == "epoch"


def test_of_many_or_long_curves_a_part_is_held_and_said(tmp_path, monkeypatch):
    module = sys.modules[payload_of.__module__]
    monkeypatch.setattr(module, "MAX_CURVE_NUMBERS", 4_800)
    monkeypatch.setattr(module, "MAX_CURVE_POINTS", 4)
    (run,) = runs_of(synthetic(tmp_path, 400, seed=1))
    every = run["curves"]["every"]
    assert sum(len(values) for curve in every.values() for values in curve.values()) <= 4_800
    assert "300 of 396 candidates" in run["curves"]["thinned"]
    assert "about 4 points" in run["curves"]["thinned"]
    assert {tuple(places) for places in run["curves"]["places"].values() if places[-1] == 9} == {(0, 3, 6, 9)}
    assert str(run["bands"]["val_acc"]["best_id"][-1]) in every


def test_metrics_that_few_logged_are_left_out_where_there_are_too_many(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        for id in range(2):
            point = {"acc": 0.5, **{f"entropy/{i}": 1.0 for i in range(30)}}
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=CREATED)
            writer.record_result(id, Result("completed", (0.5,), metrics=point, curve=[{"epoch": 0, **point}]))
    curves = runs_of(tmp_path)[0]["curves"]
    assert curves["metrics"][0] == "acc"
    assert len(curves["metrics"]) == 16
    assert "16 of 31 metrics" in curves["thinned"]


@pytest.mark.parametrize(
    ("make", "note", "count"),
    [(empty, "No candidate has been created yet.", 0), (unfinished, "No candidate has finished yet.", 4)],
)
def test_a_run_without_results_is_given_as_far_as_it_goes(tmp_path, make, note, count):
    (run,) = runs_of(make(tmp_path))
    assert run["notes"] == [note]
    assert len(run["candidates"]["id"]) == count
    assert run["front"] == []
    assert run["final"] is None
    assert "0 candidates have a fitness" in run["importance"]["val_acc"]["why_not"]
    assert len(run["genes"]) == 10


def test_three_objectives_have_three_of_everything(tmp_path):
    (run,) = runs_of(synthetic(tmp_path, 120, seed=5, objectives=3))
    monitors = ["val_acc", "cost/params", "cost/seconds"]
    assert [objective["monitor"] for objective in run["objectives"]] == monitors
    assert len(run["candidates"]["fitness"]) == 3
    for part in ("bands", "importance", "predicted"):
        assert list(run[part]) == monitors
    found = {gene["path"]: gene["mean"] for gene in run["importance"]["cost/params"]["genes"]}
    assert max(found, key=found.get) in ("model.init_args.width", "model.init_args.depth")


def test_runs_of_one_name_are_told_apart_and_what_cannot_be_compared_is_said(tmp_path):
    one = featured(tmp_path / "one", objectives=1, run="net")
    two = featured(tmp_path / "two", objectives=2, run="net")
    other = synthetic(tmp_path / "other", 30, run="other")
    runs = runs_of(one, two, other)
    assert [run["name"] for run in runs] == ["net", "net (2)", "other"]
    assert runs[0]["notes"] == []
    assert runs[1]["notes"] == ["objectives missing in net: cost/params (min)"]
    (only, missing) = runs[2]["notes"]
    assert "model.init_args.depth" in only
    assert STRANGE_GENE in missing


# -- the file ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page that could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.loads, self.handlers, self.policy, self.title = [], [], [], "", ""
        self._within = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self._within = tag
        if tag == "script":
            self.scripts.append((known, ""))
        self.loads += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        if known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"]

    def handle_endtag(self, tag):
        self._within = None

    def handle_data(self, data):
        if self._within == "script":
            known, text = self.scripts[-1]
            self.scripts[-1] = known, text + data
        elif self._within == "title":
            self.title += data


@pytest.fixture(scope="module")
def page(directory, tmp_path_factory):
    to = tmp_path_factory.mktemp("page") / "page.html"
    assert report(directory, to) == to
    return Page(to.read_text())


def test_the_page_holds_the_payload(page, run):
    ((_, text),) = [script for script in page.scripts if script[0].get("id") == "data"]
    held = json.loads(gzip.decompress(base64.b64decode(text)))
    assert held["version"] == 2
    assert held["live"] is False
    assert held["runs"] == [run]


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(page):
    assert [place for place in page.loads if not place.startswith("data:")] == []
    assert page.handlers == []
    allowed = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["connect-src"] == "'none'"
    code = [text for known, text in page.scripts if "type" not in known]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code}
    assert set(allowed["script-src"].split()) == hashes | {"'unsafe-eval'"}
    assert any("plotly.js v" in text for text in code)
    assert len(code) > 5


def test_what_users_wrote_is_nowhere_in_the_page_as_markup(page, directory):
    text = report(directory, directory / "again.html").read_text()
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text  # the title
    assert page.title == f"{HOSTILE} · lightning-evo"
    assert "window.hacked" not in re.sub(r"<title>.*?</title>", "", text)


def test_a_script_that_speaks_of_the_end_of_scripts_stays_whole(monkeypatch):
    real = assemble._asset
    said = 'const mousetrap = "</script><SCRIPT>"; const other = "</Script>"; const more = "<!-- x";'
    monkeypatch.setattr(assemble, "_asset", lambda name: said if name == "format.js" else real(name))
    assemble._inlined.cache_clear()
    try:
        whole = Page(assemble.assemble(compress({"runs": []}), "title"))
    finally:
        assemble._inlined.cache_clear()
    (found,) = [text for _, text in whole.scripts if "mousetrap" in text]
    assert found == 'const mousetrap = "<\\/script><SCRIPT>"; const other = "<\\/Script>"; const more = "<\\!-- x";'


def test_by_default_the_page_lies_in_the_runs_directory_of_several_in_the_current_folder(tmp_path, monkeypatch):
    one, two = empty(tmp_path / "one"), unfinished(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    assert report(one) == one / "report.html"
    assert report(two / "archive.sqlite") == two / "report.html"
    assert report(f"sqlite:///{one / 'archive.sqlite'}") == one / "report.html"
    assert report([one, two]).absolute() == tmp_path / "report.html"
    assert Page((tmp_path / "report.html").read_text()).title.startswith("one-")


def test_a_page_replaces_the_one_before_and_leaves_nothing_else(tmp_path):
    run = empty(tmp_path / "run")
    first = report(run).stat().st_mtime_ns
    before = set(run.iterdir())
    assert report(run).stat().st_mtime_ns > first
    assert set(run.iterdir()) == before


def test_a_page_is_made_while_the_search_writes_and_does_not_hold_it_up(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        for id in range(3):
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=CREATED + id)
            report(tmp_path / "run")
            writer.record_result(id, Result("completed", (id / 10,)))
        assert runs_of(tmp_path / "run")[0]["status"] == "running"
    assert runs_of(tmp_path / "run")[0]["status"] == "finished"


def test_what_cannot_be_reported_on_is_refused_by_name(tmp_path):
    run = empty(tmp_path / "run")
    with pytest.raises(ArchiveError, match="no archive here"):
        report(tmp_path)
    with pytest.raises(ValueError, match="given more than once"):
        report([run, run / "archive.sqlite"])
    with pytest.raises(ValueError, match="give at least one run"):
        report([])
    with pytest.raises(ValueError, match=r"--to .*: the directory .* does not exist"):
        report(run, tmp_path / "gone" / "page.html")
    with pytest.raises(ValueError, match="is a directory"):
        report(run, tmp_path)
    with pytest.raises(ValueError, match="--run x: selects a run in one database"):
        report([run, unfinished(tmp_path / "other")], run="x")


def test_of_a_database_with_several_runs_one_is_chosen_by_its_name(tmp_path):
    url = f"sqlite:///{tmp_path / 'team.sqlite'}"
    for name in ("a", "b"):
        with ArchiveWriter(tmp_path / name, url, run=name) as writer:
            writer.record_candidate(Candidate(0, Genome({"x": name})), queued=CREATED)
    with pytest.raises(ArchiveError, match="contains several runs; specify one of them: a, b"):
        report(url, tmp_path / "page.html")
    assert Page(report(url, tmp_path / "page.html", run="b").read_text()).title == "b · lightning-evo"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_archive_of_every_version_is_reported_on(tmp_path, version):
    run = shutil.copytree(Path(__file__).parents[2] / "archive" / "samples" / f"version_{version}", tmp_path / "run")
    (found,) = runs_of(run)
    with Archive(run) as archive:
        assert found["candidates"]["id"] == [row["id"] for row in archive.candidates()]
        assert found["front"] == archive.pareto()


def test_a_damaged_archive_is_reported_on_with_a_note(tmp_path):
    run = featured(tmp_path / "run")
    (run / "archive.sqlite").write_bytes(random.Random(0).randbytes(8192))
    for part in run.glob("archive.sqlite-*"):
        part.unlink()
    (found,) = runs_of(run)
    assert len(found["candidates"]["id"]) == FEATURED
    assert "reading the journal instead" in found["notes"][0]


def test_a_page_that_anyone_may_read_keeps_the_modes_of_ordinary_files(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    made = report(empty(tmp_path / "run"))
    assert stat.S_IMODE(made.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)
