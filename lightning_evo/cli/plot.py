"""``lightning-evo plot``: figures of a search for papers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import CommandParser, refuse, show
from lightning_evo.utils.text import printable

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    from lightning_evo.reporting.pictures.kinds import KINDS

    kinds = "\n".join(f"  {name:<11} {kind.description}" for name, kind in KINDS.items())
    parser = CommandParser(
        "lightning-evo plot",
        usage="lightning-evo plot DIR [DIR ...] KIND --to FILE [options]",
        description=f"Draw a figure of a search for a paper, even while the search is running.\n\nKIND:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = ", ".join(name for name, kind in KINDS.items() if kind.several)
    parser.add_argument(
        "directory",
        nargs="+",
        help=f"directory, archive file or database URL of a search; several are allowed for {several}",
    )
    parser.add_argument("kind", metavar="KIND", help="the kind of figure, as listed above")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="file to write: .pdf, .svg or .png")
    parser.add_argument(
        "--width", type=float, default=8.5, metavar="CM", help="width (default: 8.5, a column in most papers)"
    )
    parser.add_argument("--height", type=float, metavar="CM", help="height (default: suited to the figure)")
    parser.add_argument("--dpi", type=float, default=300, metavar="N", help="pixels per inch of a .png (default: 300)")
    for option, kind, metavar in (
        ("metric", str, "METRIC"),
        ("candidate", int, "ID"),
        ("top", int, "N"),
        ("against", str, "WHAT"),
    ):
        explained = "; ".join(
            f"{name}: {each.options[option]}" for name, each in KINDS.items() if option in each.options
        )
        parser.add_argument(f"--{option}", type=kind, metavar=metavar, help=explained)
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.pictures import plot

    try:
        plot(
            options.directory,
            options.kind,
            options.to,
            width=options.width,
            height=options.height,
            dpi=options.dpi,
            metric=options.metric,
            candidate=options.candidate,
            top=options.top,
            against=options.against,
        )
    except (ArchiveError, ValueError, ModuleNotFoundError) as error:
        refuse(error)
    show(printable(str(options.to)))
