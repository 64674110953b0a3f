"""Command lines run in processes of their own whose standard streams can't be written, or that are interrupted."""

from __future__ import annotations

import os
import pty
import signal
import sys

from lightning_evo.cli import main


def _read_by_nobody():
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _gone_terminal():
    controller, terminal = pty.openpty()
    os.close(controller)
    return terminal


BROKEN = {
    "closed": None,
    "full": lambda: os.open("/dev/full", os.O_WRONLY),
    "pipe": _read_by_nobody,
    "terminal": _gone_terminal,
}


def run_with(kind: str, arguments: list[str]) -> None:
    """Run a command line whose standard output and standard error are broken, from the start of its Python on."""
    for number in (1, 2):
        if BROKEN[kind] is None:
            os.close(number)
        else:
            os.dup2(BROKEN[kind](), number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = None if BROKEN[kind] is None else open(number, "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    main(arguments)


def run_interrupted(arguments: list[str]) -> None:
    """Run a command line that Ctrl-C reaches (the processes tests fork have it blocked)."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    main(arguments)
