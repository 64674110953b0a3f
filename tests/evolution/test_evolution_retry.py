"""Failures that were mended: candidates are tried again, and the search goes on as if they had never failed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import warm
from searching import evolution, threads, told

from lightning_evo import Archive, Budget
from lightning_evo.algorithms import (
    NSGA2,
    GenerationalEvolution,
    LocalSearch,
    RandomSearch,
    RegularizedEvolution,
)
from lightning_evo.archive import ArchiveError, ArchiveWriter
from lightning_evo.archive.database import ARCHIVE, JOURNAL
from lightning_evo.evolution import SearchError
from lightning_evo.execution.results import encode_result, write_result
from lightning_evo.genome import Categorical, Result
from lightning_evo.reporting.integrity import inspect_run
from toys import sphere


def breaking(genome, seed, directory):
    """Fails for a third of all genomes while there is a file ``bug``, and says so differently while there is ``tried``."""
    folder = Path(os.environ["RETRY"])
    if (folder / "bug").exists() and genome["x"] + genome["y"] > 0.3:
        raise RuntimeError(f"a bug, {(folder / 'tried').exists()}")
    if (folder / "slow").exists():
        with (folder / "trained").open("a") as file:
            file.write("x")
        time.sleep(0.05)
    return sphere(genome, seed, directory)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRY", str(tmp_path))


def run(path, function, **changes):
    changes = {"algorithm": RandomSearch(), "directory": path / "run"} | changes
    directory = changes.pop("directory")
    with threads() as pool:
        search = evolution(directory, pool, function=function, **changes)
        return search.run(), search._progress.messages


def mended(path, **changes):
    """A search with failures, and the same again after the bug was mended."""
    (path / "bug").touch()
    archive, _ = run(path, breaking, **changes)
    assert archive.counts()["failed"]
    (path / "bug").unlink()
    return run(path, breaking, **{**changes, "retry_failed": True})


def test_a_search_whose_failures_were_tried_again_is_one_in_which_there_was_no_bug(tmp_path):
    archive, messages = mended(tmp_path)
    undisturbed, _ = run(tmp_path, sphere, directory=tmp_path / "other")
    assert told(archive) == told(undisturbed)
    assert any("failed candidates again" in message for message in messages)
    assert any(message.startswith("tried again: ") for message in messages)
    assert archive.waiting() == []
    again, messages = run(tmp_path, breaking, retry_failed=True)
    assert told(again) == told(undisturbed)
    assert "no candidate has failed, so none is tried again" in messages


@pytest.mark.parametrize(
    "algorithm",
    [
        GenerationalEvolution(population_size=4),
        RegularizedEvolution(population_size=4),
        NSGA2(population_size=4),
        LocalSearch(),
        RandomSearch(),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_every_kind_of_algorithm_takes_what_was_tried_again_and_goes_on(algorithm, tmp_path):
    archive, _ = mended(tmp_path, algorithm=algorithm)
    assert archive.counts() == archive.counts() | {"completed": 12, "failed": 0}
    before = told(archive)
    archive, _ = run(tmp_path, breaking, algorithm=algorithm, budget=Budget(candidates=20))
    assert archive.counts()["completed"] == 20
    assert told(archive)[:12] == before
    best = max(row["value"] for row in archive.candidates())
    assert archive.best(1)[0]["value"] == best


def test_a_search_that_stopped_as_all_failed_goes_on(tmp_path):
    (tmp_path / "bug").touch()
    space = {"x": Categorical([0.5, 0.6, 0.7]), "y": Categorical([0.0, 0.1, 0.2])}
    with pytest.raises(SearchError, match="all of the first 3 candidates failed: RuntimeError: a bug"):
        run(tmp_path, breaking, space=space, budget=Budget(candidates=6))
    (tmp_path / "bug").unlink()
    archive, _ = run(tmp_path, breaking, space=space, budget=Budget(candidates=6), retry_failed=True)
    assert archive.counts()["completed"] == 6


def test_what_fails_again_has_failed_and_can_be_tried_once_more(tmp_path):
    (tmp_path / "bug").touch()
    first, _ = run(tmp_path, breaking)
    failed = [row["id"] for row in first.candidates(status="failed")]
    (tmp_path / "tried").touch()
    second, messages = run(tmp_path, breaking, retry_failed=True)
    assert [row["id"] for row in second.candidates(status="failed")] == failed
    assert {second.result(id).error_type for id in failed} == {"RuntimeError: a bug, True"}
    assert f"tried again: {len(failed)} failed" in messages
    (tmp_path / "bug").unlink()
    third, _ = run(tmp_path, breaking, retry_failed=True)
    assert third.counts()["failed"] == 0


def test_duplicates_of_a_failure_get_the_new_result(tmp_path):
    space = {"x": Categorical([0.0, 0.2]), "y": Categorical([0.0, 0.2])}
    archive, _ = mended(tmp_path, space=space, budget=Budget(candidates=16))
    rows = archive.candidates()
    assert {row["status"] for row in rows} == {"completed"}
    assert any(row["duplicate_of"] is not None and row["x"] + row["y"] > 0.3 for row in rows)
    for row in rows:
        assert row["value"] == -(row["x"] ** 2) - row["y"] ** 2


@pytest.mark.parametrize("lost", [ARCHIVE, JOURNAL])
def test_database_and_journal_hold_the_same_afterwards(lost, tmp_path):
    archive, _ = mended(tmp_path)
    expected = told(archive)
    order = [(candidate.id, result and result.fitness) for candidate, result in archive.events()]
    archive.close()
    for file in (tmp_path / "run").glob(f"{lost}*"):
        file.unlink()
    with ArchiveWriter(tmp_path / "run") as writer, writer.archive() as again:
        assert told(again) == expected
        assert [(candidate.id, result and result.fitness) for candidate, result in again.events()] == order
        assert again.waiting() == []


def test_only_failures_can_be_replaced_and_each_once(tmp_path):
    mended(tmp_path)[0].close()
    with ArchiveWriter(tmp_path / "run") as writer:
        with pytest.raises(ArchiveError, match="candidate 0 hasn't failed"):
            writer.retry([0])
        with pytest.raises(ArchiveError, match="candidate 0 is not to be trained again"):
            writer.replace_result(0, Result("completed", fitness=(1.0,)))


def test_what_a_killed_search_had_trained_again_is_not_trained_once_more(tmp_path):
    (tmp_path / "bug").touch()
    archive, _ = run(tmp_path, breaking)
    ids = [row["id"] for row in archive.candidates(status="failed")]
    archive.close()
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.retry(ids)
    for id, result in zip(ids, (Result("completed", (7.0,)), Result("failed", error_type="killed")), strict=False):
        (place := tmp_path / "run" / "candidates" / f"{id:06d}").mkdir(parents=True, exist_ok=True)
        write_result(place, encode_result(result))
    (tmp_path / "bug").unlink()
    archive, _ = run(tmp_path, breaking, retry_failed=True)
    assert archive.counts()["failed"] == 0
    assert [archive.result(id).fitness == (7.0,) for id in ids] == [True, *[False] * (len(ids) - 1)]


PROGRAM = """
import sys
from pathlib import Path
from test_evolution_retry import breaking, run
from lightning_evo import Budget

