"""``lightning-evo report``: the HTML page about one search or several, as a file or served while they run."""

from __future__ import annotations

import argparse
import os
import signal
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning_evo.cli.console import CommandParser, refuse, show
from lightning_evo.utils.text import printable

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Run the command with the arguments that follow its name."""
    parser = CommandParser(
        "lightning-evo report",
        description="Write one HTML page about a search, or one that compares several: progress, leaderboard, genes, "
        "Pareto front, lineage, learning curves, costs. The page is self-contained and needs no network. The search may "
        "still be running.",
    )
    parser.add_argument("directory", nargs="+", help="directory, archive file or database URL of a search")
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="file to write (default: report.html in the search's directory; for several searches, in the working "
        "directory)",
    )
    parser.add_argument("--run", metavar="NAME", help="the run, if a database holds several")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="serve the page on this machine and keep it up to date, instead of writing a file; Ctrl-C or SIGTERM ends it",
    )
    parser.add_argument("--port", type=int, metavar="N", help="with --watch: the port (default: 0, any free port)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(list(arguments))
    from lightning_evo.archive import ArchiveError

    try:
        if options.watch:
            if options.to is not None:
                raise ValueError(
                    f"--to {options.to}: --watch serves the page and writes no file; give only one of the two"
                )
            _watch(options)
        else:
            if options.port is not None:
                raise ValueError(f"--port {options.port}: only applies with --watch")
            _write(options)
    except (ArchiveError, ValueError) as error:
        refuse(error)
    except KeyboardInterrupt:
        raise SystemExit(0 if options.watch else 130) from None  # Ctrl-C, or SIGTERM, is the normal end of --watch


def _write(options: argparse.Namespace) -> None:
    from lightning_evo.reporting.page import report

    path = report(options.directory, options.to, options.run)
    show(printable(str(path)))
    if options.open:
        webbrowser.open(path.absolute().as_uri())


def _watch(options: argparse.Namespace) -> None:
    from lightning_evo.reporting.page import WatchServer

    # Where Ctrl-C is ignored, as under nohup and in the background of a script, SIGTERM is the only way to stop it.
    ends = f"kill {os.getpid()}" if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else "press Ctrl-C"
    with WatchServer(options.directory, options.port or 0, options.run) as server, _ended_by_sigterm():
        show(f"{server.url} ({ends} to stop)")
        if options.open:
            webbrowser.open(server.url)
        server.serve()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does, in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
