"""What does `lightning-evo report` write or serve?"""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Sequence

from lightning_evo.cli.console import refuse

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command on the arguments behind its name."""
    parser = argparse.ArgumentParser(
        "lightning-evo report",
        description="Write one HTML page about a search, or about several beside each other: progress, leaderboard, "
        "genes, Pareto front, lineage, learning curves, costs. It needs nothing else, not even a network. The search may be "
        "running.",
    )
    parser.add_argument("directory", nargs="+", help="directory, archive file or database URL of a search")
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="the page (default: report.html in the search's directory, of several searches in the current folder)",
    )
    parser.add_argument("--run", metavar="NAME", help="which run, where a database holds several")
    parser.add_argument(
        "--watch", action="store_true", help="serve the page on this machine instead, and keep it up to date"
    )
    parser.add_argument("--port", type=int, metavar="N", help="with --watch: which port (default 0: any that is free)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    asked = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError

    try:
        if asked.watch:
            if asked.to is not None:
                raise ValueError(f"--to {asked.to}: --watch serves the page and writes no file; leave one of them out")
            _watch(asked)
        else:
            if asked.port is not None:
                raise ValueError(f"--port {asked.port}: nothing is served without --watch")
            _write(asked)
    except (ArchiveError, ValueError) as error:
        refuse(error)
    except KeyboardInterrupt:
        raise SystemExit(0 if asked.watch else 130) from None  # Ctrl-C is how watching ends


def _write(asked: argparse.Namespace) -> None:
    from lightning_evo.reporting.page import report

    path = report(asked.directory, asked.to, asked.run)
    print(path)
    if asked.open:
        webbrowser.open(path.absolute().as_uri())


def _watch(asked: argparse.Namespace) -> None:
    from lightning_evo.reporting.page import WatchServer

    with WatchServer(asked.directory, asked.port or 0, asked.run) as server:
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        if asked.open:
            webbrowser.open(server.url)
        server.serve()
