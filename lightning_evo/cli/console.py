"""What all commands share: error messages, and imports of the user's own modules."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["add_working_directory", "refuse"]


def refuse(error: Exception) -> NoReturn:
    """Print the error as one line to standard error and exit with code 2."""
    print(f"lightning-evo: error: {error}", file=sys.stderr)
    raise SystemExit(2)


def add_working_directory() -> None:
    """Make modules in the working directory importable, as they aren't for a console script."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
