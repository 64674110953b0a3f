"""Who else is told of a search while it runs? Reporters, each in a thread of its own, so that no search waits for them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from lightning_evo.genome import Candidate, Objective, Result, SearchSpace
from lightning_evo.reporting.progress import Running, SearchState

if TYPE_CHECKING:
    from lightning_evo.algorithms import Individual

__all__ = ["Outcome", "Reporter", "ReporterError", "Reporting", "SearchInfo", "Training", "let_go"]

HASTE = 5.0
"""Seconds that reporters have left when the user wants to stop now."""

Outcome = Literal["finished", "interrupted", "failed"]

_log = logging.getLogger(__name__)


class ReporterError(ValueError):
    """A reporter can't do what it was asked to, in one line."""


@dataclass(frozen=True)
class SearchInfo:
    """What a reporter is told of a search when it begins, or goes on.

    Args:
        name: The run's name.
        location: What :class:`~lightning_evo.Archive` opens to read everything recorded.
        directory: The run's directory.
        space: What varies.
        objectives: What is optimised.
        algorithm: Name of the algorithm's class.
        description: Everything that decides which candidates come, as the archive keeps it.
        seed: The run's.
        limits: The budget: ``candidates``, ``epochs``, ``seconds``, as far as they are limited.
        slots: How many candidates train at once.
        config: The LightningCLI config that genomes are written into; ``None`` where a function is searched.
        resumed: Whether the search was begun earlier. What was recorded then is told again, in its order, before
            anything new.
        say: Shows a line to the user; may be called from any thread.
    """

    name: str
    location: Path | str
    directory: Path
    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: str
    description: Mapping[str, Any]
    seed: int
    limits: Mapping[str, float]
    slots: int
    config: Mapping[str, Any] | None
    resumed: bool
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Training:
    """A candidate that trains right now.

    Args:
        candidate: Which one.
        slot: Where.
        curve: One mapping per epoch trained so far: ``epoch`` (from 0) and every metric logged by its end.
    """

    candidate: Candidate
    slot: int
    curve: Sequence[Mapping[str, float]]


class Reporter:
    """Tells somebody else of a search: a web service, another tool's files, a chat.

    Subclass it and name the class under ``evolution.reporters``. Every method but :meth:`check` runs in one thread that is
    the reporter's own, in the order of the events; the search never waits for it. A method that raises ends the
    reporter, not the search: the user is told once, and the archive has everything. Nothing a reporter does may depend
    on being called again: after a kill, the next run tells it everything from the beginning (``SearchInfo.resumed``).

    Attributes:
        interval: Seconds between two calls of :meth:`running`.
        patience: Seconds that the end of a search waits for the reporter to catch up.
    """

    interval: float = 5.0
    patience: float = 120.0

    def check(self) -> None:
        """Refuse, before anything trains, what can't work.

        Raises:
            ReporterError: In one line, saying what to do about it.
        """

    def start(self, search: SearchInfo) -> None:
        """The search begins, or goes on."""

    def asked(self, candidate: Candidate) -> None:
        """A candidate was bred and recorded; it will be trained, or answered by the one it duplicates."""

    def running(self, trainings: Sequence[Training], state: SearchState) -> None:
        """What trains right now, every :attr:`interval` seconds.

        Args:
            trainings: All candidates that train, with their curves so far.
            state: Where the search stands.
        """

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """A candidate's result was recorded.

        Args:
            candidate: Which one.
            result: How it ended.
            state: Where the search stands, this result included.
        """

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        """The search ended; write what is left and let go of everything.

        Args:
            state: Where the search stands.
            outcome: ``finished`` (the budget is spent and the winner exported), ``interrupted`` by the user, or
                ``failed``.
        """

    def leave(self) -> None:
        """Let go of everything at once: the search failed or was refused, a method failed, or :meth:`finish` took too long.

        The one method besides :meth:`check` that is called from another thread, perhaps while the reporter's own still
        works, perhaps more than once, and perhaps after :meth:`finish`. The process may be about to end, and nothing must
        keep it.
        """


@dataclass
class _Channel:
    """One reporter, its thread, and what it was not told yet."""

    reporter: Reporter
    state: SearchState
    events: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    messages: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    looked: float = 0.0
    left: bool = False
    thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return type(self.reporter).__name__

    def work(self) -> None:
        """Tell the reporter one event after the other, until the last or the first that it fails at."""
        while (event := self.events.get()) is not None and not self.left:
            try:
                event()
            except Exception as error:  # whatever it is, the search is more important
                if self.left:
                    return
                first_line = next(iter(str(error).splitlines()), "")
                _log.warning("%s failed", self.name, exc_info=True)
                self.messages.put(
                    f"evolution.reporters: {self.name} failed and is told nothing more: {type(error).__name__}: "
                    f"{first_line}; the search goes on, and its archive has everything"
                )
                self.leave()
                return

    def leave(self) -> None:
        """Tell the reporter nothing more."""
        self.left = True
        let_go(self.reporter)


