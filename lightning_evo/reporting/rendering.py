"""Tables as text: rendered for standard output as it is, and without writing to it."""

from __future__ import annotations

import io

from rich.console import Console

__all__ = ["text_console"]


def text_console() -> Console:
    """Return a console as wide and colorful as standard output, to be used with ``capture`` alone.

    A console on standard output itself writes to it even while it captures: nothing, but that fails where it is full.
    """
    return Console(file=io.StringIO(), force_terminal=Console().is_terminal, force_jupyter=False)
