import math
import os
import random
import sqlite3
import threading

import pytest
from archive_examples import make_candidate, make_result, make_run, remembered

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result


@pytest.fixture
def run(tmp_path):
    with make_run(tmp_path / "run") as writer:
        yield writer


def search(directory, fitness, objectives, duplicates=()):
    """An archive whose candidates have these fitnesses; ``None`` is a failed one, ``...`` a pending one."""
    with ArchiveWriter(directory) as writer:
        writer.set_meta("objectives", objectives)
        for id, values in enumerate(fitness):
            original = 0 if id in duplicates else None
            writer.record_candidate(Candidate(id, Genome({"g": id % 3}), duplicate_of=original), queued=0.0)
            if values is None:
                writer.record_result(id, Result("failed", error_type="E"))
            elif values is not ...:
                writer.record_result(id, Result("completed", tuple(values)))
    return Archive(directory)


MAX = [{"monitor": "val_acc", "mode": "max"}]
MIN = [{"monitor": "val_loss", "mode": "min"}]
TWO = [*MAX, {"monitor": "cost/params", "mode": "min"}]


def test_a_candidate_and_its_result_come_back_as_they_were_recorded(run):
    archive = run.archive()
    for id in range(10):
        assert archive.candidate(id) == make_candidate(id)
        assert archive.candidate(id).genome.rates == make_candidate(id).genome.rates
        expected = make_result(id).to_dict()
        if id in (0, 6):
            expected["checkpoint"] = expected["checkpoint_bytes"] = None
        assert repr(archive.result(id).to_dict()) == repr(expected)
    assert archive.result(11) is None


def test_events_are_the_asks_and_tells_in_the_order_of_their_recording(run):
    events = [(candidate.id, result is not None) for candidate, result in run.archive().events()]
    expected = [(0, False), (1, False)]
    for id in range(2, 12):
        expected += [(id, False), (id - 2, True)]
    assert events == expected


def test_rows_have_a_column_per_gene_cost_and_objective(run):
    archive = run.archive()
    rows = archive.candidates()
    assert [row["id"] for row in rows] == list(range(12))
    assert {column for row in rows for column in row} == set(archive.columns())
    assert rows[2]["model.init_args.kernel"] == 2
    assert "model.init_args.kernel" not in rows[3], "an inactive gene has no value"
    assert rows[3]["parents"] == [2, 1]
    assert rows[8]["cost/params"] == 8000
    assert [row["id"] for row in rows if "val_acc" in row] == [0, 1, 2, 3, 5, 6, 7, 8]


def test_rows_make_a_data_frame(run):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(run.archive().candidates())
    assert frame.status.value_counts().to_dict() == {"completed": 6, "stopped": 2, "failed": 2, "pending": 2}
    assert frame["model.init_args.kernel"].isna().sum() == 6
    assert frame["val_acc"].dtype == frame["queued"].dtype == float


def test_rows_can_be_chosen_by_id_and_by_status(run):
    archive = run.archive()
    assert [row["id"] for row in archive.candidates(ids=[5, 2, 99])] == [5, 2]
    assert [row["id"] for row in archive.candidates(status="pending")] == [10, 11]
    assert [row["id"] for row in archive.candidates(status="failed")] == [4, 9]
    assert archive.candidates(ids=[]) == []


def test_counts_name_every_status(run):
    assert run.archive().counts() == {"pending": 2, "completed": 6, "stopped": 2, "failed": 2}


def test_curves_have_a_row_per_epoch(run):
    rows = run.archive().curves(ids=[1, 2, 4])
    assert [(row["id"], row["epoch"]) for row in rows] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert rows[5]["val_acc"] == 2 * run.archive().result(2).fitness[0]


def test_nan_and_infinity_are_remembered(run):
    archive = run.archive()
    assert archive.result(1).metrics["val_loss"] == math.inf
    assert math.isnan(archive.result(1).curve[0]["val_loss"])
    assert math.isnan(archive.meta["nan"])


def test_meta_values_replace_earlier_ones_and_are_read_anew(run):
    archive = run.archive()
    assert archive.meta["elapsed"] == 11.0
    run.update_meta({"elapsed": 12.0, "final": {"accuracy": 0.9}})
    assert archive.meta["elapsed"] == 12.0
    assert archive.meta["final"] == {"accuracy": 0.9}
    assert archive.meta["seed"] == 3


