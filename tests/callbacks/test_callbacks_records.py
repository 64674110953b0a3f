"""What callbacks leave in ``Result.extra``: JSON that reads back as it was, and as earlier versions wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.callbacks.records import (
    AveragingRecord,
    Choice,
    ContinuationRecord,
    EarlyFitnessRecord,
    FastTrainingRecord,
    FitnessInterval,
    GrownStep,
    GrowthRecord,
    InheritanceRecord,
)
from lightning_evo.genome import Candidate, Genome, Result

# Each as the archives of earlier versions hold it, key by key.
STORED = {
    "early_fitness": {
        "policy": "ProbabilityOfImprovement",
        "delta": 0.05,
        "control": False,
        "horizon": 20,
        "stopped_at": 9,
        "would_stop_at": None,
        "probability": 0.01,
        "bar": 0.9,
        "front": None,
        "predicted": {"val_acc": {"mean": 0.5, "std": 0.1, "median": 0.55, "low": 0.4, "high": 0.6}},
        "decisions": [[8, None], [9, 0.01, 0.55, 0.4, 0.6]],
        "reason": "P(improvement) = 0.01",
    },
    "inheritance": {
        "from": 3,
        "asked": 4,
        "why": "the checkpoint of candidate 4 is gone",
        "copied": ["a"],
        "sliced": ["b", "c"],
        "identity": [],
        "fresh": ["d"],
        "optimizer": "kept",
        "preserving": False,
        "why_not": ["because"],
    },
    "continuation": {"from": 2, "asked": 2, "why": "", "start": 3, "end": 4, "changed": ["lr"]},
    "growth": [
        {
            "epoch": None,
            "source": "initial",
            "operation": "widen",
            "layer": "net.0",
            "settings": {"width": 12},
            "before": 1434,
            "after": 2390,
            "preserving": True,
            "why": "asked for",
            "notes": ["one"],
        }
    ],
    "averaging": {"method": "apso", "size": 4, "averagings": 7, "rejected": 1, "soup": {"ingredients": [0, 2]}},
    "fast": {"precision": {"on": True, "why": "asked for", "value": "bf16-mixed"}},
}

KINDS = {
    kind.key: kind
    for kind in (
        EarlyFitnessRecord,
        InheritanceRecord,
        ContinuationRecord,
        GrowthRecord,
        AveragingRecord,
        FastTrainingRecord,
    )
}

RECORDS = [
    EarlyFitnessRecord(horizon=5),
    EarlyFitnessRecord(horizon=5, control=True, would_stop_at=2, front=[[0.1, 2.0]], decisions=[[1, None]]),
    EarlyFitnessRecord(9, stopped_at=3, predicted={"loss": FitnessInterval(1.0, 0.5, 1.1, 0.2, 1.9)}),
    InheritanceRecord(None, 7, "it is gone", fresh=["a"]),
    InheritanceRecord(1, 1, copied=["a"], sliced=["b"], preserving=True),
    ContinuationRecord(None),
    GrowthRecord([]),
    GrowthRecord([GrownStep("prune", "net.2", {"width": 3}, 4, "trigger", 10, 5, False, "plateau", ["noted"])]),
    AveragingRecord(None, 2, 0, 0, {"ingredients": [1]}),
    AveragingRecord("swa", 2, 3, 0),
    FastTrainingRecord({}),
    FastTrainingRecord({"compile": Choice(False, "not timed yet")}),
]


def as_stored(record):
    return json.loads(json.dumps(record.to_dict()))


def test_every_record_has_its_row():
    assert KINDS.keys() == STORED.keys()
    assert {type(record) for record in RECORDS} == set(KINDS.values())


@pytest.mark.parametrize("key", KINDS)
def test_what_is_stored_is_read_and_written_the_same(key):
    assert as_stored(KINDS[key].from_dict(STORED[key])) == STORED[key]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record):
    assert as_stored(type(record).from_dict(as_stored(record))) == as_stored(record)


@pytest.mark.parametrize("key", [key for key in KINDS if key not in ("growth", "fast")])
def test_what_a_later_version_adds_is_left_out(key):
    assert as_stored(KINDS[key].from_dict({**STORED[key], "a later one": 1})) == STORED[key]


def test_intervals_of_an_earlier_version_have_their_mean_in_the_middle():
    read = EarlyFitnessRecord.from_dict({"horizon": 3, "predicted": {"a": {"low": 0.25, "high": 0.75}}})
    assert read.predicted["a"].mean == 0.5
    assert read.predicted["a"].median == 0.5


def test_results_and_archives_give_records(tmp_path):
    result = Result("completed", fitness=(0.5,), extra={**STORED, "a user's own": [1]})
    for key, kind in KINDS.items():
        assert as_stored(result.entry(kind)) == STORED[key]
        assert Result("completed").entry(kind) is None
    with ArchiveWriter(tmp_path) as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=0.0)
        writer.record_candidate(Candidate(1, Genome({"x": 2})), queued=0.0)
        writer.record_result(0, result)
        writer.record_result(1, Result("completed", fitness=(0.25,)))
    with Archive(tmp_path) as archive:
        for key, kind in KINDS.items():
            assert {id: as_stored(entry) for id, entry in archive.entries(kind).items()} == {0: STORED[key]}
        assert archive.extras("a user's own") == {0: [1]}


def test_records_need_no_torch():
    code = "import sys, lightning_evo.callbacks.records; assert not {'torch', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
