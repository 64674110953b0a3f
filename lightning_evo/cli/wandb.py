"""``lightning-evo wandb``: how does a search that was recorded without Weights & Biases, or offline, get there?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import refuse, see_users_modules

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    parser = argparse.ArgumentParser(
        "lightning-evo wandb",
        description="Upload a search to Weights & Biases from its archive: a sweep whose runs are the candidates, and a "
        "run of the search. What is there already is not uploaded again.",
    )
    parser.add_argument("directory", type=Path, help="directory of a search that doesn't run now")
    parser.add_argument("--project", help="W&B project (default: WANDB_PROJECT, else lightning-evo)")
    parser.add_argument("--entity", help="user or team (default: WANDB_ENTITY, else the login's own)")
    parser.add_argument("--name", help="name of the sweep and of the search's run (default: the search's)")
    parser.add_argument("--tags", nargs="+", default=[], metavar="TAG", help="tags of all runs")
    parser.add_argument("--sweep", metavar="ID", help="a sweep that exists (default: one is made)")
    asked = parser.parse_args(list(arguments))
    see_users_modules()  # the user's own genes
    from lightning_evo.archive import Archive, ArchiveError
    from lightning_evo.archive.lock import DirectoryLock
    from lightning_evo.reporting.reporter import ReporterError, let_go
    from lightning_evo.reporting.retelling import retell
    from lightning_evo.reporting.wandb.reporter import WandbReporter

    reporter = WandbReporter(asked.project, asked.entity, asked.name, asked.tags, mode="online", sweep=asked.sweep)
    try:
        Archive(asked.directory).close()  # before anybody logs in
        lock = DirectoryLock(asked.directory)
        try:
            reporter.check()
            retell(asked.directory, reporter, lambda line: print(line, flush=True))
        finally:
            let_go(reporter)  # W&B's process would keep this one
            lock.release()
    except (ArchiveError, ReporterError, ValueError, OSError) as error:
        refuse(error)
