"""A ``result.json`` that isn't what its worker wrote: never recorded, its candidate trained again, the search unharmed."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _faults import Case, kind, shared_folder
from _faults._searches import evaluate, rows_of, search
from lightning_evo.genome import Genome

VALUES: list[Any] = [
    None, True, "", "0.5", "\ud800", -1, 10**40, 10**400, float("nan"), float("inf"), 1e308, [], {}, [[]], {"": {}},
    ["a"], [None], [float("nan")], "../../../etc/passwd", "/dev/zero", "x" * 100_000, [1.0] * 10_000, {"v": "w"},
]  # fmt: skip


@functools.cache
def killed() -> tuple[Path, str, list[Any]]:
    """A search killed after a worker had left a result that nobody recorded; that result; how the search ends otherwise."""
    run = shared_folder("results-killed") / "run"
    search(run, 8, function=evaluate_and_copy).close()
    left = run / "candidates" / "000005" / "result.json"
    return run.with_name("killed"), left.read_text(), rows_of(run)


def evaluate_and_copy(genome: Genome, seed: int, directory: str) -> dict[str, float]:
    """Evaluate, and copy the run's directory as it is while candidate 5 is evaluated."""
    run = Path(directory).parents[1]
    if (
        Path(directory).name == "000005"
        and not run.with_name("killed").exists()
        and run.parent.name == "results-killed"
    ):
        shutil.copytree(run, run.with_name("killed"))
    return evaluate(genome, seed, directory)


def a_field_changed(case: Case, record: dict[str, Any]) -> str | bytes:
    record[case.rng.choice(list(record))] = case.rng.choice(VALUES)
    return json.dumps(record)


def fields_missing(case: Case, record: dict[str, Any]) -> str | bytes:
    for name in case.rng.sample(list(record), case.rng.randint(1, len(record))):
        del record[name]
    return json.dumps(record)


def an_element_changed(case: Case, record: dict[str, Any]) -> str | bytes:
    at: Any = record
    while isinstance(at, (dict, list)) and at:
        key = case.rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
        if not isinstance(at[key], (dict, list)) or not at[key]:
            at[key] = case.rng.choice(VALUES)
            break
        at = at[key]
    return json.dumps(record)


def bytes_changed(case: Case, record: dict[str, Any]) -> str | bytes:
    text = bytearray(killed()[1].encode())
    at = case.rng.randrange(len(text))
    if case.rng.random() < 0.5:
        text[at] ^= 1 << case.rng.randrange(8)
    else:
        del text[at : at + case.rng.randint(1, 50)]
    return bytes(text)


def another_kind(case: Case, record: dict[str, Any]) -> str | bytes:
    return case.rng.choice(
        ["[" * 50_000, "{" * 50_000, "[]", "1", "null", '"completed"', "NaN", json.dumps([record]), b"\0" * 300]
    )


def another_candidates(case: Case, record: dict[str, Any]) -> str | bytes:
    return (killed()[0] / "candidates" / f"{case.rng.randrange(5):06d}" / "result.json").read_text()


def try_adopting(case: Case, wrong: Callable[[Case, dict[str, Any]], str | bytes]) -> None:
    original, text, truth = killed()
    run = case.folder / "run"
    shutil.copytree(original, run)
    record = json.loads(text)
    if case.rng.random() < 0.5:  # as an earlier version wrote it
        del record["directory"]
    del record["crc32"]
    content = wrong(case, record)
    path = run / "candidates" / "000005" / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    for _ in range(2):
        search(run, 8, function=evaluate_and_copy).close()
        rows = rows_of(run)
        # What has no checksum, and could have been written so, is believed: other numbers, and nothing else.
        same = [row[:2] + row[3:] for row in rows] == [row[:2] + row[3:] for row in truth]
        plausible = wrong in (a_field_changed, an_element_changed, fields_missing) and [row[0] for row in rows] == [
            row[0] for row in truth
        ]
        case.check(rows == truth or plausible, f"recorded was {rows[5]}, not {truth[5]}" + (" alone" if same else ""))


for _wrong in (a_field_changed, fields_missing, an_element_changed, bytes_changed, another_kind, another_candidates):
    _cases = 20 if _wrong in (another_kind, another_candidates) else 60
    kind(f"result.json: {_wrong.__name__.replace('_', ' ')}", cases=_cases)(
        functools.partial(try_adopting, wrong=_wrong)
    )
