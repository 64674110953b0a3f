"""``lightning-evo export``: one candidate as config and checkpoint, or a run's whole archive for other programs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import CommandParser, add_trust, import_own_modules, refuse, report_to_user, show
from lightning_evo.utils.text import printable

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = CommandParser(
        "lightning-evo export",
        description="Write a candidate as config.yaml and model.ckpt, which stock Lightning opens without this package; "
        "or export a whole search, even while it is running, for other programs.",
    )
    parser.add_argument(
        "directory", help="directory of the search; for --csv, --json and --optuna also an archive file or database URL"
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="write a candidate to this directory (created if necessary)"
    )
    parser.add_argument("--candidate", type=int, metavar="ID", help="the candidate to write (default: the winner)")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument("--torch-export", action="store_true", help="also write model.pt2 (torch.export)")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="DIR",
        help="write candidates.csv, curves.csv, lineage.csv and meta.json to this directory",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole search as one JSON file")
    parser.add_argument(
        "--optuna", type=Path, metavar="FILE", help="write an Optuna journal, which `optuna-dashboard FILE` opens"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files of --csv, --json and --optuna")
    add_trust(parser)
    options = parser.parse_args(list(arguments))
    if options.to is None:
        if options.csv is None and options.json is None and options.optuna is None:
            parser.error("nothing to write: give --to DIR, --csv DIR, --json FILE or --optuna FILE")
        given = {
            "--candidate": options.candidate is not None,
            "--onnx": options.onnx,
            "--torch-export": options.torch_export,
        }
        for option in (option for option, is_given in given.items() if is_given):
            parser.error(f"{option}: applies to a candidate; add --to DIR")
    from lightning_evo.archive import ArchiveError

    try:
        import_own_modules([options.directory], options.trust)
        for path in _write_archive(options):
            show(printable(str(path)))
    except (ArchiveError, ValueError, ModuleNotFoundError) as error:
        refuse(error)
    if options.to is not None:
        _write_candidate(options)


def _write_archive(options: Namespace) -> list[Path]:
    """Write the exports of the whole run; needs no torch."""
    written = []
    if options.csv is not None:
        from lightning_evo.reporting.exports import export_csv

        written += export_csv(options.directory, options.csv, overwrite=options.overwrite)
    if options.json is not None:
        from lightning_evo.reporting.exports import export_json

        written.append(export_json(options.directory, options.json, overwrite=options.overwrite))
    if options.optuna is not None:
        from lightning_evo.reporting.exports import export_optuna

        target = options.optuna
        written.append(export_optuna(options.directory, target, overwrite=options.overwrite, trust=options.trust))
    return written


def _write_candidate(options: Namespace) -> None:
    from lightning_evo.archive import ArchiveError
    from lightning_evo.export import ExportError, export

    try:
        written = export(
            Path(options.directory),
            options.to,
            options.candidate,
            onnx=options.onnx,
            torch_export=options.torch_export,
            notify=report_to_user,
            trust=options.trust,
        )
    except (ArchiveError, ExportError) as error:
        refuse(error)
    for path in written:
        show(printable(str(path)))