if __name__ == "__main__":
    run(Path(sys.argv[1]), breaking, budget=Budget(candidates=40), retry_failed="retry" in sys.argv)
"""


def test_a_kill_while_trying_again_loses_nothing_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "bug").touch()
    archive, _ = run(tmp_path, breaking, budget=Budget(candidates=40))
    failed = archive.counts()["failed"]
    archive.close()
    (tmp_path / "bug").unlink()
    (tmp_path / "slow").touch()
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with warm.Popen([*command, "retry"], env=environment) as program:
        while not (tmp_path / "trained").exists() or (tmp_path / "trained").stat().st_size < 4:
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGKILL)
    with Archive(tmp_path / "run") as archive:
        assert 0 < len(archive.waiting()) < failed
    warm.run(command, env=environment, check=True)  # without the flag
    with Archive(tmp_path / "run") as archive:
        assert archive.counts()["failed"] == 0
        assert archive.waiting() == []
        undisturbed, _ = run(tmp_path, sphere, directory=tmp_path / "other", budget=Budget(candidates=40))
        assert told(archive) == told(undisturbed)
    # Those in training as it was killed, and no others, were trained twice.
    assert (tmp_path / "trained").stat().st_size <= failed + 2


def test_the_check_of_a_directory_finds_nothing_wrong(tmp_path):
    mended(tmp_path)[0].close()
    assert [finding for finding in inspect_run(tmp_path / "run") if not finding.whole] == []
