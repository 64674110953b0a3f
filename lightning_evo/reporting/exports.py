"""What does a run look like for other programs? Everything its archive holds, as CSV tables or as one JSON file."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.events import ask_event, candidate_of
from lightning_evo.genome import Candidate, Objective, Result
from lightning_evo.reporting.writing import check_target, written_whole

__all__ = [
    "JSON_FORMAT",
    "ExportedRun",
    "as_csv",
    "asked_and_told",
    "export_csv",
    "export_json",
    "named_floats",
    "read_json",
]

JSON_FORMAT = {"format": "lightning-evo run", "version": 1}
"""What the file of :func:`export_json` says of itself."""

TABLES = ("candidates.csv", "curves.csv", "lineage.csv")
META = "meta.json"

_LINEAGE = ("child", "parent", "position", "inherits", "origin", "generation", "changed")
_NAMED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_TEXTS = ("error", "error_type", "checkpoint")
"""Fields of a result in which "NaN" would be a text."""


# -- CSV ---------------------------------------------------------------------------------------------------------------


def export_csv(location: str | Path, to: str | Path, run: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write a run as tables, also while it is searched.

    ``candidates.csv`` has a row per candidate and every column of ``Archive.candidates``; ``curves.csv`` a row per
    candidate and epoch; ``lineage.csv`` a row per child and parent, with the genes that differ between them
    (``changed``: JSON, config path -> [parent's value, child's value], ``null`` where the gene isn't active) and
    whether the child was to start from that parent's weights (``inherits``; where it is no parent whose weights were
    taken, ``position`` is empty). ``meta.json`` holds what is known about the run. Lists, mappings and booleans are JSON
    within their cells; what is missing is an empty cell; NaN and infinities are ``nan``, ``inf`` and ``-inf``.

    Args:
        location: The run's directory, an archive file or a database URL.
        to: The directory to write to; made if absent.
        run: Which run, where a database holds several.
        overwrite: Whether files that are there may be replaced.

    Returns:
        The files written.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If a file can't be written, or is there already.
    """
    to = Path(to)
    with Archive(location, run) as archive:
        try:
            to.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"--csv {to}: no directory can be made there ({error.strerror})") from error
        paths = [to / name for name in (*TABLES, META)]
        for path in paths:
            check_target(path, "--csv", overwrite)
        rows = archive.candidates()
        points = archive.curves()
        # Read after the rows: it knows every column that these have, and perhaps one of a later row.
        columns = archive.columns()
        metrics = sorted({name for point in points for name in point} - {"id", "epoch"})
        texts = [
            as_csv(rows, columns),
            as_csv(points, ["id", "epoch", *metrics]),
            as_csv(list(_lineage(asked_and_told(archive)[0].values())), _LINEAGE),
            _json(_about(archive), indent=1),
        ]
    for path, text in zip(paths, texts, strict=True):
        with written_whole(path, "--csv", overwrite) as part, part.open("w", encoding="utf-8", newline="") as file:
            file.write(text + "\n")
    return paths


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV with a line of names; lists, mappings and booleans as JSON, what is missing as an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue().rstrip("\n")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def asked_and_told(archive: Archive) -> tuple[dict[int, Candidate], dict[int, Result]]:
    """All candidates and all results by id, each in the order of their recording."""
    asked: dict[int, Candidate] = {}
    told: dict[int, Result] = {}
    for candidate, result in archive.events():
        if result is None:
            asked[candidate.id] = candidate
        else:
            told[candidate.id] = result
    return asked, told


def _lineage(candidates: Collection[Candidate]) -> Iterator[dict[str, Any]]:
    """A row per child and parent; and one where a child inherits from one that is no parent."""
    genomes = {candidate.id: candidate.genome for candidate in candidates}
    for child in candidates:
        places: list[tuple[int, int | None]] = [(parent, position) for position, parent in enumerate(child.parents)]
        if child.inherits is not None and child.inherits not in child.parents:
            places.append((child.inherits, None))
        for parent, position in places:
            genome = genomes.get(parent)
            changed = {} if genome is None else _changed(genome, child.genome)
            yield {
                "child": child.id,
                "parent": parent,
                "position": position,
                "inherits": child.inherits == parent,
                "origin": child.origin,
                "generation": child.generation,
                "changed": changed,
            }


def _changed(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, list[Any]]:
    paths = dict.fromkeys([*parent, *child])
    pairs = {path: [parent.get(path), child.get(path)] for path in paths}
    # As texts: to Python, 1 and True and 1.0 are equal.
    return {path: pair for path, pair in pairs.items() if json.dumps(pair[0]) != json.dumps(pair[1])}


