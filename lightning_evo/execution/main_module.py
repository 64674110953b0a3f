"""The program's main module, which worker processes import: what it starts whenever it is imported, each would start."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

__all__ = ["unguarded_statement"]


def unguarded_statement() -> str | None:
    """The statement of the main module that is running now and would run again in each worker, as ``file:line``.

    Returns:
        ``None`` where it stands under ``if __name__ == "__main__":``, where another such condition comes before it, and
        where there is no main module that a worker would import (a notebook, an interactive session, ``python -c``).
    """
    main = vars(sys.modules["__main__"])
    path, line = main.get("__file__"), _line(main)
    if not isinstance(path, str) or line is None:
        return None
    try:
        module = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):  # compiled, or generated: what it holds can't be told
        return None
    for statement in module.body:
        if isinstance(statement, ast.If) and _asks_for_the_name(statement.test):
            return None
        if statement.lineno <= line <= (statement.end_lineno or statement.lineno):
            return f"{path}:{statement.lineno}"
    return None


def _line(main: dict[str, object]) -> int | None:
    """The line at which the main module's own code is, below all that it has called."""
    frame = inspect.currentframe()
    while frame is not None:
        if (
            frame.f_globals is main
            and frame.f_code.co_name == "<module>"
            and frame.f_code.co_filename == main["__file__"]
        ):
            return frame.f_lineno
        frame = frame.f_back
    return None


def _asks_for_the_name(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