def test_a_second_result_is_refused_and_the_first_stays(run):
    before = remembered(run.directory)
    with pytest.raises(ArchiveError, match="candidate 3 already has a result"):
        run.record_result(3, make_result(4))
    assert remembered(run.directory) == before
    run.record_result(10, make_result(10))
    assert run.archive().result(10) is not None


def test_a_candidate_recorded_twice_and_a_result_of_an_unknown_one_are_refused(run):
    with pytest.raises(ArchiveError, match="candidate 3 is already recorded"):
        run.record_candidate(make_candidate(3), queued=0.0)
    with pytest.raises(ArchiveError, match="candidate 99 was never recorded"):
        run.record_result(99, make_result(1))
    with pytest.raises(ArchiveError, match="candidate 11 has no result"):
        run.update_checkpoint(11, None)


def test_what_json_cannot_hold_is_refused_by_name(run):
    with pytest.raises(ArchiveError, match=r"result of candidate 10 .* not JSON serializable"):
        run.record_result(10, Result("completed", (1.0,), extra={"object": object()}))
    assert run.archive().result(10) is None


def test_an_unknown_candidate_is_named_with_those_there_are(run):
    with pytest.raises(ArchiveError, match="no candidate 12; it has 0 to 11"):
        run.archive().candidate(12)


