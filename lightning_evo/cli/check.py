"""``lightning-evo check``: whether all files of a search are whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_evo.cli.console import CommandParser, refuse, show

if TYPE_CHECKING:
    from lightning_evo.reporting.integrity import Finding

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name; exit code 1 where something isn't whole."""
    parser = CommandParser(
        "lightning-evo check",
        description="Say whether journal, database, results and checkpoints of a search are whole: exit code 0, else 1.",
    )
    parser.add_argument("directory", type=Path, help="directory of the search")
    parser.add_argument(
        "--repair", action="store_true", help="rebuild what can be rebuilt; what is damaged is kept under another name"
    )
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError
    from lightning_evo.reporting.integrity import inspect_run, repair_run

    try:
        findings = inspect_run(options.directory)
        _show(findings)
        if options.repair:  # also where all is whole: a checksum that another program made stale is made anew
            for text in repair_run(options.directory):
                show(f"mended  {text}")
            findings = inspect_run(options.directory)
            _show(findings)
    except ArchiveError as error:
        refuse(error)
    if not _all_whole(findings):
        raise SystemExit(1)


def _show(findings: Sequence[Finding]) -> None:
    for finding in findings:
        show(f"{'whole ' if finding.whole else 'BROKEN'}  {finding}")


def _all_whole(findings: Sequence[Finding]) -> bool:
    return all(finding.whole for finding in findings)