# -- JSON --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportedRun:
    """What :func:`read_json` found in a file of :func:`export_json`.

    Args:
        run: The run's name.
        objectives: What was optimised.
        meta: What was known about the run, by key, NaN and infinities as texts.
        space: Config path -> the gene's class and arguments; ``None`` where the archive didn't say.
        candidates: Each candidate as asked, and its result (``None``: pending), by id.
    """

    run: str
    objectives: list[Objective]
    meta: Mapping[str, Any]
    space: Mapping[str, Any] | None
    candidates: list[tuple[Candidate, Result | None]]


def export_json(location: str | Path, to: str | Path, run: str | None = None, overwrite: bool = False) -> Path:
    """Write a run as one JSON file, also while it is searched; :func:`read_json` reads it back.

    The file is strict JSON: NaN and infinities are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
    Python's ``float`` and JavaScript's ``Number`` take. Keys: ``format``, ``version``, ``exported`` (seconds since the
    epoch), ``run``, ``directory``, ``objectives``, ``meta``, ``space`` and ``candidates``: one line each, with ``id``,
    ``values`` (config path -> value), ``rates``, ``parents``, ``generation``, ``seed``, ``origin``, ``inherits``,
    ``duplicate_of``, ``queued``, where there are any ``prediction`` and ``segment``, ``told`` (results recorded before
    its own) and ``result``: the fields of :class:`~lightning_evo.genome.Result`, curve and extras included; ``null``
    while it is pending.

    Args:
        location: The run's directory, an archive file or a database URL.
        to: The file to write.
        run: Which run, where a database holds several.
        overwrite: Whether a file that is there may be replaced.

    Returns:
        The file.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If the file can't be written, or is there already.
    """
    to = Path(to)
    check_target(to, "--json", overwrite)
    with Archive(location, run) as archive:
        asked, told = asked_and_told(archive)
        queued = {row["id"]: row["queued"] for row in archive.candidates()}
        places = {id: place for place, id in enumerate(told)}
        head = {**JSON_FORMAT, "exported": time.time(), **_about(archive)}
    with written_whole(to, "--json", overwrite) as part, part.open("w", encoding="utf-8") as file:
        file.write(_json(head).removesuffix("}") + ', "candidates": [')
        for number, id in enumerate(sorted(asked)):
            record = ask_event(asked[id], queued[id])["candidate"] | {"queued": queued[id]}
            ended = told.get(id)
            record |= {"told": places.get(id), "result": None if ended is None else ended.to_dict()}
            file.write(("," if number else "") + "\n" + _json(record))
        file.write("\n]}\n")
    return to


def read_json(path: str | Path) -> ExportedRun:
    """Read what :func:`export_json` wrote; candidates and results are equal to those in the archive.

    Raises:
        ValueError: If it isn't such a file, or of a later version.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from None
    if not isinstance(held, Mapping) or held.get("format") != JSON_FORMAT["format"]:
        raise ValueError(f"{path}: not written by lightning-evo export --json")
    if held["version"] != JSON_FORMAT["version"]:
        raise ValueError(f"{path}: of version {held['version']}; this lightning-evo reads {JSON_FORMAT['version']}")
    return ExportedRun(
        held["run"],
        [Objective(**objective) for objective in held["objectives"]],
        held["meta"],
        held["space"],
        [_read_candidate(record) for record in held["candidates"]],
    )


def named_floats(value: Any) -> Any:
    """JSON data with NaN and infinities as texts, which strict JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: named_floats(element) for key, element in value.items()}
    return [named_floats(element) for element in value] if isinstance(value, (list, tuple)) else value


def _about(archive: Archive) -> dict[str, Any]:
    meta = archive.meta
    return {
        "run": archive.run,
        "directory": str(archive.directory),
        "objectives": meta.get("objectives", []),
        "meta": meta,
        "space": meta.get("search", {}).get("evolution", {}).get("space"),
    }


def _json(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # few hold NaN, and looking for it takes longer than writing
        return json.dumps(named_floats(value), indent=indent, allow_nan=False)


def _read_candidate(record: Mapping[str, Any]) -> tuple[Candidate, Result | None]:
    about = {key: value for key, value in record.items() if key not in ("queued", "told", "result")}
    if "prediction" in about:
        about["prediction"] = _floats(about["prediction"])
    result = record["result"]
    if result is not None:
        result = {key: value if key in _TEXTS else _floats(value) for key, value in result.items()}
    return candidate_of({"candidate": about}), None if result is None else Result.from_dict(result)


def _floats(value: Any) -> Any:
    """The inverse of :func:`named_floats`."""
    if isinstance(value, str):
        return _NAMED.get(value, value)
    if isinstance(value, Mapping):
        return {key: _floats(element) for key, element in value.items()}
    return [_floats(element) for element in value] if isinstance(value, list) else value
