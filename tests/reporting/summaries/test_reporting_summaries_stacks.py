"""The leaderboard says who trained with whom, how that was computed, and why."""

from __future__ import annotations

import time

import pytest

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Result
from lightning_evo.reporting.leaderboard import leaderboard
from lightning_evo.reporting.summaries.stacks import describe_stacks


def write(directory, *records) -> None:
    """An archive of one candidate for each record of a stack; ``None``: it trained as always."""
    with ArchiveWriter(directory) as writer:
        writer.update_meta({"objectives": [{"monitor": "val_acc", "mode": "max"}]})
        for id, record in enumerate(records):
            writer.record_candidate(Candidate(id, Genome({"model.lr": 0.1 * (id + 1)})), queued=time.time())
            extra = {} if record is None else {"stack": record}
            writer.record_result(id, Result("completed", fitness=(0.5 + id / 100,), extra=extra))


def member(first, position, size=2, lowering="stack", reason="measured per step: stack 1.00 ms, loop 2.00 ms"):
    return {"id": first, "position": position, "size": size, "lowering": lowering, "reason": reason}


def described(directory) -> str:
    with Archive(directory) as archive:
        return describe_stacks(archive)


def test_nothing_is_said_where_nothing_was_stacked(tmp_path):
    write(tmp_path, None, None)
    assert described(tmp_path) == ""


def test_stacks_are_counted_by_how_they_were_computed_with_reasons_worth_a_word(tmp_path):
    by_loop = "training_step: reads a number back"
    write(
        tmp_path,
        *(member(0, i) for i in range(2)),
        *(member(2, i, lowering="loop", reason=by_loop) for i in range(2)),
        *(member(4, i, reason="measured per step: stack 3.00 ms, loop 4.00 ms") for i in range(2)),
        None,
    )
    assert described(tmp_path) == (
        "stacked: 6 of 7 candidates in 3 stacks: 2 as one computation (measured faster), "
        f"1 one after the other ({by_loop})"
    )


def test_candidates_that_had_to_train_by_themselves_say_why(tmp_path):
    write(tmp_path, member(0, 0, 1, "alone", "OutOfMemoryError: CUDA out of memory"), member(1, 0), member(1, 1))
    assert "1 candidate trained alone instead (OutOfMemoryError: CUDA out of memory)" in described(tmp_path)


@pytest.mark.parametrize("width", [60, 200])
def test_each_row_says_in_which_stack_the_candidate_trained(width, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    write(tmp_path, member(0, 0), member(0, 1), None)
    shown = leaderboard(tmp_path)
    assert "stack 0, 1 of 2" in shown
    assert "stack 0, 2 of 2" in shown
    assert shown.count(" of 2") == 2
