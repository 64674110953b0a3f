"""What the archive knows of a run as a whole: JSON that reads back as it was, and as earlier versions wrote it."""

from __future__ import annotations

import json

import pytest

from lightning_evo.archive.meta import CheckpointUsage, FinalOutcome, FinalRequest, SearchDescription, read_meta
from lightning_evo.evolution.controller import AnswerRecord
from lightning_evo.genome.records import StackRecord

STORED = [
    (CheckpointUsage, {"kept": 2, "bytes": 10, "peak_bytes": 30}),
    (
        FinalOutcome,
        {
            "request": {"candidate": 4, "retrain": False, "test": True, "config": {"model": {"lr": 0.1}}},
            "metrics": {"test_acc": 0.875},
            "tested": True,
            "why_not": "",
            "retrained": False,
            "packed": "one file",
        },
    ),
    (
        SearchDescription,
        {
            "evolution": {
                "space": {"x": {}},
                "algorithm": {"class_path": "a.B", "init_args": {}},
                "fitness_epoch": "best",
            },
            "config": {"model": {}},
            "cli": "a.CLI",
        },
    ),
    (SearchDescription, {"evolution": {}, "function": "a.function"}),
    (StackRecord, {"id": 16, "size": 8, "lowering": "stack", "reason": "measured", "position": 2}),
    (AnswerRecord, 3),
]


@pytest.mark.parametrize(("kind", "stored"), STORED)
def test_what_is_stored_is_read_and_written_the_same(kind, stored):
    assert json.loads(json.dumps(read_meta({kind.key: stored}, kind).to_dict())) == stored
    assert read_meta({}, kind) is None
    assert read_meta({kind.key: None}, kind) is None


@pytest.mark.parametrize("kind", [CheckpointUsage, FinalOutcome, StackRecord])
def test_what_a_later_version_adds_is_left_out(kind):
    stored = dict(STORED)[kind]
    assert kind.from_dict({**stored, "a later one": 1}) == kind.from_dict(stored)


def test_the_same_request_is_known_again():
    (stored,) = (stored for kind, stored in STORED if kind is FinalOutcome)
    assert FinalOutcome.from_dict(stored).request == FinalRequest(4, False, True, {"model": {"lr": 0.1}})
    assert FinalOutcome.from_dict(stored).request != FinalRequest(4, False, True, {"model": {"lr": 0.2}})


def test_what_is_not_known_of_a_search_is_empty():
    described = SearchDescription.from_dict({"evolution": {"space": None}})
    assert (described.space, described.algorithm, described.config) == ({}, {}, None)
