"""Damage of an archive's files: whatever is read afterwards is the whole truth, or a refusal that says what to do."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from _faults import Case, kind, shared_folder
from _faults._searches import evaluate, rows_of, search
from lightning_evo.archive import ArchiveError
from lightning_evo.genome import Genome
from lightning_evo.reporting.integrity import inspect_run, repair_run

FILES = ("archive.sqlite", "archive.sqlite-wal", "journal.jsonl")

State = tuple[Path, list]


@functools.cache
def finished() -> State:
    """A search that ended, and what it recorded."""
    run = shared_folder("damage-finished") / "run"
    search(run).close()
    return run, rows_of(run)


@functools.cache
def interrupted() -> State:
    """A search as it is after a kill: part of it in the database, part in its write-ahead log."""
    run = shared_folder("damage-interrupted") / "run"
    search(run, candidates=6, function=evaluate_and_copy).close()
    search(run, candidates=12, function=evaluate_and_copy).close()
    killed = run.with_name("killed")
    return killed, rows_of(killed)


def evaluate_and_copy(genome: Genome, seed: int, directory: str) -> dict[str, float]:
    """Evaluate, and copy the run's directory as it is while candidate 9 is evaluated: what a kill would leave."""
    run = Path(directory).parents[1]
    if Path(directory).name == "000009" and not run.with_name("killed").exists():
        shutil.copytree(run, run.with_name("killed"))
    return evaluate(genome, seed, directory)


def flip_bit(case: Case, path: Path) -> None:
    with path.open("r+b") as file:
        at = case.rng.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0] ^ 1 << case.rng.randrange(8)
        file.seek(at)
        file.write(bytes([byte]))


def truncate(case: Case, path: Path) -> None:
    os.truncate(path, case.rng.randrange(path.stat().st_size))


def zero(case: Case, path: Path) -> None:
    size = path.stat().st_size
    at = case.rng.randrange(size)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes(min(size - at, case.rng.choice([1, 100, 512, 4096, 20_000]))))


def try_reading(case: Case, state: State, harm: Callable[[Case, Path], None], name: str) -> None:
    original, truth = state
    run = case.folder / "run"
    shutil.copytree(original, run)
    path = run / name
    if not path.exists() or not path.stat().st_size:
        case.skip(f"there is no {name}")
    harm(case, path)
    try:
        rows = rows_of(run)
    except ArchiveError:
        return
    case.check(rows == truth, f"{len(rows)} rows of {len(truth)} or others are read")


for _state in (finished, interrupted):
    for _harm in (flip_bit, truncate, zero):
        for _name in FILES:
            if _state is finished and _name.endswith("-wal"):
                continue  # a clean end leaves none

            def _try(case: Case, state=_state, harm=_harm, name=_name) -> None:
                try_reading(case, state(), harm, name)

            kind(f"read: {_harm.__name__} in {_name}, {_state.__name__}", cases=40)(_try)


def try_continuing(case: Case, state: State, harm: Callable[[Case, Path], None]) -> None:
    """Harm one of the files, and continue the search; `check` must notice what `--repair` then mends."""
    original, _ = state
    run = case.folder / "run"
    shutil.copytree(original, run)
    there = [name for name in FILES if (run / name).exists() and (run / name).stat().st_size]
    name = case.rng.choice(there)
    harm(case, run / name)
    if case.rng.random() < 0.5:
        try:
            repair_run(run)
        except ArchiveError:
            return
        broken = [str(finding) for finding in inspect_run(run) if not finding.whole]
        case.check(not broken, f"{name}: after a repair {broken}")
    try:
        search(run, candidates=14, function=evaluate_and_copy if state == interrupted() else evaluate).close()
    except ArchiveError:
        return
    case.check(rows_of(run) == uninterrupted(), f"{name}: the continued search differs")


@functools.cache
def uninterrupted() -> list:
    """What the search records when nothing happens to it."""
    run = shared_folder("damage-uninterrupted") / "run"
    search(run, candidates=14).close()
    return rows_of(run)


for _state in (finished, interrupted):
    for _harm in (flip_bit, truncate, zero):

        def _try_continuing(case: Case, state=_state, harm=_harm) -> None:
            try_continuing(case, state(), harm)

        kind(f"continue: {_harm.__name__} in any file, {_state.__name__}", cases=60)(_try_continuing)
