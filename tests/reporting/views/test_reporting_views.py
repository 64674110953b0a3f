"""What the views of a run say: its course, its front, who descends from whom, what was predicted, and what it cost."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import numpy
import pytest
from reporting_archives import CREATED, EPOCHS, FEATURED, empty, featured, synthetic, unfinished

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting import views


@pytest.fixture(scope="module")
def feature_run(tmp_path_factory):
    return featured(tmp_path_factory.mktemp("featured"))


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("synthetic"), candidates=400, seed=3, objectives=3)


@pytest.fixture(scope="module")
def seen(feature_run):
    with Archive(feature_run) as archive:
        yield views.read_snapshot(archive)


@pytest.fixture(scope="module")
def seen_long(long_run):
    with Archive(long_run) as archive:
        yield views.read_snapshot(archive)


def written(directory, *results, objectives=("acc",), mode="max", meta=None):
    """An archive of candidates that ended with these results, each asked a second after the one before."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta({"objectives": [{"monitor": o, "mode": mode} for o in objectives], **(meta or {})})
        for id, result in enumerate(results):
            writer.record_candidate(Candidate(id, Genome({"x": float(id)})), queued=CREATED + id)
            if result is not None:
                writer.record_result(id, result)
    with Archive(directory) as archive:
        return views.read_snapshot(archive)


def completed(*fitness, start=0.0, end=1.0, status="completed", slot=0, **known):
    times = {"started": CREATED + start, "ended": CREATED + end, "slot": slot}
    return Result(status, fitness=tuple(map(float, fitness)), **times, **known)


# -- progress ----------------------------------------------------------------------------------------------------------


def told_by_hand(seen):
    rows = [row for row in seen.rows if row["status"] != "pending"]
    return sorted(rows, key=lambda row: (row["queued"] if row["ended"] is None else row["ended"], row["id"]))


@pytest.mark.parametrize("monitor", ["val_acc", "cost/params"])
def test_the_course_is_what_a_loop_over_the_candidates_gives(seen_long, monitor):
    found = views.progress(seen_long, monitor)
    better = max if found.mode == "max" else min
    best, population, epochs = math.nan, [], 0.0
    for at, row in enumerate(told_by_hand(seen_long)):
        fresh, value = row["duplicate_of"] is None, row.get(monitor)
        epochs += row.get("cost/epochs", 0)
        if fresh and row["status"] == "completed":
            best = value if math.isnan(best) else better(best, value)
        if fresh and row["status"] in ("completed", "stopped"):
            population = [*population, value][-found.window :]
        assert found.count[at] == at + 1
        assert found.epochs[at] == epochs
        assert found.best[at] == pytest.approx(best, nan_ok=True)
        quartiles = numpy.percentile(population, (25, 50, 75)) if population else [math.nan] * 3
        assert [found.q25[at], found.q50[at], found.q75[at]] == pytest.approx(list(quartiles), nan_ok=True)
    assert found.window == 64  # the algorithm's population
    assert seen_long.by_id[found.best_id[-1]][monitor] == found.best[-1]


def test_of_many_points_those_are_kept_where_the_best_changed_and_the_last(seen_long):
    all_points, few = views.progress(seen_long), views.progress(seen_long, points=20)
    assert len(few.count) < 60 < len(all_points.count)
    assert set(all_points.best_id.tolist()) == set(few.best_id.tolist())
    assert few.count[-1] == all_points.count[-1]
    at = few.count - 1
    for name in ("best", "epochs", "seconds", "q50"):
        numpy.testing.assert_array_equal(getattr(few, name), getattr(all_points, name)[at])


def test_a_fitness_that_is_not_finite_is_never_the_best(tmp_path):
    seen = written(
        tmp_path, *(completed(value, end=at) for at, value in enumerate((math.nan, 0.5, math.inf, 0.7, 0.6)))
    )
    found = views.progress(seen)
    assert [None if id < 0 else id for id in found.best_id.tolist()] == [None, 1, 1, 3, 3]
    assert seen.best == 3
    assert found.q75[2] == found.q25[2] == 0.5


