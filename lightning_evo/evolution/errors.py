"""Ends of a search other than by its budget: errors, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts", "SearchError", "SearchInterrupted"]


class SearchError(Exception):
    """A search that can't start or go on; the message says what was given, what is accepted, and where."""


class SearchInterrupted(Exception):
    """The search was stopped from outside; its archive is clean and the same call continues it."""


class Interrupts:
    """Turn SIGINT and SIGTERM into two flags while the context is open.

    The first SIGINT sets :attr:`stopping`; a second one, or SIGTERM, sets :attr:`now` too. Handlers can be set from the
    main thread only: elsewhere signals keep their usual effect.

    Args:
        message: Called with one line that tells the user what happens next.
    """

    def __init__(self, message: Callable[[str], None]) -> None:
        self.stopping = False
        self.now = False
        self._message = message
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM or self.stopping:
            self.now = True
        self.stopping = True
        self._message(
            "stopping now; running candidates will be trained again when the search continues"
            if self.now
            else "stopping: running candidates are finished and recorded first (Ctrl-C again to stop now)"
        )
