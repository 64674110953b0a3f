"""The parts that all commands share: output, error messages, and imports of the user's own modules."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning_evo.utils.output import open_standard_files, reader_is_gone, settle_output
from lightning_evo.utils.text import bounded, printable_lines

__all__ = [
    "CLOSED_PIPE",
    "INTERRUPTED",
    "CommandParser",
    "add_trust",
    "add_working_directory",
    "import_own_modules",
    "interrupts_end_commands",
    "prepare_output",
    "refuse",
    "report_to_user",
    "show",
]

INTERRUPTED = 130
"""The exit code after Ctrl-C: that of a process which the signal ended, in a shell."""

CLOSED_PIPE = 141
"""The exit code of a command whose reader has gone (``| head``): that of a process which SIGPIPE ended, in a shell."""

_LONGEST = 10_000
_LONGEST_LINE = 1000


def prepare_output() -> None:
    """Have whatever is printed reach standard output and standard error, or nowhere, but never a file of ours.

    Characters that a stream's encoding doesn't have are printed as escapes.
    """
    open_standard_files()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when Python started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            with suppress(OSError, ValueError):  # it is closed, or can't be flushed, which reconfiguring does
                stream.reconfigure(errors="backslashreplace")


@contextmanager
def interrupts_end_commands() -> Iterator[None]:
    """Have Ctrl-C end the process at once while modules are imported, and raise ``KeyboardInterrupt`` otherwise, as usual.

    Many libraries catch whatever their imports raise, and fail later and differently, or run on. Where Python drops the
    exception, as in a finalizer, it is raised again a moment later, instead of being printed.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    hook = sys.unraisablehook

    def raise_again(dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            timer = threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT])
            timer.daemon = True
            timer.start()
        else:
            hook(dropped)

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    at = frame
    while at is not None:
        if at.f_code.co_filename == "<frozen importlib._bootstrap>":
            settle_output()
            os._exit(INTERRUPTED)
        at = at.f_back
    signal.default_int_handler(number, frame)


def show(text: str) -> None:
    """Print the output of a command.

    Raises:
        SystemExit: If it can't be written: with code 141, and silently, where nobody reads it any more.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        gone = reader_is_gone()
        settle_output()
        if gone:
            raise SystemExit(CLOSED_PIPE) from None
        refuse(ValueError(f"standard output can't be written ({error.strerror})"))
    except ValueError:  # it is closed
        raise SystemExit(CLOSED_PIPE) from None


def report_to_user(text: object) -> None:
    """Print a line to standard error; nothing happens where that can't be written."""
    try:
        print(printable_lines(bounded(str(text), _LONGEST)), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        settle_output()


def refuse(error: Exception) -> NoReturn:
    """Print the error as one line to standard error and exit with code 2."""
    lines = str(error).splitlines() or [""]
    report_to_user("lightning-evo: error: " + "\n".join(bounded(line, _LONGEST_LINE) for line in lines))
    raise SystemExit(2)


class CommandParser(ArgumentParser):
    """The options of a command; errors in them are one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        refuse(ValueError(f"{self.prog.removeprefix('lightning-evo ')}: {message}"))


def add_working_directory() -> None:
    """Make modules in the working directory importable, as they aren't for a console script."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def add_trust(parser: ArgumentParser) -> None:
    """Give a command that reads a search the option ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run code that the search names or contains, though it was not run by you on this machine",
    )


def import_own_modules(locations: Sequence[str | Path], trust: bool) -> None:
    """Make modules in the working directory importable for a command that reads searches, if all of these may name them.

    They come last: a run that somebody else made may contain a ``torch.py``, and be the working directory.

    Args:
        locations: Directories, archive files or database URLs.
        trust: Whether the user trusts whoever ran them.

    Raises:
        ArchiveError: If one can't be read.
    """
    if not trust:
        from lightning_evo.archive import Archive
        from lightning_evo.archive.description import is_own_search

        for location in locations:
            with Archive(location) as archive:
                if not is_own_search(archive.meta):
                    return
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
