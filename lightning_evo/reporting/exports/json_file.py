"""A run as one JSON file, and that file read back as the same candidates and results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.events import ask_event, candidate_of
from lightning_evo.genome import Candidate, Objective, Result
from lightning_evo.reporting.exports.contents import candidates_and_results, run_metadata, strict_json, text_to_float
from lightning_evo.reporting.outgoing import mask_of
from lightning_evo.reporting.output_file import check_output, output_file

__all__ = ["FORMAT", "ExportedRun", "export_json", "read_json"]

FORMAT = {"format": "lightning-evo run", "version": 1}
"""The keys by which :func:`read_json` recognizes a file of :func:`export_json`."""

_TEXTS = ("error", "error_type", "checkpoint")
"""Fields of a result in which ``"NaN"`` would be a text."""


def export_json(location: str | Path, to: str | Path, run: str | None = None, overwrite: bool = False) -> Path:
    """Write a run as one JSON file, which :func:`read_json` reads back. The search may still be running.

    The file is strict JSON: NaN and infinities are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
    Python's ``float`` and JavaScript's ``Number`` accept. Keys: ``format``, ``version``, ``exported`` (seconds since the
    epoch), ``run``, ``directory``, ``objectives``, ``meta``, ``space`` and ``candidates``: one line each, with ``id``,
    ``values`` (config path -> value), ``rates``, ``parents``, ``generation``, ``seed``, ``origin``, ``inherits``,
    ``duplicate_of``, ``queued``, ``prediction`` and ``segment`` where there is one, ``told`` (the number of results
    recorded before its own) and ``result``: the fields of :class:`~lightning_evo.genome.Result`, curve and extras
    included; ``null`` while it is pending.

    Args:
        location: The run's directory, an archive file or a database URL.
        to: The file to write.
        run: Which run, where a database holds several.
        overwrite: Whether an existing file may be replaced.

    Returns:
        The file.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If the file can't be written or already exists.
    """
    to = Path(to)
    check_output(to, "--json", overwrite)
    with Archive(location, run) as archive:
        mask = mask_of(archive)
        candidates, results = candidates_and_results(archive, mask)
        queued = {row["id"]: row["queued"] for row in archive.candidates()}
        positions = {id: position for position, id in enumerate(results)}
        head = {**FORMAT, "exported": time.time(), **run_metadata(archive, mask)}
    with output_file(to, "--json", overwrite) as part, part.open("w", encoding="utf-8") as file:
        file.write(strict_json(head).removesuffix("}") + ', "candidates": [')
        for number, id in enumerate(sorted(candidates)):
            record = ask_event(candidates[id], queued[id])["candidate"] | {"queued": queued[id]}
            result = results.get(id)
            record |= {"told": positions.get(id), "result": None if result is None else result.to_dict()}
            file.write(("," if number else "") + "\n" + strict_json(record))
        file.write("\n]}\n")
    return to


@dataclass(frozen=True)
class ExportedRun:
    """The contents of a file written by :func:`export_json`.

    Args:
        run: The run's name.
        objectives: The objectives.
        meta: The run's metadata by key, NaN and infinities as texts.
        space: Config path -> the gene's class and arguments; ``None`` where the archive has no search space.
        candidates: Each candidate as asked and its result (``None``: pending), by id.
    """

    run: str
    objectives: list[Objective]
    meta: Mapping[str, Any]
    space: Mapping[str, Any] | None
    candidates: list[tuple[Candidate, Result | None]]


def read_json(path: str | Path) -> ExportedRun:
    """Read a file of :func:`export_json`; its candidates and results equal those in the archive, but for masked secrets.

    Raises:
        ValueError: If the file is something else, or of a later version.
    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(held, Mapping) or held.get("format") != FORMAT["format"]:
        raise ValueError(f"{path}: not a file written by lightning-evo export --json")
    if held["version"] != FORMAT["version"]:
        raise ValueError(
            f"{path}: format version {held['version']}; this lightning-evo reads version {FORMAT['version']}"
        )
    return ExportedRun(
        held["run"],
        [Objective(**objective) for objective in held["objectives"]],
        held["meta"],
        held["space"],
        [_read_candidate(record) for record in held["candidates"]],
    )


def _read_candidate(record: Mapping[str, Any]) -> tuple[Candidate, Result | None]:
    about = {key: value for key, value in record.items() if key not in ("queued", "told", "result")}
    if "prediction" in about:
        about["prediction"] = text_to_float(about["prediction"])
    result = record["result"]
    if result is not None:
        result = {key: value if key in _TEXTS else text_to_float(value) for key, value in result.items()}
    return candidate_of({"candidate": about}), None if result is None else Result.from_dict(result)
