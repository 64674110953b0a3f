"""The duties of the forkserver besides forking: it adopts what dead workers leave, and ends it when the controller dies.

The forkserver preloads this module; nothing else has a use for it.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from types import FrameType

from lightning_evo.execution.children import MARK, adopt_orphans, end_children
from lightning_evo.utils.process import die_with_parent

__all__: list[str] = []


def _take_over() -> None:
    server = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != server:  # in a process that was forked and has no handler of its own yet
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        end_children(all_of_them=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    adopt_orphans()
    # It is told of adopted processes' ends, too.
    warnings.filterwarnings("ignore", message="forkserver: waitpid returned unexpected pid")
    die_with_parent(number=signal.SIGTERM)


# The mark was made by this process's parent: it is the controller's forkserver.
if sys.platform == "linux" and os.environ.get(MARK, "").partition(":")[0] == str(os.getppid()):
    _take_over()
