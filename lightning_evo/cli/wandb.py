"""``lightning-evo wandb``: upload a search that ran offline, or without Weights & Biases, from its archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import CommandParser, add_trust, import_own_modules, refuse, show
from lightning_evo.utils.text import printable

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = CommandParser(
        "lightning-evo wandb",
        description="Upload a search to Weights & Biases from its archive: a sweep with a run per candidate, and a run of "
        "the search itself. What has already been uploaded is skipped.",
    )
    parser.add_argument("directory", type=Path, help="directory of a search that is not running")
    parser.add_argument("--project", help="W&B project (default: WANDB_PROJECT, or else lightning-evo)")
    parser.add_argument("--entity", help="user or team (default: WANDB_ENTITY, or else the login's default)")
    parser.add_argument("--name", help="name of the sweep and of the search's run (default: the search's name)")
    parser.add_argument("--tags", nargs="+", default=[], metavar="TAG", help="tags of all runs")
    parser.add_argument("--sweep", metavar="ID", help="an existing sweep to add the runs to (default: create one)")
    add_trust(parser)
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import Archive, ArchiveError, read_space
    from lightning_evo.archive.entries import check_entries
    from lightning_evo.archive.lock import DirectoryLock
    from lightning_evo.reporting.backfill import backfill
    from lightning_evo.reporting.reporter import ReporterError, release_quietly
    from lightning_evo.reporting.wandb.reporter import WandbReporter

    reporter = WandbReporter(
        options.project, options.entity, options.name, options.tags, mode="online", sweep=options.sweep
    )
    try:
        import_own_modules([options.directory], options.trust)
        check_entries(options.directory)
        with Archive(options.directory) as archive:  # before any login
            read_space(archive, options.trust)
        lock = DirectoryLock(options.directory)
        try:
            reporter.check()
            backfill(options.directory, reporter, lambda line: show(printable(line)), options.trust)
        finally:
            release_quietly(reporter)  # otherwise W&B's process would keep this one alive
            lock.release()
    except (ArchiveError, ReporterError, ValueError, OSError) as error:
        refuse(error)
