"""A run as CSV tables: candidates, learning curves and lineage."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_evo.archive import Archive
from lightning_evo.archive.entries import run_that_holds
from lightning_evo.genome import Candidate
from lightning_evo.reporting.exports.contents import candidates_and_results, run_metadata, strict_json
from lightning_evo.reporting.outgoing import mask_of, masked_row
from lightning_evo.reporting.output_file import check_output
from lightning_evo.utils.files import atomic_directory
from lightning_evo.utils.text import printable_lines

__all__ = ["as_csv", "export_csv"]

FILES = ("candidates.csv", "curves.csv", "lineage.csv", "meta.json")

_LINEAGE = ("child", "parent", "position", "inherits", "origin", "generation", "changed")


def export_csv(location: str | Path, to: str | Path, run: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write a run as tables. The search may still be running.

    ``candidates.csv`` has one row per candidate and every column of ``Archive.candidates``. ``curves.csv`` has one row
    per candidate and epoch, or validation where these lie within epochs (with its ``step``). ``lineage.csv`` has one
    row per child and parent, with the genes that differ between them (``changed``: JSON, config path -> [parent's
    value, child's value], ``null`` where the gene is inactive) and whether the child was to start from that parent's
    weights (``inherits``). Where a child takes its weights from a candidate that is not a parent, that candidate has a
    row with an empty ``position``. ``meta.json`` holds the run's metadata.
    Lists, mappings and booleans are written as JSON within their cells; missing values are empty cells; NaN and
    infinities are ``nan``, ``inf`` and ``-inf``. Texts are written as :func:`as_csv` writes them.

    Args:
        location: The run's directory, an archive file or a database URL.
        to: The directory to write to; created if it doesn't exist.
        run: Which run, where a database holds several.
        overwrite: Whether existing files may be replaced.

    Returns:
        The files written.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If a file can't be written or already exists.
    """
    to = Path(to)
    with Archive(location, run) as archive:
        paths = [to / name for name in FILES]
        if os.path.lexists(to):
            if not to.is_dir():
                raise ValueError(f"--csv {to}: is a file; give a directory")
            for path in paths:
                check_output(path, "--csv", overwrite)
        elif (held := run_that_holds(to)) is not None:
            raise ValueError(f"--csv {to}: belongs to the search in {held}; give another directory")
        mask = mask_of(archive)
        rows = [masked_row(row, mask) for row in archive.candidates()]
        points = archive.curves()
        # Read after the rows: includes every column they have, and perhaps one of a later row.
        columns = archive.columns()
        metrics = sorted({name for point in points for name in point} - {"id", "epoch", "step"})
        texts = [
            as_csv(rows, columns),
            as_csv(points, ["id", "epoch", *(["step"] if any("step" in point for point in points) else []), *metrics]),
            as_csv(list(_lineage(candidates_and_results(archive, mask)[0].values())), _LINEAGE),
            strict_json(run_metadata(archive, mask), indent=1),
        ]
    try:
        with atomic_directory(to, FILES) as part:
            for name, text in zip(FILES, texts, strict=True):
                (part / name).write_text(text + "\n", encoding="utf-8", newline="")
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise ValueError(f"--csv {to}: cannot write the directory ({reason})") from error
    return paths


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV with a header line; lists, mappings and booleans as JSON, missing values as empty cells.

    No text is a formula to a spreadsheet or a command to a terminal: control characters become visible escapes, and a text
    that begins with ``=``, ``+``, ``-``, ``@`` or an apostrophe gets an apostrophe in front, which
    ``cell.removeprefix("'")`` takes away again. Numbers are numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_text(column) for column in columns])
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    return text.getvalue().rstrip("\n")


_FORMULA = re.compile(r"\s*['=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
"""Beginnings that spreadsheets take for a formula, the full-width forms of the signs included, and that of their escape."""


def _text(text: str) -> str:
    return printable_lines(f"'{text}" if _FORMULA.match(text) else text)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def _lineage(candidates: Collection[Candidate]) -> Iterator[dict[str, Any]]:
    """One row per child and parent, and one where a child inherits from a candidate that is not a parent."""
    genomes = {candidate.id: candidate.genome for candidate in candidates}
    for child in candidates:
        sources: list[tuple[int, int | None]] = [(parent, position) for position, parent in enumerate(child.parents)]
        if child.inherits is not None and child.inherits not in child.parents:
            sources.append((child.inherits, None))
        for parent, position in sources:
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
    # Compared as texts: to Python, 1 and True and 1.0 are equal.
    return {path: pair for path, pair in pairs.items() if json.dumps(pair[0]) != json.dumps(pair[1])}
