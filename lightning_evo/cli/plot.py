"""What does `lightning-evo plot` draw?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import refuse

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    from lightning_evo.reporting.pictures.kinds import KINDS

    kinds = "\n".join(f"  {name:<11} {kind.says}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        "lightning-evo plot",
        usage="lightning-evo plot DIR [DIR ...] KIND --to FILE [options]",
        description=f"Draw a search, also while it runs, for a paper.\n\nKIND:\n{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    several = ", ".join(name for name, kind in KINDS.items() if kind.several)
    parser.add_argument(
        "directory", nargs="+", help=f"directory, archive file or database URL of a search; several for {several}"
    )
    parser.add_argument("kind", metavar="KIND", help="which picture, as listed above")
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="where to write it: .pdf, .svg or .png")
    parser.add_argument("--width", type=float, default=8.5, metavar="CM", help="default 8.5, a column of most papers")
    parser.add_argument("--height", type=float, metavar="CM", help="default: what suits the picture")
    parser.add_argument("--dpi", type=float, default=300, metavar="N", help="pixels per inch of a .png (default 300)")
    for option, kind, metavar in (
        ("metric", str, "METRIC"),
        ("candidate", int, "ID"),
        ("top", int, "N"),
        ("against", str, "WHAT"),
    ):
        said = "; ".join(f"{name}: {each.options[option]}" for name, each in KINDS.items() if option in each.options)
        parser.add_argument(f"--{option}", type=kind, metavar=metavar, help=said)
    asked = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.pictures import plot

    try:
        plot(
            asked.directory,
            asked.kind,
            asked.to,
            width=asked.width,
            height=asked.height,
            dpi=asked.dpi,
            metric=asked.metric,
            candidate=asked.candidate,
            top=asked.top,
            against=asked.against,
        )
    except (ArchiveError, ValueError, ModuleNotFoundError) as error:
        refuse(error)
    print(asked.to)
