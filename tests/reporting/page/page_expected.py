"""What do the tests of the page expect to see? What the archive says of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from browser import Opened

from lightning_evo.archive import Archive

SIZE = 150
"""Candidates of the ordinary search."""


def rows_of(location: Path) -> list[dict[str, Any]]:
    """A search's candidates; what is not finite is missing, as it is on the page."""
    with Archive(location) as archive:
        return [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in row.items()
            }
            for row in archive.candidates()
        ]


def with_fitness(rows: list[dict[str, Any]], status: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["status"] == status and row.get("val_acc") is not None]


def front_of(location: Path) -> list[int]:
    with Archive(location) as archive:
        return sorted(archive.pareto())


def filter_range(seen: Opened, column: str, low: str, high: str) -> None:
    """Add a filter as a reader does."""
    if seen.page.locator("#filter-panel").is_hidden():
        seen.page.click("#more")
    seen.page.select_option("#range-column", label=column)
    for field, value in zip(seen.page.locator("#range-inputs input").all(), (low, high), strict=True):
        field.fill(value)
    seen.page.click("#range-form button")