def test_a_closed_archive_refuses_to_record(tmp_path):
    writer = make_run(tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(ArchiveError, match="closed"):
        writer.set_meta("a", 1)


def test_threads_can_record_at_the_same_time(tmp_path):
    with ArchiveWriter(tmp_path) as writer:

        def work(ids):
            for id in ids:
                writer.record_candidate(Candidate(id, Genome({"g": id})), queued=0.0)
                writer.record_result(id, Result("completed", (1.0,)))

        threads = [threading.Thread(target=work, args=(range(start, 80, 4),)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert Archive(tmp_path).counts()["completed"] == 80


def test_an_interrupted_write_is_finished_by_the_next_one(tmp_path, monkeypatch):
    with make_run(tmp_path) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupt)  # between the database's transaction and the journal's line
            with pytest.raises(KeyboardInterrupt):
                writer.set_meta("interrupted", True)
        writer.set_meta("after", True)
        expected = remembered(tmp_path)
    (tmp_path / "archive.sqlite").unlink()
    with ArchiveWriter(tmp_path) as writer:
        assert "missing" in writer.recovered
    assert remembered(tmp_path) == expected


def interrupt(descriptor, data):
    raise KeyboardInterrupt


# -- orders --------------------------------------------------------------------------------------------------------------


def test_ranking_puts_the_best_first_then_failed_then_pending(tmp_path):
    archive = search(tmp_path, [(0.5,), None, (0.9,), ..., (0.7,), None, (0.9,)], MAX)
    assert [row["id"] for row in archive.ranked()] == [2, 6, 4, 0, 1, 5, 3]
    assert [row["id"] for row in archive.ranked(limit=2)] == [2, 6]
    assert [row["id"] for row in archive.ranked(limit=5)] == [2, 6, 4, 0, 1]


def test_ranking_follows_the_objectives_mode(tmp_path):
    archive = search(tmp_path, [(0.5,), (math.inf,), (-0.9,), (math.nan,)], MIN)
    assert [row["id"] for row in archive.ranked()] == [2, 0, 1, 3]
    assert [row["id"] for row in archive.best(2)] == [2, 0]


def test_several_objectives_rank_by_front_then_by_the_first(tmp_path):
    archive = search(tmp_path, [(0.5, 5), (0.9, 10), (0.4, 6), None, (0.6, 20), ..., (math.nan, 1)], TWO)
    assert [row["id"] for row in archive.ranked()] == [1, 0, 6, 4, 2, 3, 5]
    assert archive.pareto() == [0, 1, 6]


def test_the_best_are_completed_and_no_duplicates(tmp_path):
    archive = search(tmp_path, [(0.5,), (0.9,), (0.9,), None], MAX, duplicates=[1])
    assert [row["id"] for row in archive.best(5)] == [2, 0]
    assert archive.pareto() == [2]
    with ArchiveWriter(tmp_path) as writer:
        writer.record_candidate(Candidate(4, Genome({"g": 1})), queued=0.0)
        writer.record_result(4, Result("stopped", (0.95,)))
    assert [row["id"] for row in archive.best(1)] == [2]
    assert [row["id"] for row in archive.ranked(1)] == [4]


def test_the_pareto_front_is_that_of_comparing_all_pairs(tmp_path):
    rng = random.Random(5)
    fitness = [(rng.randrange(8), rng.randrange(8)) for _ in range(60)]

    def dominates(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    front = [i for i, mine in enumerate(fitness) if not any(dominates(other, mine) for other in fitness)]
    assert search(tmp_path, fitness, TWO).pareto() == front


@pytest.mark.parametrize(
    ("name", "ascending", "descending"),
    [
        ("id", [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]),
        ("model.g", [0, 3, 1, 4, 2], [2, 1, 4, 0, 3]),
        ("val_acc", [2, 4, 0, 1, 3], [0, 4, 2, 1, 3]),
        ("status", [0, 2, 4, 1, 3], [3, 1, 0, 2, 4]),
        ("error_type", [1, 0, 2, 3, 4], [1, 0, 2, 3, 4]),
        ("cost/params", [4, 0, 2, 1, 3], [2, 0, 4, 1, 3]),
        ("metrics/val_loss", [0, 2, 1, 3, 4], [2, 0, 1, 3, 4]),
        ("parents", [1, 2, 3, 4, 0], [4, 3, 2, 1, 0]),
    ],
)
def test_every_column_sorts_both_ways_with_missing_values_last(tmp_path, name, ascending, descending):
    results = [
        Result("completed", (0.5,), cost={"params": 20}, metrics={"val_loss": 1.0}),
        Result("failed", error_type="E"),
        Result("completed", (0.9,), cost={"params": 30}, metrics={"val_loss": 2.0}),
        None,
        Result("completed", (0.7,), cost={"params": 10}, metrics={"val_loss": math.nan}),
    ]
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", MAX)
        for id, result in enumerate(results):
            writer.record_candidate(
                Candidate(id, Genome({"model.g": id % 3}), parents=(id - 1,) if id else ()), queued=0.0
            )
            if result is not None:
                writer.record_result(id, result)
    archive = Archive(tmp_path)
    assert [row["id"] for row in archive.ranked(sort=name)] == ascending
    assert [row["id"] for row in archive.ranked(sort=f"-{name}")] == descending
    assert [row["id"] for row in archive.ranked(limit=2, sort=name)] == ascending[:2]


def test_sorting_by_a_gene_of_mixed_values_puts_numbers_before_texts(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        for id, value in enumerate(["b", 2, [1], None, 1.5, "a", True]):
            writer.record_candidate(Candidate(id, Genome({"g": value})), queued=0.0)
    assert [row["g"] for row in Archive(tmp_path).ranked(sort="g")] == [True, 1.5, 2, [1], "a", "b", None]


def test_an_unknown_column_is_refused_naming_those_there_are(run):
    with pytest.raises(
        ValueError, match=r"no column 'nope'; the columns are id, status, val_acc, model\.init_args\.lr"
    ):
        run.archive().ranked(sort="nope")


def test_ranking_uses_the_index_on_fitness(tmp_path):
    search(tmp_path, [(0.5,)], MAX)
    with sqlite3.connect(tmp_path / "archive.sqlite") as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT candidate_id FROM results WHERE run_id = 1 AND first_fitness IS NOT NULL "
            "ORDER BY first_fitness DESC LIMIT 20"
        ).fetchall()
    assert "results_by_fitness" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


# -- several runs in one database ----------------------------------------------------------------------------------------


def test_several_runs_share_one_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'team.sqlite'}"
    with (
        ArchiveWriter(tmp_path / "one", database=url, run="one") as one,
        ArchiveWriter(tmp_path / "two", database=url) as two,
    ):
        for id in range(5):
            one.record_candidate(make_candidate(id), queued=0.0)
            two.record_candidate(make_candidate(id), queued=1.0)
            two.record_result(id, make_result(id))
        assert one.archive().counts()["pending"] == 5
        assert two.archive().counts()["pending"] == 0
        assert Archive(url, "one").directory == tmp_path / "one"
        with pytest.raises(ArchiveError, match=f"several runs; specify one of them: one, {two.run}"):
            Archive(url)
        with pytest.raises(ArchiveError, match=r"no run three; it contains one, two-"):
            Archive(url, "three")


def test_a_run_in_a_shared_database_is_continued_by_its_directory(tmp_path):
    url = f"sqlite:///{tmp_path / 'team.sqlite'}"
    with ArchiveWriter(tmp_path / "run", database=url) as writer:
        writer.record_candidate(make_candidate(0), queued=0.0)
        name = writer.run
    (tmp_path / "run" / "journal.jsonl").unlink()
    with ArchiveWriter(tmp_path / "run", database=url) as writer:
        assert writer.run == name
        assert "journal.jsonl was missing" in writer.recovered
    with pytest.raises(ArchiveError, match=f"holds the run '{name}', not 'other'"):
        ArchiveWriter(tmp_path / "run", database=url, run="other")


def test_a_shared_database_that_lost_a_run_gets_it_back_from_the_journal(tmp_path):
    with ArchiveWriter(tmp_path / "run", database=f"sqlite:///{tmp_path / 'old.sqlite'}") as writer:
        writer.record_candidate(make_candidate(0), queued=0.0)
        expected = remembered(f"sqlite:///{tmp_path / 'old.sqlite'}")
    new = f"sqlite:///{tmp_path / 'new.sqlite'}"
    with ArchiveWriter(tmp_path / "run", database=new) as writer:
        assert "restored from the journal" in writer.recovered
    assert remembered(new) == expected
    assert remembered(tmp_path / "run") == expected, "reading by directory uses the journal"


def test_two_searches_on_one_run_of_a_shared_database_are_told_apart(tmp_path):
    url = f"sqlite:///{tmp_path / 'team.sqlite'}"
    with (
        ArchiveWriter(tmp_path / "here", database=url, run="same") as here,
        ArchiveWriter(tmp_path / "there", database=url, run="same") as there,
    ):
        here.record_candidate(make_candidate(0), queued=0.0)
        with pytest.raises(ArchiveError, match="another search is writing the run 'same'"):
            there.record_candidate(make_candidate(0), queued=0.0)


def test_a_wrong_url_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="not a database URL"):
        ArchiveWriter(tmp_path, database="nosuch://host/name")


# -- starting over -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_starting_over_keeps_the_old_run_aside(tmp_path, shared):
    url = f"sqlite:///{tmp_path / 'team.sqlite'}" if shared else None
    directory = tmp_path / "run"
    with ArchiveWriter(directory, database=url) as writer:
        old = writer.run
        writer.set_meta("search", "old")
        (directory / "candidates" / "000000").mkdir(parents=True)
        assert writer.start_over() is writer
        assert writer.run != old
        writer.record_candidate(make_candidate(0), queued=0.0)
        archive = writer.archive()
        assert archive.meta == {}
        assert archive.counts()["pending"] == 1
    assert not (directory / "candidates").exists()
    assert (directory / "candidates.replaced-1" / "000000").exists()
    assert (directory / "journal.jsonl.replaced-1").exists()
    if not shared:
        assert Archive(directory / "archive.sqlite.replaced-1").meta == {"search": "old"}


def test_what_was_predicted_stands_beside_the_truth(run):
    archive = run.archive()
    rows = {row["id"]: row for row in archive.candidates()}
    assert rows[2]["predicted/val_acc"] == 0.75
    assert rows[2]["predicted_std/val_acc"] == 0.125
    assert rows[2]["prescreened"] is True
    assert "predicted/val_acc" not in rows[1]  # only proxies were measured
    assert archive.candidate(1).prediction.proxies["naswot"] == 12.5
    assert {"predicted/val_acc", "predicted_std/val_acc", "prescreened"} < set(archive.columns())
    assert archive.ranked(limit=1, sort="predicted/val_acc")[0]["id"] == 2
    assert [row["id"] for row in archive.candidates(ids=[6, 2])] == [6, 2]
    assert archive.candidates(ids=[6])[0]["predicted/val_acc"] == 0.75


def test_an_archive_without_predictions_has_no_columns_for_them(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "val_acc", "mode": "max"}])
        writer.record_candidate(make_candidate(0), queued=0.0)
        assert not any(name.startswith(("predicted", "prescreened")) for name in writer.archive().columns())
