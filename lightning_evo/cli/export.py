"""What does `lightning-evo export` write?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_evo.cli.saying import refuse, see_users_modules

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
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
    see_users_modules()
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
        refuse(error)
    for path in written:
        print(path)