def let_go(reporter: Reporter) -> None:
    """Have a reporter let go of everything; what it raises then is no news any more."""
    try:
        reporter.leave()
    except Exception:
        _log.warning("%s failed at leaving", type(reporter).__name__, exc_info=True)


class Reporting:
    """Tells all reporters of one search what happens; a context manager that is open while the search runs.

    Args:
        reporters: Whom.
        search: Of what.
        curve: Reads the curve so far of a candidate that trains.
        say: Shows a line to the user; called from the thread that calls this object's methods.
        presses: How often the user has asked to stop: once to stop soon, twice to stop now.
    """

    def __init__(
        self,
        reporters: Sequence[Reporter],
        search: SearchInfo,
        curve: Callable[[Candidate], Sequence[Mapping[str, float]]],
        say: Callable[[str], None],
        presses: Callable[[], int] = lambda: 0,
    ) -> None:
        self._search, self._curve, self._say, self._presses = search, curve, say, presses
        self._channels = [_Channel(each, SearchState(search.objectives, search.limits)) for each in reporters]
        self._outcome: Outcome = "finished"

    def __enter__(self) -> Reporting:
        for channel in self._channels:
            # Not waited for by the interpreter: a server that doesn't answer keeps nobody's terminal.
            channel.thread = threading.Thread(target=channel.work, name=channel.name, daemon=True)
            channel.thread.start()
            channel.events.put(partial(channel.reporter.start, replace(self._search, say=channel.messages.put)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and self._outcome == "finished":
            self._outcome = "failed"
        self.close()

    # -- what happens --------------------------------------------------------------------------------------------------

    def asked(self, candidate: Candidate) -> None:
        """A candidate was recorded, now or in an earlier run."""

        def tell(channel: _Channel) -> None:
            channel.state.asked += 1
            channel.reporter.asked(candidate)

        self._each(tell)

    def told(self, candidate: Candidate, result: Result, population: Sequence[Individual] = ()) -> None:
        """A result was recorded, now or in an earlier run; ``population``: those the algorithm breeds from now."""
        if not self._channels:
            return
        # The algorithm goes on with its list while reporters, in threads of their own, are still being told.
        ids = tuple(individual.id for individual in population)

        def tell(channel: _Channel) -> None:
            channel.state.account(candidate, result)
            channel.state.population = ids
            channel.reporter.told(candidate, result, channel.state)

        self._each(tell)

    def look(self, trainings: Mapping[int, Sequence[Candidate]], elapsed: float) -> None:
        """What trains right now, by slot; told where it is time to."""
        self._show_messages()
        for channel in self._channels:
            if time.monotonic() - channel.looked < channel.reporter.interval:
                continue
            channel.looked = time.monotonic()
            channel.events.put(partial(self._look, channel, trainings, elapsed))

    def interrupted(self) -> None:
        """The user asked the search to stop."""
        self._outcome = "interrupted"

    def close(self) -> None:
        """Tell everybody that the search has ended, and wait until they are through, as long as they have patience."""
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.events.put(partial(channel.reporter.finish, channel.state, self._outcome))
            channel.events.put(None)
        closing, pressed = time.monotonic(), self._presses()
        said: set[str] = set()
        for channel in channels:
            assert channel.thread is not None
            while channel.thread.is_alive():
                waited = time.monotonic() - closing
                patience = channel.reporter.patience if pressed < 2 else min(HASTE, channel.reporter.patience)
                if self._presses() > pressed or waited > patience:
                    self._say(f"evolution.reporters: {channel.name} is not through; the archive has everything")
                    channel.leave()
                    break
                if waited > 2 and channel.name not in said:
                    said.add(channel.name)
                    self._say(f"waiting for {channel.name} to write what is left (Ctrl-C to leave)")
                channel.thread.join(0.1)
        self._show_messages(channels)

    def _each(self, tell: Callable[[_Channel], None]) -> None:
        for channel in self._channels:
            channel.events.put(partial(tell, channel))

    def _look(self, channel: _Channel, trainings: Mapping[int, Sequence[Candidate]], elapsed: float) -> None:
        state = channel.state
        state.elapsed = elapsed
        state.running = {
            slot: Running(group[0].id, 0, None, others=len(group) - 1) for slot, group in trainings.items() if group
        }
        every = [Training(each, slot, self._curve(each)) for slot, group in trainings.items() for each in group]
        channel.reporter.running(every, state)

    def _show_messages(self, channels: Sequence[_Channel] | None = None) -> None:
        for channel in self._channels if channels is None else channels:
            while not channel.messages.empty():
                self._say(channel.messages.get())
