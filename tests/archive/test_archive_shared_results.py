"""The file of known results: read while it grows, whole lines only, begun anew where a search continues."""

from __future__ import annotations

import math

import pytest

from lightning_evo.archive import ArchiveError
from lightning_evo.archive.shared_results import SharedResult, SharedResultsReader, SharedResultsWriter
from lightning_evo.genome import Candidate, Genome, Objective, Result

OBJECTIVES = [Objective("val_acc"), Objective("cost/params", "min")]


def known(id, status="completed", duplicate_of=None, fitness=(0.5, 10.0)):
    candidate = Candidate(id, Genome({"x": id}), duplicate_of=duplicate_of)
    curve = [{"epoch": 0, "val_acc": 0.25, "val_loss": 1.0}, {"epoch": 1, "val_loss": 0.5}]
    result = Result(status, fitness=fitness, curve=curve, cost={"params": 10.0})
    return SharedResult.of(candidate, result, OBJECTIVES, [float(id), math.nan])


def test_what_is_written_is_read_one_point_for_each_evaluation(tmp_path):
    SharedResultsWriter(tmp_path / "known.jsonl").add([known(3), known(4, "stopped")])
    first, second = SharedResultsReader(tmp_path / "known.jsonl").read()
    assert (first.id, first.fitness, first.cost, first.complete) == (3, (0.5, 10.0), {"params": 10.0}, True)
    assert first.curves == {"val_acc": (0.25,)}
    assert first.features[0] == 3
    assert math.isnan(first.features[1])
    assert not second.complete


def test_failures_and_answers_tell_nothing():
    assert known(1, "failed", fitness=None) is None
    assert known(2, duplicate_of=1) is None


def test_a_reader_sees_new_lines_and_not_the_half_of_one(tmp_path):
    path = tmp_path / "known.jsonl"
    writer, reader = SharedResultsWriter(path), SharedResultsReader(path)
    assert reader.read() == []
    writer.add([known(0)])
    assert [result.id for result in reader.read()] == [0]
    writer.add([known(1), known(2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert [result.id for result in reader.read()] == [0, 1]
    path.write_bytes(whole)
    assert [result.id for result in reader.read()] == [0, 1, 2]


def test_a_continued_search_begins_the_file_anew(tmp_path):
    path = tmp_path / "known.jsonl"
    reader = SharedResultsReader(path)
    SharedResultsWriter(path).add([known(0), known(1)])
    assert len(reader.read()) == 2
    SharedResultsWriter(path).add([known(7)])
    assert [result.id for result in reader.read()] == [7]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"known\.jsonl: cannot be used"):
        SharedResultsWriter(tmp_path / "nowhere" / "known.jsonl")
