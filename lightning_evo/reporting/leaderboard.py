"""The leaderboard: a run's candidates, best first, as a table for people or as JSON or CSV for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lightning_evo.archive import Archive
from lightning_evo.callbacks.records import GrowthRecord
from lightning_evo.genome import FAILED, STOPPED
from lightning_evo.genome.names import ends_with, short_names, squeezed
from lightning_evo.genome.records import StackRecord
from lightning_evo.reporting.exports import as_csv
from lightning_evo.reporting.outgoing import mask_of, masked_row
from lightning_evo.reporting.rendering import text_console
from lightning_evo.reporting.summaries import (
    describe_growth,
    describe_stacks,
    growth_remark,
    is_growth_steps,
    savings,
    short_step,
    stack_remark,
)
from lightning_evo.utils.text import bounded, printable, printable_lines

__all__ = ["leaderboard", "tracebacks"]

_LARGE = ("params", "flops", "training_flops", "peak_memory", "samples_per_second")
_HIDDEN_COSTS = ("cost/training_flops", "cost/samples_per_second", "cost/waiting", "cost/utilisation")
"""Costs that the table shows only if they are an objective or the sort key: it would rarely fit the terminal."""
_STYLES = {FAILED: "red", STOPPED: "yellow", "pending": "dim"}
_MAX_ERROR_LENGTH = 80
_MAX_TEXT_LENGTH = 1000


def leaderboard(
    location: str | Path,
    top: int | None = None,
    sort: str | None = None,
    format: Literal["table", "json", "csv"] = "table",
    run: str | None = None,
) -> str:
    """Return the candidates of a run, best first. The search may still be running.

    Args:
        location: The run's directory, an archive file or a database URL.
        top: Number of rows; 0 for all. Default: ten in a table, all for programs.
        sort: A column's name, or an unambiguous end of it (``lr``, ``params``, ``val_loss``); a ``-`` in front reverses
            the order. Objectives are sorted best first, other columns in ascending order; missing values come last.
            Default: best fitness first (several objectives: by non-domination rank, then by the first objective), then
            failed, then pending candidates.
        format: ``table`` uses short names, fits the terminal's width and omits training speeds; ``json`` (a list of
            objects) and ``csv`` have every column under its full name. JSON has ``null`` for missing and non-finite values.
        run: Which run, where a database holds several.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If there is no such column (the message lists the columns), or ``top`` is negative.
    """
    if top is None:
        top = 10 if format == "table" else 0
    if top < 0:
        raise ValueError(f"top: {top} is negative; give a number of rows, or 0 for all")
    with Archive(location, run) as archive:
        columns = archive.columns()
        by = _column(sort, columns) if sort else None
        mask = mask_of(archive)
        rows = [masked_row(row, mask) for row in archive.ranked(top or None, by)]
        if format == "json":
            return _as_json(rows, columns)
        if format == "csv":
            return as_csv(rows, columns)
        counts = ", ".join(f"{count} {status}" for status, count in archive.counts().items() if count)
        title = f"{archive.run}: {counts or 'no candidates yet'}"
        stacked = archive.entries(StackRecord)
        grown = {id: record for id, record in archive.entries(GrowthRecord).items() if record.steps}
        rows = [{**row, "stack": stacked.get(row["id"]), "growth": grown.get(row["id"])} for row in rows]
        columns = [
            column for column in columns if column not in _HIDDEN_COSTS or column == (by or "").removeprefix("-")
        ]
        table = _as_table(title, rows, columns, [objective.monitor for objective in archive.objectives])
        parts = (table, str(savings(archive)), describe_stacks(archive), describe_growth(archive))
        return "\n".join(part for part in parts if part)


def tracebacks(location: str | Path, top: int = 10, run: str | None = None) -> str:
    """Return why candidates failed: each error once, most frequent first, with the affected candidates and one traceback.

    Args:
        location: The run's directory, an archive file or a database URL.
        top: Number of different errors; 0 for all.
        run: Which run, where a database holds several.

    Raises:
        ArchiveError: If the archive can't be read.
        ValueError: If ``top`` is negative.
    """
    if top < 0:
        raise ValueError(f"top: {top} is negative; give a number of errors, or 0 for all")
    with Archive(location, run) as archive:
        by_error: dict[str, list[int]] = {}
        for row in archive.candidates(status=FAILED):
            by_error.setdefault(row["error_type"] or "failed", []).append(row["id"])
        mask, parts = mask_of(archive), []
        for error_type, ids in sorted(by_error.items(), key=lambda item: -len(item[1]))[: top or None]:
            result = archive.result(ids[0])
            assert result is not None, "a failed candidate has a result"
            listed = ", ".join(map(str, ids[:10])) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
            shown = printable_lines(mask.text(result.error or "").rstrip())
            parts.append(f"{printable(mask.text(error_type))}\n  candidates: {listed}\n\n{shown}\n")
        return "\n".join(parts) or "no candidate failed"


def _column(key: str, columns: Sequence[str]) -> str:
    """The sort key with the column's full name."""
    minus, name = ("-", key[1:]) if key.startswith("-") else ("", key)
    if name in columns:
        return key
    matches = [column for column in columns if ends_with(column, name) or ends_with(squeezed(column), name)]
    if len(matches) == 1:
        return minus + matches[0]
    if matches:
        raise ValueError(f"sort: {name!r} is ambiguous: {' or '.join(matches)}")
    raise ValueError(f"sort: there is no column {name!r}; the columns are {', '.join(columns)}")


