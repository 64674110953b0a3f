"""``lightning-evo leaderboard``: the candidates of a search, best first."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_evo.cli.console import CommandParser, refuse, show

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = CommandParser("lightning-evo leaderboard", description="List the candidates of a search, best first.")
    parser.add_argument("directory", help="directory, archive file or database URL of the search")
    parser.add_argument(
        "--top", type=int, metavar="N", help="number of rows; 0: all (default: 10 in a table, else all)"
    )
    parser.add_argument("--sort", metavar="KEY", help="column to sort by; --sort=-KEY reverses the order")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")
    parser.add_argument("--errors", action="store_true", help="show the tracebacks of failed candidates instead")
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.leaderboard import leaderboard, tracebacks

    try:
        if options.errors:
            show(tracebacks(options.directory, top=10 if options.top is None else options.top))
        else:
            show(leaderboard(options.directory, top=options.top, sort=options.sort, format=options.format))
    except (ArchiveError, ValueError) as error:
        refuse(error)
