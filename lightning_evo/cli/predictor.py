"""What does `lightning-evo predictor` learn from, and print?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import refuse, see_users_modules

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    parser = argparse.ArgumentParser(
        "lightning-evo predictor",
        description="Train predictors on the results of searches over one space, and judge them on results held out.",
    )
    parser.add_argument("directory", nargs="+", help="directory, archive file or database URL of a search")
    parser.add_argument(
        "--predictor",
        nargs="+",
        metavar="NAME",
        help="forest, lstm, ensemble, gaussian_process, zero_cost, size (parameters and FLOPs alone) or an import path "
        "(default: size where it is known, forest, and where there are layers lstm and ensemble)",
    )
    parser.add_argument(
        "--at", nargs="+", type=int, metavar="N", help="learn from so many results (default: 25 50 100 200 400)"
    )
    parser.add_argument("--monitor", metavar="METRIC", help="which objective (default: the first)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="each with others held out (default 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides what is held out (default 0)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers here")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="also draw here: .html; with matplotlib .png, .svg, .pdf"
    )
    asked = parser.parse_args(list(arguments))
    see_users_modules()  # the user's own genes and predictors
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.predictors import as_text, check_plot, plot, predictor_report

    try:
        if asked.plot is not None:
            check_plot(asked.plot)  # before minutes of training
        report = predictor_report(
            asked.directory,
            asked.predictor,
            asked.at,
            asked.monitor,
            asked.repeats,
            asked.seed,
            said=lambda text: print(text, file=sys.stderr, flush=True),
        )
        print(as_text(report))
        if asked.json is not None:
            asked.json.write_text(json.dumps(report.to_dict(), indent=1))
        if asked.plot is not None:
            plot(report, asked.plot)
    except (ArchiveError, ValueError, OSError) as error:
        refuse(error)
