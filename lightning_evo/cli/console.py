"""How does a command refuse, and where does it find the user's own modules?"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

__all__ = ["refuse", "see_users_modules"]


def refuse(error: Exception) -> NoReturn:
    """One line on standard error, exit code 2."""
    print(f"lightning-evo: error: {error}", file=sys.stderr)
    raise SystemExit(2)


def see_users_modules() -> None:
    """Let imports find the folder the command is called in, which a console script doesn't see by itself."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
