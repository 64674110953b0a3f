"""The report as a file, about one run or comparing several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lightning_evo.archive import Archive
from lightning_evo.archive.database import ArchiveLocation
from lightning_evo.reporting.output_file import check_output, output_file
from lightning_evo.reporting.page.assemble import assemble, compress
from lightning_evo.reporting.page.payload import payload

__all__ = ["REPORT", "open_runs", "page_title", "report"]

REPORT = "report.html"
ENDINGS = (".html", ".htm")


def report(location: str | Path | Sequence[str | Path], to: str | Path | None = None, run: str | None = None) -> Path:
    """Write a page about one run or several: a self-contained HTML file that needs no network.

    The searches may still be running, and need not have any candidates yet.

    Args:
        location: A run's directory, archive file or database URL, or several of them.
        to: The file to write or replace. Default: ``report.html`` in the run's directory; for several runs, in the working
            directory.
        run: Which run, where a database holds several.

    Returns:
        The file's path.

    Raises:
        ArchiveError: If there is no archive, or it can't be read.
        ValueError: If the file can't be written, a run is given twice, or ``run`` is given with several locations.
    """
    locations = [location] if isinstance(location, (str, Path)) else list(location)
    with ExitStack() as stack:
        archives = open_runs(locations, run)
        for archive in archives:
            stack.enter_context(archive)
        target = _default_target(locations, archives) if to is None else Path(to)
        check_output(target, "--to", overwrite=True)
        if target.suffix.lower() not in ENDINGS:
            raise ValueError(f"--to {target}: does not end in {' or '.join(ENDINGS)}")
        if target.is_file() and not _is_report(target):
            raise ValueError(f"--to {target}: the file already exists and is not a report; give another name")
        page = assemble(compress(payload(archives)), page_title(archives))
        with output_file(target, "--to", overwrite=True) as part:
            part.write_text(page, encoding="utf-8")
    return target


def open_runs(locations: Sequence[str | Path], run: str | None = None) -> list[Archive]:
    """Open the archives at these locations.

    Raises:
        ArchiveError: If there is no archive, or it can't be read.
        ValueError: If there are no locations, a run is given twice, or ``run`` is given with several locations.
    """
    if not locations:
        raise ValueError("give at least one run: its directory, archive file or database URL")
    if run is not None and len(locations) > 1:
        raise ValueError(f"--run {run}: selects a run in one database, but {len(locations)} locations were given")
    opened: dict[tuple[str, str], Archive] = {}
    for location in locations:
        archive = Archive(location, run)
        key = str(ArchiveLocation.of(location)), archive.run
        if key in opened:
            raise ValueError(f"{location}: given more than once")
        opened[key] = archive
    return list(opened.values())


def page_title(archives: Sequence[Archive]) -> str:
    """The title of the browser window."""
    return f"{', '.join(archive.run for archive in archives)} · lightning-evo"


def _default_target(locations: Sequence[str | Path], archives: Sequence[Archive]) -> Path:
    """``report.html`` next to the archive of a single run, otherwise in the working directory."""
    if len(archives) > 1:
        return Path(REPORT)
    (location,) = locations
    if Path(location).is_dir():
        return Path(location) / REPORT
    file = ArchiveLocation.of(location).file
    return Path(REPORT) if file is None else file.parent / REPORT


def _is_report(path: Path) -> bool:
    """Whether a file is empty or was written by :func:`report`, whose title names this package."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return not start or b"lightning-evo" in start