def test_a_predicted_fitness_counts_in_the_population_but_is_never_the_best(tmp_path):
    seen = written(tmp_path, completed(0.5), completed(0.9, end=2.0, status="stopped"))
    found = views.progress(seen)
    assert found.best.tolist() == [0.5, 0.5]
    assert found.q50.tolist() == [0.5, 0.7]


def test_the_time_in_which_a_search_was_not_running_does_not_count(tmp_path):
    times = [(0, 10), (10, 20), (1020, 1030), (1030, 1040)]
    results = [completed(0.5, start=start, end=end) for start, end in times]
    known = {"created": CREATED, "elapsed": 40.0}
    paused = written(tmp_path / "paused", *results, meta=known)
    assert views.progress(paused).seconds.tolist() == [10, 20, 30, 40]
    assert views.occupation(paused).busy == 1.0
    # A search whose own clock ran all the time has only waited for a slot.
    waited = written(tmp_path / "waited", *results, meta={**known, "elapsed": 1040.0})
    assert views.progress(waited).seconds.tolist() == [10, 20, 1030, 1040]
    assert views.occupation(waited).busy == pytest.approx(40 / 1040)


def test_an_unknown_objective_is_refused_naming_those_there_are(seen):
    for view in (views.progress, views.importance, views.predicted):
        with pytest.raises(ValueError, match=r"has no objective 'nope'; its objectives: val_acc, cost/params"):
            view(seen, "nope")


# -- front and lineage -------------------------------------------------------------------------------------------------


def test_the_front_holds_whom_nobody_beats_in_everything(seen_long, long_run):
    found = views.front(seen_long)
    signs = numpy.array([objective.weight for objective in found.objectives])
    values = found.values * signs
    dominated = [(numpy.all(values >= v, axis=1) & numpy.any(values > v, axis=1)).any() for v in values]
    assert found.best == [int(id) for id, beaten in zip(found.ids, dominated, strict=True) if not beaten]
    assert len(found.best) > 3
    with Archive(long_run) as archive:
        assert found.best == archive.pareto()


def test_a_candidate_without_a_finite_fitness_is_not_on_the_front(tmp_path):
    seen = written(tmp_path, completed(math.nan, 9.0), completed(0.5, 1.0), objectives=("a", "b"))
    assert views.front(seen).best == [1]


def test_with_one_objective_the_front_is_the_best_and_ranks_are_places(tmp_path):
    seen = written(tmp_path, completed(0.3), completed(0.1), completed(0.2), completed(0.1), mode="min")
    found = views.front(seen)
    assert found.best == [1, 3]
    assert found.ranks.tolist() == [2, 0, 1, 0]


def test_edges_say_who_was_bred_from_whom_what_was_inherited_and_what_changed(seen):
    edges = {(edge.parent, edge.child): edge for edge in views.lineage(seen).edges}
    assert {edge for edge in edges if edge[1] in (6, 10)} == {(2, 6), (1, 6), (6, 10), (5, 10)}
    assert edges[7, 13].inherits  # its parent
    assert edges[12, 19].inherits  # an older ancestor, as its parent's checkpoint was gone
    assert not edges[12, 19].bred
    assert edges[13, 19].bred
    assert not edges[13, 19].inherits
    assert not edges[15, 21].inherits  # was to inherit, and began anew
    assert edges[16, 17].inherits  # continues it
    assert edges[4, 9].changed == ()  # a duplicate
    for (parent, child), edge in edges.items():
        before, after = seen.by_id[parent], seen.by_id[child]
        paths = {change.path for change in edge.changed}
        for gene in views.gene_columns(seen):
            assert (gene.path in paths) == (before.get(gene.path) != after.get(gene.path))


def test_ancestry_follows_parents_and_whoever_gave_weights_to_the_beginning(seen):
    assert views.ancestry(seen, 19).ids == (1, 2, 6, 7, 12, 13, 19)
    assert views.ancestry(seen, 19, generations=1).ids == (12, 13, 19)
    assert views.ancestry(seen).ids[-1] == seen.best
    with pytest.raises(ValueError, match="there is no candidate 99"):
        views.ancestry(seen, 99)


