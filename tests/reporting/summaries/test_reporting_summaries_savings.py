"""What the archive says that early stopping and inheritance saved, and how often stopping was wrong."""

from __future__ import annotations

import math

import pytest

from lightning_evo.archive import ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.leaderboard import leaderboard
from lightning_evo.reporting.summaries.savings import savings

ONE = [{"monitor": "val_acc", "mode": "max"}]
TWO = [{"monitor": "val_loss", "mode": "min"}, {"monitor": "cost/params", "mode": "min"}]


def early(control=False, stopped_at=None, would_stop_at=None, bar=None, front=None, **predicted):
    return {
        "early_fitness": {
            "control": control,
            "horizon": 10,
            "stopped_at": stopped_at,
            "would_stop_at": would_stop_at,
            "bar": bar,
            "front": front,
            "predicted": {monitor: {"low": low, "high": high} for monitor, (low, high) in predicted.items()},
        }
    }


def inherited(source, asked, copied=0, sliced=0, identity=0, fresh=0, why=""):
    counts = {"copied": copied, "sliced": sliced, "identity": identity, "fresh": fresh}
    return {"inheritance": {"from": source, "asked": asked, "why": why} | {k: ["x"] * n for k, n in counts.items()}}


def archived(directory, objectives, *results):
    """An archive with these results, as (status, fitness, epochs, extra)."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta(
            {"objectives": objectives, "checkpoints": {"kept": 3, "bytes": 2_000_000, "peak_bytes": 5_000_000}}
        )
        for id, (status, fitness, epochs, extra) in enumerate(results):
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=0.0)
            writer.record_result(id, Result(status, fitness=fitness, cost={"epochs": epochs}, extra=extra))
    return directory


def test_stops_and_controls_are_counted(tmp_path):
    found = savings(
        archived(
            tmp_path,
            ONE,
            ("completed", (0.80,), 10, early()),
            ("stopped", (0.50,), 3, early(stopped_at=2, bar=0.8, val_acc=(0.4, 0.6))),
            ("stopped", (0.60,), 5, early(stopped_at=4, bar=0.8, val_acc=(0.4, 0.7))),
            ("completed", (0.55,), 10, early(control=True, would_stop_at=2, bar=0.8, val_acc=(0.5, 0.6))),
            ("completed", (0.90,), 10, early(control=True, would_stop_at=2, bar=0.8, val_acc=(0.5, 0.6))),
            ("completed", (0.70,), 10, early(control=True)),
            ("failed", None, 2, early()),
            ("completed", (0.10,), 10, {}),
        )
    ).early_stopping
    assert (found.stopped, found.epochs_saved, found.epochs_trained) == (2, 12, 48)
    assert (found.controls, found.would_stop, found.wrong, found.covered) == (3, 2, 1, 1)
    assert found.regret == pytest.approx(0.1)
    assert (found.precision, found.coverage) == (0.5, 0.5)


def test_with_several_objectives_a_stop_was_wrong_if_the_front_does_not_dominate_the_truth(tmp_path):
    front = [[0.5, 100.0], [0.3, 900.0]]
    found = savings(
        archived(
            tmp_path,
            TWO,
            ("completed", (0.6, 200.0), 10, early(True, would_stop_at=2, front=front, val_loss=(0.5, 0.7))),
            ("completed", (0.4, 200.0), 10, early(True, would_stop_at=2, front=front, val_loss=(0.5, 0.7))),
        )
    ).early_stopping
    assert (found.would_stop, found.wrong, found.covered) == (2, 1, 1)
    assert found.regret > 0


def test_without_controls_nothing_is_claimed_of_precision(tmp_path):
    found = savings(archived(tmp_path, ONE, ("stopped", (0.5,), 3, early(stopped_at=2, bar=0.8)))).early_stopping
    assert math.isnan(found.precision)
    assert "0 controls, none of which would have been stopped" in str(found)


def test_who_inherited_is_counted(tmp_path):
    found = savings(
        archived(
            tmp_path,
            ONE,
            ("completed", (0.8,), 10, inherited(None, None)),
            ("completed", (0.8,), 10, inherited(0, 0, copied=3, fresh=1)),
            ("completed", (0.8,), 10, inherited(0, 1, copied=1, sliced=1, why="gone")),
            ("completed", (0.8,), 10, inherited(None, 2, why="gone")),
        )
    ).inheritance
    assert (found.inherited, found.older, found.scratch) == (2, 1, 1)
    assert found.share == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.sliced == pytest.approx((0 + 1 / 2) / 2)


def test_the_leaderboard_says_it_below_the_table_and_only_where_there_is_something(tmp_path):
    stopped = ("stopped", (0.5,), 3, early(stopped_at=2, bar=0.8))
    said = leaderboard(archived(tmp_path / "a", ONE, stopped, ("completed", (0.8,), 10, inherited(0, 0, copied=1))))
    lines = said.splitlines()[-3:]
    assert lines[0].startswith("early stopping: 1 stopped, 7 of 10 epochs saved (70%)")
    assert lines[1] == "inheritance: 1 started from a parent's weights (100% of their tensors copied, 0% sliced)"
    assert lines[2] == "checkpoints: 3 kept, 2.0 MB on disk, 5.0 MB at most"
    plain = leaderboard(archived(tmp_path / "b", ONE, ("completed", (0.8,), 10, {})))
    assert "checkpoints" not in plain
    assert savings(tmp_path / "b").to_dict()["early_stopping"] is None
