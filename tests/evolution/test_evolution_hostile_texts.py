"""Whatever candidates raise and however they name things, the search goes on, and continues later."""

from __future__ import annotations

import json
import os
import pty
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from hostile_texts import HOSTILE, RAISED, UNREADABLE, naming, raising, valued
from rich.console import Console
from searching import evolution, threads, told

from lightning_evo import Budget, Objective
from lightning_evo.algorithms import RandomSearch
from lightning_evo.evolution import SearchError
from lightning_evo.genome import Categorical, Result, Uniform, records
from lightning_evo.genome.records import MAX_ERROR, MAX_ERROR_TYPE, MAX_METRICS, LeftOutRecord
from lightning_evo.reporting.exports import export_csv, export_json
from lightning_evo.reporting.leaderboard import leaderboard, tracebacks
from lightning_evo.reporting.page import report
from lightning_evo.reporting.progress import LiveProgress, SilentProgress


def searched(directory, function, kinds, executor, candidates, **changes):
    return evolution(
        directory,
        executor,
        function=function,
        space={"x": Uniform(-1, 1), "kind": Categorical(kinds)},
        algorithm=RandomSearch(),
        budget=Budget(candidates=candidates),
        **changes,
    )


def read_everything(directory):
    """Every way to look at a run works; returns what a terminal would show."""
    shown = [leaderboard(directory, 0), tracebacks(directory, 0), leaderboard(directory, 0, format="csv")]
    for text in shown:
        text.encode()
        assert not any(sign in text for sign in "\x00\x07\x1b\x9b\x9d\u202e\r")
    json.loads(leaderboard(directory, 0, format="json"))
    report(directory)
    export_csv(directory, directory / "csv")
    export_json(directory, directory / "all.json")
    return "\n".join(shown)


def test_nothing_that_a_candidate_raises_ends_a_search_or_its_continuation(tmp_path):
    kinds = ["good", *RAISED]
    with threads() as pool:
        search = searched(tmp_path / "run", raising, kinds, pool, 150)
        archive = search.run()
        assert archive.counts()["completed"] > 0
        raised = {row["kind"]: archive.result(row["id"]) for row in archive.candidates(status="failed")}
        assert set(raised) == set(RAISED)
        for kind, result in raised.items():
            assert 0 < len(result.error) <= MAX_ERROR, kind
            assert 0 < len(result.error_type) <= MAX_ERROR_TYPE, kind
            assert not result.fatal, kind
        assert "SilentError" in raised["no message"].error_type
        assert "SystemExit: bye" in raised["exit"].error_type
        assert "characters left out" in raised["huge"].error
        assert "caf\\udce9.png" in raised["message: surrogate"].error_type
        before = told(archive)
        again = searched(tmp_path / "run", raising, kinds, pool, 155).run()
    assert told(again)[:150] == before
    assert max(path.stat().st_size for path in tmp_path.rglob("result.json")) < 300_000
    read_everything(tmp_path / "run")


def test_metrics_of_any_name_and_number_are_kept_within_bounds(tmp_path):
    kinds = ["many", *HOSTILE]
    with threads() as pool:
        archive = searched(tmp_path / "run", naming, kinds, pool, 40).run()
        rows = archive.candidates()
        assert {row["status"] for row in rows} == {"completed"}
        many = archive.result(next(row["id"] for row in rows if row["kind"] == "many"))
        assert len(many.metrics) == MAX_METRICS
        assert many.entry(LeftOutRecord).metrics == 100_001 - MAX_METRICS
        assert many.metrics["value"] == many.fitness[0]
        assert "metrics/caf\\udce9.png" in archive.columns()
        searched(tmp_path / "run", naming, kinds, pool, 41).run()
    read_everything(tmp_path / "run")


def test_genes_keep_texts_that_are_not_unicode_and_readers_show_them(tmp_path):
    with threads() as pool:
        settings = {
            "function": valued,
            "algorithm": RandomSearch(),
            "space": {"text": Categorical(list(HOSTILE.values()))},
            "budget": Budget(candidates=30),
        }
        archive = evolution(tmp_path / "run", pool, **settings).run()
        assert archive.counts()["completed"] == 30
        assert UNREADABLE in {row["text"] for row in archive.candidates()}
        again = evolution(tmp_path / "run", pool, **settings | {"budget": Budget(candidates=32)}).run()
    assert again.counts()["completed"] == 32
    assert "caf\\udce9.png" in read_everything(tmp_path / "run")


