"""Private names of multiprocessing."""

from __future__ import annotations

import multiprocessing

__all__ = ["imports_main_module"]


def imports_main_module() -> bool:
    """Whether this process was just started and imports the program's main module.

    Without it nothing tells a program from its own import in a worker process: ``__name__`` is the caller's.
    """
    return getattr(multiprocessing.current_process(), "_inheriting", False)
