"""How does a user get the page? As a file, of one run or of several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning_evo.archive import Archive
from lightning_evo.archive.database import ArchiveLocation
from lightning_evo.reporting.output_file import check_output, output_file
from lightning_evo.reporting.page.assemble import assemble, packed
from lightning_evo.reporting.page.payload import payload

__all__ = ["REPORT", "open_runs", "report", "title_of"]

REPORT = "report.html"


def report(location: str | Path | Sequence[str | Path], to: str | Path | None = None, run: str | None = None) -> Path:
    """Write a page about one run or several: one HTML file that needs nothing else, not even a network.

    Searches may be running. Of a run without candidates, or without finished ones, the page shows what there is.

    Args:
        location: A run's directory, archive file or database URL, or several of them.
        to: The file; one that is there is replaced. Default: ``report.html`` in the run's directory, of several runs in the
            current folder.
        run: Which run, where a database holds several.

    Returns:
        The file's path.

    Raises:
        ArchiveError: If there is no archive, or it can't be read.
        ValueError: If the file can't be written, the same run is named twice, or ``run`` is given with several locations.
    """
    locations = [location] if isinstance(location, (str, Path)) else list(location)
    with ExitStack() as stack:
        archives = open_runs(locations, run)
        for archive in archives:
            stack.enter_context(archive)
        target = _default(locations, archives) if to is None else Path(to)
        check_output(target, "--to", overwrite=True)
        about = payload(archives)
        page = assemble(packed(about), title_of(archives))
        with output_file(target, "--to", overwrite=True) as part:
            part.write_text(page, encoding="utf-8")
    return target


def open_runs(locations: Sequence[str | Path], run: str | None = None) -> list[Archive]:
    """The archives at these places, each once.

    Raises:
        ArchiveError: If there is none, or it can't be read.
        ValueError: If the same run is named twice, or ``run`` is given with several locations.
    """
    if not locations:
        raise ValueError("give at least one run: its directory, archive file or database URL")
    if run is not None and len(locations) > 1:
        raise ValueError(f"--run {run}: names a run in one database; {len(locations)} were given")
    opened: dict[tuple[str, str], Archive] = {}
    for location in locations:
        archive = Archive(location, run)
        key = str(ArchiveLocation.of(location)), archive.run
        if key in opened:
            raise ValueError(f"{location}: is given twice")
        opened[key] = archive
    return list(opened.values())


def title_of(archives: Sequence[Archive]) -> str:
    """What the browser calls the page."""
    return f"{', '.join(archive.run for archive in archives)} · lightning-evo"


def _default(locations: Sequence[str | Path], archives: Sequence[Archive]) -> Path:
    """``report.html`` beside the one run's archive, else in the current folder."""
    if len(archives) > 1:
        return Path(REPORT)
    (location,) = locations
    if Path(location).is_dir():
        return Path(location) / REPORT
    file = ArchiveLocation.of(location).file
    return Path(REPORT) if file is None else file.parent / REPORT
