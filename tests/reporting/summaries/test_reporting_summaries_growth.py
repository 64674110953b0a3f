"""The leaderboard says what candidates grew, and who in the best one's line grew it first."""

from __future__ import annotations

import time

import pytest

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.leaderboard import leaderboard
from lightning_evo.reporting.summaries.growth import describe_growth, growth_lineage


def record(operation, layer, before, after, epoch=None, **settings):
    step = {"operation": operation, "layer": layer, "settings": settings}
    return {"epoch": epoch, **step, "before": before, "after": after, "why": "said so", "preserving": True}


WIDEN = record("widen", "net.0", 100, 150, width=12)
INSERT = record("insert", "net.2", 150, 210, epoch=4)
PRUNE = record("prune", "net.0", 210, 190, kept=[0, 1])


def write(directory, *lines) -> None:
    """An archive of candidates, each given as (whom it inherits from, what it grew)."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta({"objectives": [{"monitor": "val_acc", "mode": "max"}]})
        for id, (parent, records) in enumerate(lines):
            parents = () if parent is None else (parent,)
            candidate = Candidate(id, Genome({"model.lr": 0.1 * (id + 1)}), parents=parents, inherits=parent)
            writer.record_candidate(candidate, queued=time.time())
            extra = {} if records is None else {"growth": records}
            writer.record_result(id, Result("completed", fitness=(0.5 + id / 100,), extra=extra))


def test_nothing_is_said_where_nothing_grew(tmp_path):
    write(tmp_path, (None, None), (0, []))
    with Archive(tmp_path) as archive:
        assert describe_growth(archive) == ""
        assert growth_lineage(archive, 1) == []
    assert "grew" not in leaderboard(tmp_path)


def test_each_step_is_told_with_the_first_in_the_line_that_took_it(tmp_path):
    write(tmp_path, (None, []), (0, [WIDEN]), (1, [WIDEN, INSERT]), (2, [WIDEN, INSERT, PRUNE]))
    with Archive(tmp_path) as archive:
        assert [(step.candidate, str(step)) for step in growth_lineage(archive, 3)] == [
            (1, "widen net.0 to 12 (100 → 150)"),
            (2, "insert net.2 (150 → 210)"),
            (3, "prune net.0 (210 → 190)"),
        ]
        assert describe_growth(archive).splitlines() == [
            "growth: 3 of 4 candidates grew (3 widen, 2 insert, 1 prune)",
            "growth of the best candidate, 3:",
            "  candidate 1 before training: widen net.0 to 12 (100 → 150)",
            "  candidate 2 at epoch 4: insert net.2 (150 → 210)",
            "  candidate 3 before training: prune net.0 (210 → 190)",
        ]


def test_what_a_parent_grew_after_its_checkpoint_is_not_the_childs(tmp_path):
    write(tmp_path, (None, [WIDEN, INSERT]), (0, [WIDEN, PRUNE]))
    with Archive(tmp_path) as archive:
        assert [step.candidate for step in growth_lineage(archive, 1)] == [0, 1]


@pytest.mark.parametrize("width", [60, 220])
def test_each_row_says_what_the_candidate_grew(width, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    write(tmp_path, (None, None), (0, [WIDEN, INSERT]), (1, [WIDEN] * 6))
    shown = " ".join(leaderboard(tmp_path).replace("│", " ").split())
    assert "grew widen net.0 to 12, insert" in shown
    assert "grew 6 steps, most recently widen" in shown


def test_steps_of_a_genome_are_shown_in_short(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")
    steps = [{"operation": "widen", "place": 0.25, "ratio": 2.0}, {"operation": "insert", "place": 1.0}]
    with ArchiveWriter(tmp_path) as writer:
        writer.update_meta({"objectives": [{"monitor": "val_acc", "mode": "max"}]})
        for id, value in enumerate([[], steps]):
            writer.record_candidate(Candidate(id, Genome({"initial": value})), queued=time.time())
            writer.record_result(id, Result("completed", fitness=(0.5,)))
    assert "widen@0.25x2 insert@1.0" in leaderboard(tmp_path)
