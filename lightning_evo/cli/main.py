"""Which command is it? Those that read an archive start at once; the rest is LightningCLI's."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_evo import __version__

__all__ = ["main"]

USAGE = f"""lightning-evo {__version__}: evolve any LightningModule from the config file it already has

  lightning-evo fit --config CONFIG [--config SEARCH]   search (with an `evolution:` section) or just fit
  lightning-evo validate | test | predict ...           as the LightningCLI does
  lightning-evo leaderboard DIR                         the candidates of a search, best first
  lightning-evo predictor DIR [DIR ...]                 how well predictors learn from what searches found
  lightning-evo export DIR --to best/                   the winner as a config and a checkpoint of plain Lightning

`lightning-evo COMMAND --help` says more about each.
"""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line ``args`` (default: the process's own).

    Raises:
        SystemExit: With 2 after a clear error on standard error, with 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return
    if arguments[0] == "--version":
        print(__version__)
        return
    command = _READING.get(arguments[0])
    if command is not None:
        command(arguments[1:])
        return
    # A console script doesn't see the folder it is called in; the user's own modules are there.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from lightning_evo.cli.lightning import run

    run(arguments)


def _leaderboard(arguments: Sequence[str]) -> None:
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
        _refuse(error)


def _export(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "lightning-evo export",
        description="Write a candidate as config.yaml and model.ckpt, which stock Lightning opens without this package.",
    )
    parser.add_argument("directory", help="directory of the search")
    parser.add_argument("--to", required=True, metavar="DIR", help="where to write; made if absent")
    parser.add_argument("--candidate", type=int, metavar="ID", help="which one (default: the winner)")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument("--torch-export", action="store_true", help="also write model.pt2 (torch.export)")
    asked = parser.parse_args(list(arguments))
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from lightning_evo.archive import ArchiveError
    from lightning_evo.export import ExportError, export

    try:
        written = export(
            Path(asked.directory),
            Path(asked.to),
            asked.candidate,
            onnx=asked.onnx,
            torch_export=asked.torch_export,
            say=lambda text: print(text, file=sys.stderr),
        )
    except (ArchiveError, ExportError) as error:
        _refuse(error)
    for path in written:
        print(path)


def _predictor(arguments: Sequence[str]) -> None:
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
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own genes and predictors
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
        _refuse(error)


def _refuse(error: Exception) -> None:
    print(f"lightning-evo: error: {error}", file=sys.stderr)
    raise SystemExit(2)


_READING: dict[str, Callable[[Sequence[str]], None]] = {
    "leaderboard": _leaderboard,
    "predictor": _predictor,
    "export": _export,
}
