"""What does `lightning-evo export` write? A candidate to take home, or everything that a run's archive holds."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.console import refuse, see_users_modules

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    parser = argparse.ArgumentParser(
        "lightning-evo export",
        description="Write a candidate as config.yaml and model.ckpt, which stock Lightning opens without this package; "
        "or everything of a search, also while it runs, for other programs.",
    )
    parser.add_argument("directory", help="directory of the search; for tables also an archive file or database URL")
    parser.add_argument("--to", type=Path, metavar="DIR", help="write a candidate here; made if absent")
    parser.add_argument("--candidate", type=int, metavar="ID", help="which one (default: the winner)")
    parser.add_argument("--onnx", action="store_true", help="also write model.onnx")
    parser.add_argument("--torch-export", action="store_true", help="also write model.pt2 (torch.export)")
    parser.add_argument(
        "--csv", type=Path, metavar="DIR", help="write candidates.csv, curves.csv, lineage.csv and meta.json here"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything as one JSON file")
    parser.add_argument(
        "--optuna", type=Path, metavar="FILE", help="write an Optuna journal, for optuna-dashboard FILE"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files of --csv, --json and --optuna that are there already"
    )
    asked = parser.parse_args(list(arguments))
    if asked.to is None:
        if asked.csv is None and asked.json is None and asked.optuna is None:
            parser.error("say what to write: --to DIR, --csv DIR, --json FILE or --optuna FILE")
        given = {
            "--candidate": asked.candidate is not None,
            "--onnx": asked.onnx,
            "--torch-export": asked.torch_export,
        }
        for option in (option for option, is_given in given.items() if is_given):
            parser.error(f"{option}: is of a candidate; say where to write it: --to DIR")
    see_users_modules()
    from lightning_evo.archive import ArchiveError

    try:
        for path in _tables(asked):
            print(path)
    except (ArchiveError, ValueError, ModuleNotFoundError) as error:
        refuse(error)
    if asked.to is not None:
        _candidate(asked)


def _tables(asked: Namespace) -> list[Path]:
    """What is asked for of the whole run; needs no torch."""
    written = []
    if asked.csv is not None:
        from lightning_evo.reporting.exports import export_csv

        written += export_csv(asked.directory, asked.csv, overwrite=asked.overwrite)
    if asked.json is not None:
        from lightning_evo.reporting.exports import export_json

        written.append(export_json(asked.directory, asked.json, overwrite=asked.overwrite))
    if asked.optuna is not None:
        from lightning_evo.reporting.optuna_journal import export_optuna

        written.append(export_optuna(asked.directory, asked.optuna, overwrite=asked.overwrite))
    return written


def _candidate(asked: Namespace) -> None:
    from lightning_evo.archive import ArchiveError
    from lightning_evo.export import ExportError, export

    try:
        written = export(
            Path(asked.directory),
            asked.to,
            asked.candidate,
            onnx=asked.onnx,
            torch_export=asked.torch_export,
            say=lambda text: print(text, file=sys.stderr),
        )
    except (ArchiveError, ExportError) as error:
        refuse(error)
    for path in written:
        print(path)