def test_an_ancestry_needs_a_candidate_that_has_finished(tmp_path):
    with Archive(unfinished(tmp_path)) as archive, pytest.raises(ValueError, match="no candidate has finished yet"):
        views.ancestry(views.read_snapshot(archive))


# -- curves and predictions --------------------------------------------------------------------------------------------


def test_curves_hold_every_metric_by_epoch(feature_run):
    with Archive(feature_run) as archive:
        found = {curve.id: curve for curve in views.curves(archive)}
        logged = archive.result(7).curve
    assert set(found) == set(range(FEATURED - 2)) - {3, 9}  # nothing logged, answered by another
    assert (found[7].unit, found[7].places.tolist()) == ("epoch", [0, 1, 2])
    assert set(found[7].metrics) == {"val_acc", "val_loss", "train_loss"}
    assert found[7].metrics["val_acc"].tolist() == [point["val_acc"] for point in logged]
    assert len(found[0].places) == EPOCHS


def test_a_metric_missing_in_an_epoch_is_nan_there_and_one_missing_throughout_is_left_out(tmp_path):
    curve = [{"epoch": 0, "acc": 0.1}, {"epoch": 1, "acc": 0.2, "loss": math.inf}]
    written(tmp_path, completed(0.2, curve=curve))
    with Archive(tmp_path) as archive:
        (found,) = views.curves(archive, metrics=["acc", "loss", "other"])
    assert found.metrics["loss"].tolist() == [pytest.approx(math.nan, nan_ok=True), math.inf]
    assert "other" not in found.metrics


def test_of_many_curves_the_best_and_the_last_are_worth_showing(seen_long):
    chosen = views.sample_candidates(seen_long, 40)
    assert len(chosen) == len(set(chosen)) == 40
    fresh = [row["id"] for row in seen_long.rows if row["duplicate_of"] is None]
    assert {seen_long.best, fresh[-1], fresh[-5]} <= set(chosen)
    assert views.sample_candidates(seen_long, 1000) == fresh


def test_early_predictions_tell_stops_from_controls_whose_end_is_known(seen):
    found = {each.id: each for each in views.early_predictions(seen)}
    assert set(found) == {7, 14, 8, 15}  # candidate 10 was a control that nobody would have stopped
    assert [found[id].stopped for id in (7, 14, 8, 15)] == [True, True, False, False]
    assert found[14].evaluation == 3
    assert found[7].true is None
    assert found[8].true == seen.by_id[8]["val_acc"]
    assert found[8].low < found[8].mean < found[8].high


def test_predictions_stand_beside_what_came_out(seen):
    found = views.predicted(seen, "cost/params")
    assert found.ids.tolist() == list(range(12, FEATURED))  # 10 has proxies alone
    assert found.mean.tolist() == [1000.0] * 12
    assert numpy.isnan(found.true[[2, -1, -2]]).all()  # 14 was stopped, the last two are pending
    assert found.true[0] == seen.by_id[12]["cost/params"]
    assert found.chosen.tolist() == [id % 2 == 0 for id in range(12, FEATURED)]


def test_how_right_predictions_were_is_what_pandas_says(seen_long):
    import pandas

    found = views.predicted(seen_long)
    frame = pandas.DataFrame({"mean": found.mean, "true": found.true})[found.known]
    assert len(frame) > 50
    assert found.tau == pytest.approx(frame["mean"].corr(frame["true"], method="kendall"))
    residual, spread = ((frame["true"] - frame["mean"]) ** 2).sum(), ((frame["true"] - frame["true"].mean()) ** 2).sum()
    assert found.r2 == pytest.approx(1 - residual / spread)


# -- occupation and totals ---------------------------------------------------------------------------------------------


