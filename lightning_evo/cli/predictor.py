"""``lightning-evo predictor``: how well predictors learn from the results of searches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import CommandParser, add_trust, import_own_modules, refuse, report_to_user, show

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = CommandParser(
        "lightning-evo predictor",
        description="Train predictors on the results of searches over one space, and evaluate them on held-out results.",
    )
    parser.add_argument("directory", nargs="+", help="directory, archive file or database URL of a search")
    parser.add_argument(
        "--predictor",
        nargs="+",
        metavar="NAME",
        help="forest, lstm, ensemble, gaussian_process, zero_cost, size (parameters and FLOPs alone) or an import path "
        "(default: size if it was measured, forest, and for spaces with layers lstm and ensemble)",
    )
    parser.add_argument(
        "--at", nargs="+", type=int, metavar="N", help="numbers of results to learn from (default: 25 50 100 200 400)"
    )
    parser.add_argument("--monitor", metavar="METRIC", help="the objective to predict (default: the first)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="number of random splits (default: 5)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the splits (default: 0)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the numbers to this JSON file")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="also draw a plot: .html, or with matplotlib .png, .svg, .pdf"
    )
    add_trust(parser)
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.output_file import check_output, output_file
    from lightning_evo.reporting.predictors import as_text, check_plot, plot, predictor_report

    try:
        if options.plot is not None:
            check_plot(options.plot)  # fails before minutes of training, not after
        if options.json is not None:
            check_output(options.json, "--json", overwrite=True)
        named = any("." in name for name in options.predictor or ())  # the user's own predictors
        import_own_modules(options.directory, options.trust or named)
        report = predictor_report(
            options.directory,
            options.predictor,
            options.at,
            options.monitor,
            options.repeats,
            options.seed,
            notify=report_to_user,
            trust=options.trust,
        )
        show(as_text(report))
        if options.json is not None:
            with output_file(options.json, "--json", overwrite=True) as part:
                part.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        if options.plot is not None:
            plot(report, options.plot)
    except (ArchiveError, ValueError, OSError) as error:
        refuse(error)
