"""What the archive knows of a run as a whole: JSON that reads back as it was, and as earlier versions wrote it."""

from __future__ import annotations

import json

import pytest

from lightning_evo.algorithms.quality import QualityHistory
from lightning_evo.archive.meta import CheckpointUsage, FinalOutcome, FinalRequest, SearchDescription, read_meta
from lightning_evo.evolution.controller import AnswerRecord
from lightning_evo.evolution.screening import PriorResults
from lightning_evo.evolution.stacking import StackableGenes, UncomparedGenes
from lightning_evo.genome.records import StackRecord
from lightning_evo.training.final import WinnerRecord
from lightning_evo.training.proxies import UnmeasuredProxies
from lightning_evo.training.structure import StructureComparison

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
    (PriorResults, [[{"x": 1, "y": "a"}, [0.5, 2.0]]]),
    (StackableGenes, {"x": "", "y": "is a Categorical, not a number"}),
    (UncomparedGenes, {"x": "ValueError: no"}),
    (UnmeasuredProxies, {"naswot": "ValueError: no"}),
    (StructureComparison, {"structural": {"x": "net.0 is Linear or absent"}, "unbuilt": {}, "uncompared": {}}),
    (WinnerRecord, {"tested": True, "why_not": "", "retrained": False, "packed": "one file"}),
    (
        QualityHistory,
        [{"monitor": "a", "results": 20, "tau": 0.5, "r2": 0.1, "baseline": 0.2, "earned": True, "seconds": 1.0}],
    ),
]


@pytest.mark.parametrize(("kind", "stored"), STORED)
def test_what_is_stored_is_read_and_written_the_same(kind, stored):
    assert json.loads(json.dumps(read_meta({kind.key: stored}, kind).to_dict())) == stored
    assert read_meta({}, kind) is None
    assert read_meta({kind.key: None}, kind) is None


@pytest.mark.parametrize("kind", [CheckpointUsage, FinalOutcome, StackRecord, StructureComparison, WinnerRecord])
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
