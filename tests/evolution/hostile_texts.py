"""Functions to be searched whose names, messages and exceptions no program expects."""

from __future__ import annotations

import os

UNREADABLE = os.fsdecode(b"caf\xe9.png")
"""A file name that isn't UTF-8, as ``os.listdir`` gives it."""
HOSTILE = {
    "surrogate": UNREADABLE,
    "NUL": "a\0b",
    "escape sequence": "\x1b]52;c;aGVsbG8=\x07\x1b[2J",
    "C1": "\x9b31m\x9d0;title\x9c",
    "bidi": "abc\u202egnp.exe",
    "markup": "[red]x[/red] [link=http://x]y[/link] :smile: [/]",
    "line ends": "one\r\ntwo\u2028three\x85four\x0bfive",
    "not characters": "\ufffe\uffff\U0001ffff",
    "formula": "=cmd|' /C calc'!A0",
    "html": "</script><script>alert(1)</script>",
    "long": "x" * 300_000,
}


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no message for you")


class EndlessError(Exception):
    def __str__(self):
        return str(self)


class ExitingError(Exception):
    def __str__(self):
        raise SystemExit(3)


class OddError(OSError):
    """Its errno raises, it can't be pickled, and its message isn't text."""

    def __reduce__(self):
        raise TypeError("not to be pickled")

    def __str__(self):
        return 7  # ty: ignore

    @property
    def errno(self):
        raise ValueError("no number")


def _deep_chain():
    error = ValueError("0")
    for i in range(3000):
        above = ValueError(str(i))
        above.__cause__ = error
        error = above
    return error


def _deep_group():
    error: Exception = ValueError("0")
    for _ in range(500):
        error = ExceptionGroup("one more", [error])
    return error


RAISED = {
    "no message": SilentError,
    "endless message": EndlessError,
    "exiting message": ExitingError,
    "odd": OddError,
    "exit": lambda: SystemExit("bye"),
    "exit without a reason": SystemExit,
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "huge": lambda: ValueError("x" * 5_000_000),
    "huge in lines": lambda: ValueError("line\n" * 300_000),
    "many": lambda: ExceptionGroup("many", [ValueError(str(i)) for i in range(5000)]),
    "deep group": _deep_group,
    "chain": _deep_chain,
    "bytes": lambda: ValueError(b"\xff" * 100),
    "odd class": lambda: type("\x1b[31m" + UNREADABLE, (Exception,), {})("text"),
    **{f"message: {kind}": lambda text=text: ValueError(text) for kind, text in HOSTILE.items()},
}


def raising(genome, seed, directory):
    """Raise what the genome names; the others complete."""
    kind = genome["kind"]
    if kind in RAISED:
        raise RAISED[kind]()
    return {"value": genome["x"]}


def naming(genome, seed, directory):
    """Log a metric of a hostile name, or a great many."""
    if genome["kind"] == "many":
        return {**{f"metric {i}": 0.0 for i in range(100_000)}, "value": genome["x"]}
    return {"value": genome["x"], HOSTILE[genome["kind"]]: 1.0}


def valued(genome, seed, directory):
    """Have its genome's texts unchanged."""
    assert genome["text"] in HOSTILE.values()
    return {"value": float(len(genome["text"]))}