def _as_json(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    return json.dumps([{column: _finite(row.get(column)) for column in columns} for row in rows], indent=1)


def _finite(value: Any) -> Any:
    """``value``, or ``None`` for NaN and infinities, which JSON doesn't have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_table(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], monitors: Sequence[str]) -> str:
    console = text_console()
    genes = [column for column in columns[: columns.index("parents")] if column not in ("id", "status", *monitors)]
    costs = [column for column in columns if column.startswith("cost/") and column not in monitors]
    measured = {cost: cost.removeprefix("cost/") for cost in costs}
    names = short_names(genes, taken=["id", "status", *monitors, "parents", "gen", *measured.values()]) | measured
    # Columns without a value in any of the rows would only take space.
    for name in [name for name in names if all(row.get(name) is None for row in rows)]:
        del names[name]
    table = _wide(title, rows, monitors, names)
    if Measurement.get(console, console.options.update(width=10_000), table).maximum > console.width:
        table = _narrow(title, rows, monitors, names)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _wide(title: str, rows: Sequence[Mapping[str, Any]], monitors: Sequence[str], names: Mapping[str, str]) -> Table:
    """A column for each gene and cost."""
    genes = [column for column in names if not column.startswith("cost/")]
    costs = [column for column in names if column.startswith("cost/")]
    table = _start(title, monitors)
    for gene in genes:
        # Lines of text are left-aligned.
        listed = any(_is_lines(row.get(gene)) for row in rows)
        table.add_column(_text(names[gene]), justify="left" if listed else "right")
        table.show_lines |= listed
    for name in ["parents", "gen", *(names[cost] for cost in costs)]:
        table.add_column(_text(name), justify="right")
    table.columns[1].max_width = 24
    for row in rows:
        status = Text("\n").join([_status(row), *_remarks(row)])
        shown = [_shown(row.get(column), column) for column in (*genes, "parents", "generation", *costs)]
        fitness = (_shown(row.get(monitor), monitor) for monitor in monitors)
        table.add_row(str(row["id"]), status, *fitness, *shown)
    return table


def _narrow(title: str, rows: Sequence[Mapping[str, Any]], monitors: Sequence[str], names: Mapping[str, str]) -> Table:
    """Everything but the fitness folded into one column."""
    table = _start(title, monitors)
    table.show_lines = True
    table.add_column("genes, parents, costs", overflow="fold", ratio=1)
    genes = {column: name for column, name in names.items() if not column.startswith("cost/")}
    costs = {column: name for column, name in names.items() if column.startswith("cost/")}
    for row in rows:
        descent = _listed(row, {"parents": "parents", "generation": "gen"} if row["parents"] else {"generation": "gen"})
        short = {gene: name for gene, name in genes.items() if not _is_lines(row.get(gene))}
        long = [
            Text.assemble(_text(name, style="dim"), (":\n", "dim"), _shown(row[gene], gene))
            for gene, name in genes.items()
            if gene not in short
        ]
        listed = [_listed(row, short)] if any(row.get(gene) is not None for gene in short) else []
        lines = [*listed, descent + " " + _listed(row, costs), *long, *_remarks(row)]
        fitness = (_shown(row.get(monitor), monitor) for monitor in monitors)
        table.add_row(str(row["id"]), _status(row), *fitness, Text("\n").join(lines))
    return table


def _start(title: str, monitors: Sequence[str]) -> Table:
    table = Table(title=_text(title), title_justify="left", title_style="bold")
    table.add_column("id", justify="right", overflow="fold")
    table.add_column("status", overflow="fold")
    for monitor in monitors:
        table.add_column(_text(monitor), justify="right", style="bold", overflow="fold")
    return table


def _text(text: str, style: str = "") -> Text:
    """Text in which nothing is markup, and nothing reaches the terminal as a command."""
    return Text(printable(bounded(text, _MAX_TEXT_LENGTH)), style=style)


def _status(row: Mapping[str, Any]) -> Text:
    return Text(row["status"], style=_STYLES.get(row["status"], ""))


def _remarks(row: Mapping[str, Any]) -> list[Text]:
    error, original = row["error_type"], row["duplicate_of"]
    return [
        *([_text(error[:_MAX_ERROR_LENGTH], style="red")] if error else []),
        *([Text(f"duplicate of {original}", style="dim")] if original is not None else []),
        *([_text(predicted, style="dim")] if (predicted := _predicted(row)) else []),
        *([_text(stack_remark(row["stack"]), style="dim")] if row["stack"] is not None else []),
        *([_text(growth_remark(row["growth"]), style="dim")] if row["growth"] else []),
    ]


def _predicted(row: Mapping[str, Any]) -> str:
    """The prediction before training, and whether the candidate was chosen by it; empty where there is none."""
    monitors = [column.removeprefix("predicted/") for column in row if column.startswith("predicted/")]
    predictions = [f"{row[f'predicted/{name}']:.4g} ± {row[f'predicted_std/{name}']:.2g}" for name in monitors]
    return f"{'chosen, ' if row['prescreened'] else ''}predicted {', '.join(predictions)}" if predictions else ""


def _listed(row: Mapping[str, Any], names: Mapping[str, str]) -> Text:
    """``name=value`` for the columns that the row has a value in."""
    return Text(" ").join(
        Text.assemble(_text(name, style="dim"), ("=", "dim"), _shown(row[column], column))
        for column, name in names.items()
        if row.get(column) is not None
    )


def _shown(value: Any, column: str) -> Text:
    """A value for people: four significant digits; 1.2M for large costs."""
    if value is None:
        return Text("")
    if column == "parents":
        return Text(",".join(map(str, value)))
    if _is_lines(value):
        return Text("\n").join(map(_text, _aligned(value)))
    if is_growth_steps(value):
        return _text(" ".join(short_step(step) for step in value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _text(value if isinstance(value, str) else json.dumps(value))
    if column.startswith("cost/") and column.removeprefix("cost/") in _LARGE:
        return Text(_scaled(value))
    return Text(str(value) if isinstance(value, int) else f"{value:.4g}")


def _is_lines(value: Any) -> bool:
    """Whether a value is a list of texts, such as the layers of a network, which are shown one below the other."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(element, str) for element in value)


def _aligned(lines: Sequence[str]) -> list[str]:
    """The lines with the rest after each first word aligned in one column."""
    words = [line.partition(" ") for line in lines]
    width = max(len(first) for first, _, rest in words if rest) if any(rest for *_, rest in words) else 0
    return [f"{first.ljust(width)} {rest}".rstrip() for first, _, rest in words]


def _scaled(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if math.isfinite(value) and abs(value) >= max(size, 1e4):
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"
