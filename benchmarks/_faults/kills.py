"""Kills at any point: a search that is continued ends as the one that was never interrupted."""

from __future__ import annotations

import functools
import multiprocessing
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from _faults import Case, kind, shared_folder
from _faults._searches import rows_of, search
from lightning_evo.algorithms import (
    Algorithm,
    GenerationalEvolution,
    LocalSearch,
    PredictorSearch,
    RegularizedEvolution,
)
from lightning_evo.archive.journal import Journal
from lightning_evo.predictors import ForestPredictor

CANDIDATES = 26

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "RegularizedEvolution": lambda: RegularizedEvolution(population_size=5, tournament_size=2),
    "GenerationalEvolution": lambda: GenerationalEvolution(population_size=4),
    "LocalSearch": lambda: LocalSearch(),
    # Every ask from the thirteenth on is by a predictor that was fitted anew.
    "PredictorSearch": lambda: PredictorSearch(
        ForestPredictor(trees=5), population_size=6, parents=3, pool=5, rounds=2
    ),
}


@functools.cache
def snapshots(algorithm: str) -> tuple[list[Path], list[Any]]:
    """A search's directory as kills would leave it, before and after each line of its journal; and what it ended with."""
    folder = shared_folder(f"kills-{algorithm}")
    run, copies = folder / "run", []
    append = Journal.append

    def copying(journal: Journal, event: dict[str, Any]) -> None:
        for half in ("committed", "appended"):
            if half == "appended":
                append(journal, event)
            copies.append(Path(shutil.copytree(run, folder / f"{len(copies):03d}-{half}")))

    with mock.patch.object(Journal, "append", copying):
        search(run, CANDIDATES, ALGORITHMS[algorithm]()).close()
    return copies, rows_of(run)


def continued(case: Case, algorithm: str) -> None:
    """Continue a search that was killed between two of its writes."""
    copies, truth = snapshots(algorithm)
    run = case.folder / "run"
    # Evenly through the search, each time another one.
    shutil.copytree(copies[case.rng.randrange(len(copies))], run)
    search(run, CANDIDATES, ALGORITHMS[algorithm]()).close()
    case.check(rows_of(run) == truth, "the continued search differs from the uninterrupted one")


def killed(case: Case, algorithm: str) -> None:
    """Kill a search's process at random moments, several times, each time continuing it."""
    _, truth = snapshots(algorithm)
    run = case.folder / "run"
    context = multiprocessing.get_context("fork")
    for _ in range(case.rng.randint(1, 4)):
        process = context.Process(target=search_quietly, args=(run, algorithm))
        process.start()
        process.join(case.rng.uniform(0.02, 1.0))
        process.kill()
        process.join()
    search(run, CANDIDATES, ALGORITHMS[algorithm]()).close()
    case.check(rows_of(run) == truth, "the continued search differs from the uninterrupted one")


def search_quietly(run: Path, algorithm: str) -> None:
    search(run, CANDIDATES, ALGORITHMS[algorithm]()).close()


for _name in ALGORITHMS:
    kind(f"killed between two writes: {_name}", cases=30)(functools.partial(continued, algorithm=_name))
    kind(f"killed at random moments: {_name}", cases=8)(functools.partial(killed, algorithm=_name))


@kind("a clean end: archive.sqlite alone, whoever reads", cases=30)
def clean_end(case: Case) -> None:
    """While readers open and close the archive all the time, a search ends; then its database file is copied alone."""
    run, ended = case.folder / "run", threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                rows_of(run)
            except Exception:  # not begun yet
                time.sleep(0.001)

    readers = [threading.Thread(target=read) for _ in range(case.rng.randint(0, 2))]
    for reader in readers:
        reader.start()
    try:
        archive = search(run, case.rng.randint(5, 40))
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    counts = archive.counts()
    if case.rng.random() < 0.5:
        archive.close()
    copy = case.folder / "copy.sqlite"
    shutil.copy(run / "archive.sqlite", copy)
    case.check(len(rows_of(copy)) == sum(counts.values()), f"{len(rows_of(copy))} of {sum(counts.values())}")
    archive.close()
