"""What the user sees while a search runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lightning_evo.genome import Candidate, Genome, Objective, Result
from lightning_evo.reporting.progress import (
    LiveProgress,
    PlainProgress,
    RunningCandidate,
    SearchState,
    SilentProgress,
    make_progress,
    render,
)

ACCURACY, SIZE = Objective("val_acc"), Objective("cost/params", "min")


def state_of(*results, objectives=(ACCURACY,), limits=None, **changes):
    state = SearchState(objectives, limits or {"candidates": 10})
    for number, result in enumerate(results):
        state.asked += 1
        state.add_result(Candidate(number, Genome({"x": number})), result)
    for name, value in changes.items():
        setattr(state, name, value)
    return state


def done(*fitness, **more):
    return Result("completed", fitness=fitness, cost={"epochs": 2, "seconds": 1.5}, **more)


def shown(state, width=100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(render(state))
    return console.file.getvalue()


def test_the_best_is_the_best_by_the_objectives_mode():
    assert state_of(done(0.5), done(0.9), done(0.7)).best.id == 1
    smallest = state_of(done(50.0), done(7.0), done(9.0), objectives=(SIZE,))
    assert smallest.best.id == 1
    assert smallest.describe_best() == "best cost/params 7.0000 (candidate 1)"


def test_counts_epochs_and_failures_add_up():
    state = state_of(done(0.5), Result("failed", error_type="RuntimeError: no", cost={"epochs": 1}), done(0.9))
    assert (state.completed, state.failed, state.told, state.epochs) == (2, 1, 3, 5)
    assert state.summary() == "3 candidates (2 completed, 1 failed), best val_acc 0.9000 (candidate 2)"


def test_an_answered_candidate_is_counted_but_not_shown_as_best():
    state = state_of(done(0.5))
    state.add_result(Candidate(1, Genome({"x": 0}), duplicate_of=0), done(0.5))
    assert state.answered == 1
    assert state.best.id == 0


def test_the_pareto_front_has_the_undominated_only():
    state = state_of(done(0.9, 100), done(0.8, 50), done(0.7, 60), done(0.9, 90), objectives=(ACCURACY, SIZE))
    assert len(state.front) == 2
    assert "2 on the Pareto front" in state.describe_best()


def test_time_left_follows_the_pace_of_the_tightest_limit():
    state = state_of(done(0.5), done(0.6), limits={"candidates": 10, "seconds": 1000}, elapsed=20.0)
    assert state.seconds_left() == pytest.approx(80)
    assert state_of(limits={"candidates": 10}).seconds_left() is None


def test_the_live_display_shows_best_slots_counts_and_time():
    state = state_of(done(0.5), Result("failed", error_type="x"), elapsed=3700.0)
    state.running = {0: RunningCandidate(7, 3, 8), 1: RunningCandidate(8, 0, None)}
    text = shown(state)
    for part in (
        "best val_acc 0.5000",
        "1 completed",
        "1 failed",
        "1:01:40 spent",
        "left",
        "2 of 10 candidates",
        "3/8",
    ):
        assert part in text


@pytest.mark.parametrize("width", [20, 40, 200])
def test_the_live_display_fits_any_terminal(width):
    state = state_of(done(0.5), elapsed=1.0, running={0: RunningCandidate(7, 3, 8)})
    assert all(len(line) <= width for line in shown(state, width).splitlines())


def test_plain_lines_say_what_ended_and_how(capsys):
    state = state_of(done(0.5))
    plain = PlainProgress()
    plain.told(Candidate(0, Genome({})), done(0.5), state)
    plain.told(Candidate(1, Genome({})), Result("failed", error_type="RuntimeError: no"), state)
    plain.told(Candidate(2, Genome({}), duplicate_of=0), done(0.5), state)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "[1/10] candidate 0 completed: val_acc 0.5000 in 1.5 s; best val_acc 0.5000 (candidate 0)"
    assert "failed: RuntimeError: no" in second
    assert "duplicate of candidate 0, not trained again" in third


def test_the_display_is_chosen_by_where_it_goes(capsys):
    assert isinstance(make_progress(True), PlainProgress)
    assert isinstance(make_progress(False), SilentProgress)
    own = SilentProgress()
    assert make_progress(own) is own


def test_messages_stand_above_the_live_display_and_stay():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with LiveProgress(console) as live:
        live.update(state_of(done(0.5), elapsed=1.0))
        live.told(Candidate(3, Genome({})), Result("failed", error_type="RuntimeError: [no] markup"), state_of())
        live.message("done")
    text = console.file.getvalue()
    assert "candidate 3 failed: RuntimeError: [no] markup" in text
    assert "done" in text
