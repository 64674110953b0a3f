"""The program's main module, which every worker process imports: whether that would run the search again."""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from lightning_evo._compat.multiprocessing import imports_main_module
from lightning_evo.execution.isolation import WorkerSettings, start_forkserver
from lightning_evo.utils.output import settle_output

__all__ = ["end_in_import", "refuse_unguarded"]

_TRIAL = "lightning-evo: import of the main module"
"""The name of the process that tries the import; it has it before it begins to import."""

_EXIT_CODE = 2


def refuse_unguarded(threads: int, preload: Sequence[str] = (), modules: Sequence[str] = ()) -> None:
    """End the program with one line on standard error if worker processes would run the search that begins here again.

    They import the main module. Where it calls this under ``if __name__ == "__main__":``, nothing is to be done; otherwise a
    process tries the import before anything of the search is made.

    Args:
        threads: Threads of a worker, as the process is forked from the server that workers are forked from.
        preload: What that server imports, if it isn't running.
        modules: Modules of the user that it imports as well.

    Raises:
        SystemExit: With code 2 if the import begins a search too, or fails.
    """
    end_in_import()
    path = getattr(sys.modules["__main__"], "__file__", None)
    # Without a path there is nothing to import: a notebook, a prompt, `python -c`. In other threads no line is known.
    if path is None or (call := _call_in_main_module()) is None or _guarded(path, call):
        return
    # No guard that can be read, but there may be another kind of guard, and a package's `__main__` isn't imported at all.
    settle_output()  # Python flushes it before it starts a process, and fails where it can't be written
    start_forkserver(preload, WorkerSettings(threads).thread_environment, modules)
    process = multiprocessing.get_context("forkserver").Process(target=_nothing, name=_TRIAL)
    process.start()
    process.join()
    if process.exitcode:
        _end(
            f"{os.path.abspath(path)}, line {call}: worker processes import this file, and would run the search again; "
            'put what the program does under `if __name__ == "__main__":`'
        )


def end_in_import() -> None:
    """End this process if it is only importing the program's main module, as a worker process does before its first job."""
    if not imports_main_module():
        return
    if multiprocessing.current_process().name == _TRIAL:
        raise SystemExit(_EXIT_CODE)
    _end('a worker process imports the main module, which runs the search: put that under `if __name__ == "__main__":`')


def _end(message: str) -> None:
    print(f"lightning-evo: error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(_EXIT_CODE)


def _nothing() -> None:
    """What the process does that tries the import."""


def _call_in_main_module() -> int | None:
    """The line of the main module's own code that is being executed in this thread."""
    main = vars(sys.modules["__main__"])
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_globals is main and frame.f_code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def _guarded(path: str, line: int) -> bool:
    """Whether a line of a script stands under ``if __name__ == "__main__":``."""
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):  # a session whose file was never written, or is none of Python
        return False
    return any(
        isinstance(each, ast.If) and _requires_main(each.test) and any(line in _lines(body) for body in each.body)
        for each in _around(tree.body, line)
    )


def _around(statements: Sequence[ast.stmt], line: int) -> Iterator[ast.AST]:
    """The statements that a line stands in, from the outermost on."""
    for statement in statements:
        if line in _lines(statement):
            yield from ast.walk(statement)


def _lines(statement: ast.stmt) -> range:
    return range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)


def _requires_main(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_requires_main(each) for each in test.values)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq):
        return False
    return {ast.unparse(test.left), ast.unparse(test.comparators[0])} == {"__name__", "'__main__'"}