def test_a_directory_of_any_name(tmp_path):
    for name in (UNREADABLE, "\x1b[31mred", "a\nb", "[red]", "=1+1"):
        directory = tmp_path / name
        with threads() as pool:
            evolution(directory, pool).run()
            archive = evolution(directory, pool, budget=Budget(candidates=14)).run()
        assert archive.counts()["completed"] == 14
        read_everything(directory)


def test_names_that_no_database_holds_are_refused_in_a_line(tmp_path):
    for name in (UNREADABLE, "a\0b"):
        with pytest.raises(SearchError, match=r"is no Unicode text|is not a config path"):
            evolution(tmp_path / "run", None, space={name: Uniform(0, 1)})
        with pytest.raises(ValueError, match="is not a metric's name"):
            Objective(name)
    with pytest.raises(ValueError, match=r"at most 500 characters"):
        Objective("x" * 501)


def test_a_result_is_bounded_and_only_where_that_is_needed(monkeypatch):
    monkeypatch.setattr(records, "MAX_CURVE", 10_000)
    small = Result(
        "completed", fitness=(1.0,), metrics={"a": 1.0}, curve=({"epoch": 0, "a": 1.0},) * 50, extra={"b": [1]}
    )
    assert small.storable() is small
    emoji = Result("completed", fitness=(1.0,), metrics={"🙂": 1.0})
    assert emoji.storable() == emoji
    points = tuple({"epoch": i, **{f"m{k}": 0.0 for k in range(200)}} for i in range(100))
    large = Result("completed", fitness=(1.0,), curve=points, extra={"big": "x" * 5_000_000, "small": "\ud800"})
    kept = large.storable()
    assert sum(map(len, kept.curve)) == 10_000
    assert len(kept.curve) == 100
    assert kept.curve[0]["epoch"] == 0
    assert kept.extra["small"] == "\\ud800"
    assert kept.entry(LeftOutRecord) == LeftOutRecord(0, 101, {"big": 5_000_002})
    assert kept.storable() == kept
    unusual = Result("completed", fitness=(1.0,), extra={"left_out": 3, "object": object()})
    assert "not plain data" in unusual.storable().error_type


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_in_any_encoding_shows_every_message(tmp_path, encoding):
    written = BytesIO()
    stream = TextIOWrapper(written, encoding)  # closes what it writes to when it goes
    with redirect_stdout(stream), threads() as pool:
        searched(
            tmp_path / "run", raising, ["good", "message: surrogate", "message: C1"], pool, 12, progress=True
        ).run()
    assert b"caf\\udce9.png" in written.getvalue()
    assert b"\\x9b31m" in written.getvalue()


def _written(number):
    return os.fdopen(number, "w")


def _closed():
    stream = StringIO()
    stream.close()
    return stream


def _unread():
    reading, writing = os.pipe()
    os.close(reading)
    return _written(writing)


def _full():
    return _written(os.open("/dev/full", os.O_WRONLY))


def _gone():
    controller, terminal = pty.openpty()
    stream = _written(terminal)
    os.close(controller)
    return stream


@pytest.mark.parametrize("broken", [_closed, _unread, _full, _gone, lambda: None])
def test_a_search_goes_on_where_its_output_cannot_be_written(tmp_path, broken):
    stream = broken()
    with redirect_stdout(stream), redirect_stderr(stream), threads() as pool:
        archive = evolution(tmp_path / "run", pool, progress=True).run()
    assert archive.counts()["completed"] == 12
    if stream is not None:
        stream.close()  # nothing is left in it that would fail now


def test_a_terminal_that_goes_during_a_search_is_left_alone(tmp_path):
    controller, terminal = pty.openpty()
    stream = _written(terminal)

    class Vanishing(LiveProgress):
        interval = 0.0

        def told(self, candidate, result, state):
            if candidate.id == 5:
                os.close(controller)

    display = Vanishing(Console(file=stream, force_terminal=True, width=80))
    before = sys.stdout
    with threads() as pool:
        archive = evolution(tmp_path / "run", pool, progress=display).run()
    assert archive.counts()["completed"] == 12
    assert sys.stdout is before
    assert display.console.quiet


def test_a_display_that_raises_is_reported_once_and_ends_nothing(tmp_path, caplog):
    class Broken(SilentProgress):
        def due(self):
            return True

        def update(self, state):
            raise ZeroDivisionError("\x1b[31m")

        told = update

        def message(self, text):
            raise SystemExit(1)

    with threads() as pool:
        assert evolution(tmp_path / "run", pool, progress=Broken()).run().counts()["completed"] == 12
    assert len(caplog.messages) == 1
    assert "\x1b" not in caplog.text