def test_occupation_says_who_trained_where_and_when(seen):
    found = views.occupation(seen)
    assert found.slots == (0, 1)
    assert {stay.id for stay in found.spans} == set(range(FEATURED - 2)) - {9}
    (stopped,) = [stay for stay in found.spans if stay.id == 7]
    row = seen.by_id[7]
    assert (stopped.slot, stopped.status) == (1, "stopped")
    assert (stopped.start, stopped.end) == (row["started"] - CREATED, row["ended"] - CREATED)


def test_who_trained_in_one_stack_kept_one_slot_busy_once(tmp_path):
    together = [completed(0.5, start=0, end=4) for _ in range(3)]
    seen = written(tmp_path, *together, completed(0.5, start=6, end=8, slot=1))
    assert views.occupation(seen).busy == pytest.approx((4 + 2) / (2 * 8))


def test_totals_are_sums_over_whoever_was_trained(seen):
    found = views.totals(seen)
    rows = [row for row in seen.rows if row["duplicate_of"] is None]
    for name in ("seconds", "epochs", "training_flops"):
        assert getattr(found, name) == pytest.approx(sum(row.get(f"cost/{name}", 0) for row in rows))
    assert found.candidates == {"pending": 2, "completed": 18, "stopped": 2, "failed": 2}
    assert (found.slots, found.elapsed) == (2, 60.0)


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_every_view_of_a_run_without_candidates_or_results_is_empty(tmp_path):
    for make, count in ((empty, 0), (unfinished, 4)):
        with Archive(make(tmp_path / make.__name__)) as archive:
            seen = views.read_snapshot(archive)
            assert views.curves(archive) == []
        assert seen.best is None
        assert len(views.front(seen).ids) == 0
        assert not numpy.isfinite(views.progress(seen).best).any()
        assert "0 candidates have a fitness" in views.importance(seen).why_not
        assert len(views.lineage(seen).ids) == count
        assert views.early_predictions(seen) == []
        assert len(views.predicted(seen).ids) == 0
        assert math.isnan(views.predicted(seen).r2)
        assert all(len(gene.values) == count for gene in views.gene_columns(seen))
        assert (views.occupation(seen).busy is None) == (make is empty)
        assert views.totals(seen).seconds == 0


def test_a_run_without_objectives_has_no_best_and_no_front(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=CREATED)
    with Archive(tmp_path) as archive:
        seen = views.read_snapshot(archive)
    assert seen.best is None
    assert views.front(seen).best == []
    assert seen.created == CREATED


def test_a_run_is_running_while_its_directory_is_locked_and_then_finished_or_interrupted(tmp_path):
    with ArchiveWriter(tmp_path) as writer, writer.archive() as archive:
        writer.update_meta({"objectives": [{"monitor": "acc", "mode": "max"}]})
        assert views.read_snapshot(archive).status == "running"
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=CREATED)
        writer.close()
        assert views.read_snapshot(archive).status == "interrupted"
    with ArchiveWriter(tmp_path) as writer:
        writer.record_result(0, completed(0.5))
    with Archive(tmp_path) as archive:
        assert views.read_snapshot(archive).status == "finished"


@pytest.mark.parametrize(("end", "status"), [("budget.candidates", "finished"), ("", "interrupted")])
def test_a_search_that_was_stopped_is_interrupted_even_where_nobody_is_left_to_train(tmp_path, end, status):
    assert written(tmp_path, completed(0.5), meta={"end": end}).status == status


def test_where_the_search_runs_on_another_machine_a_fresh_journal_says_that_it_runs(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=CREATED)
    (tmp_path / "lock").write_text("process 1 on a-machine-elsewhere\n")
    with Archive(tmp_path) as archive:
        assert views.read_snapshot(archive).status == "running"
        old = time.time() - 3600
        os.utime(tmp_path / "journal.jsonl", (old, old))
        assert views.read_snapshot(archive).status == "interrupted"


def test_views_need_neither_torch_nor_lightning(feature_run):
    code = f"""
import sys
from lightning_evo.archive import Archive
from lightning_evo.reporting import views
seen = views.read_snapshot(Archive({str(feature_run)!r}))
views.gene_columns(seen), views.progress(seen), views.front(seen), views.importance(seen), views.totals(seen)
assert not {{"torch", "lightning"}} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
