"""What does `lightning-evo leaderboard` read and print?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lightning_evo.cli.console import refuse

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    parser = argparse.ArgumentParser("lightning-evo leaderboard", description="The candidates of a search, best first.")
    parser.add_argument("directory", help="directory, archive file or database URL of the search")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many rows (default 10; 0: all)")
    parser.add_argument("--sort", metavar="KEY", help="column to sort by; -KEY (as --sort=-KEY) reverses")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.add_argument("--errors", action="store_true", help="show the tracebacks of failed candidates instead")
    asked = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.leaderboard import leaderboard, tracebacks

    try:
        if asked.errors:
            print(tracebacks(asked.directory, top=asked.top))
        else:
            print(leaderboard(asked.directory, top=asked.top, sort=asked.sort, format=asked.format))
    except (ArchiveError, ValueError) as error:
        refuse(error)
