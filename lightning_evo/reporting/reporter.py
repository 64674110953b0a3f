"""Reporters: what other programs receive of a search while it runs, each in its own thread so that the search never waits.

:class:`Reporter` is the contract, :class:`ReporterDispatcher` calls all reporters of one search.
"""

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
from lightning_evo.reporting.outgoing import masked_candidate, masked_result, masked_space
from lightning_evo.reporting.progress import RunningCandidate, SearchState
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.text import first_line_of, printable_lines, traceback_of

if TYPE_CHECKING:  # DEAP takes a while to import
    from lightning_evo.algorithms import Individual

__all__ = [
    "ActiveTraining",
    "Outcome",
    "Reporter",
    "ReporterDispatcher",
    "ReporterError",
    "SearchInfo",
    "release_quietly",
]

HURRIED_PATIENCE = 5.0
"""Seconds that reporters have left once the user has asked to stop now."""

Outcome = Literal["finished", "interrupted", "failed"]

_log = logging.getLogger(__name__)


class ReporterError(ValueError):
    """A reporter can't work as configured; the message is one line."""


@dataclass(frozen=True)
class SearchInfo:
    """The description of a search that a reporter receives when it starts or is resumed.

    Secrets in ``space``, ``description`` and ``config`` are masked, as they are in all that a reporter receives of
    candidates, unless the user wants them shown. ``location`` isn't: it may be the URL of a database, with its password.

    Args:
        name: The run's name.
        location: What :class:`~lightning_evo.Archive` opens to read everything recorded.
        directory: The run's directory.
        space: The search space.
        objectives: The objectives.
        algorithm: Name of the algorithm's class.
        description: Everything that determines which candidates are bred, as stored in the archive.
        seed: The run's seed.
        limits: The budget: ``candidates``, ``epochs``, ``seconds``, where they are limited.
        slots: How many candidates train at once.
        config: The LightningCLI config that genomes are written into; ``None`` where a function is searched.
        resumed: Whether the search was started earlier. Everything recorded before is then reported again, in order,
            before anything new.
        notify: Shows a line to the user; may be called from any thread.
        mask: Masks the secrets in what a reporter reads from the archive by itself; ``None``: it isn't known yet.
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
    notify: Callable[[str], None] = lambda line: None
    mask: Mask | None = None


@dataclass(frozen=True)
class ActiveTraining:
    """A candidate that is being trained.

    Args:
        candidate: The candidate.
        slot: Its slot.
        curve: One mapping per epoch trained so far: ``epoch`` (from 0) and every metric logged by its end.
    """

    candidate: Candidate
    slot: int
    curve: Sequence[Mapping[str, float]]


class Reporter:
    """Passes a search on: to a web service, another tool's files, a chat.

    Subclass it and name the class under ``evolution.reporters``. All methods but :meth:`check` and :meth:`release` run
    in one thread that belongs to the reporter, in the order of the events; the search never waits for them. A method that
    raises stops the reporter, not the search: the user is notified once, and the archive is complete. A reporter must not
    depend on its own earlier runs: after a kill, the next run reports everything from the beginning
    (``SearchInfo.resumed``).

    Attributes:
        interval: Seconds between two calls of :meth:`running`.
        patience: Seconds that the end of a search waits for the reporter to catch up.
    """

    interval: float = 5.0
    patience: float = 120.0

    def check(self) -> None:
        """Refuse a setup that can't work, before anything trains.

        Raises:
            ReporterError: With one line that says how to fix it.
        """

    def start(self, search: SearchInfo) -> None:
        """Called when the search starts or is resumed."""

    def asked(self, candidate: Candidate) -> None:
        """Called when a candidate has been bred and recorded, before it trains or is answered as a duplicate."""

    def running(self, trainings: Sequence[ActiveTraining], state: SearchState) -> None:
        """Called every :attr:`interval` seconds while candidates train.

        Args:
            trainings: All candidates that are being trained, with their curves so far.
            state: The state of the search.
        """

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """Called when a candidate's result has been recorded.

        Args:
            candidate: The candidate.
            result: Its result.
            state: The state of the search, including this result.
        """

    def finish(self, state: SearchState, outcome: Outcome) -> None:
        """Called when the search has ended: write what is left and release all resources.

        Args:
            state: The state of the search.
            outcome: ``finished`` (the budget is spent and the winner exported), ``interrupted`` by the user, or
                ``failed``.
        """

    def release(self) -> None:
        """Release all resources at once: the search failed or was refused, a method failed, or :meth:`finish` timed out.

        May be called from another thread, even while the reporter's own thread is still busy, more than once, and after
        :meth:`finish`. The process may be about to exit, and nothing may keep it alive.
        """


def release_quietly(reporter: Reporter) -> None:
    """Call :meth:`Reporter.release`; log what it raises."""
    try:
        reporter.release()
    except Exception as error:
        _log.warning("%s.release failed\n%s", type(reporter).__name__, printable_lines(traceback_of(error)))


class ReporterDispatcher:
    """Passes the events of one search to all its reporters; a context manager that is open while the search runs.

    Args:
        reporters: The reporters.
        search: The search.
        curve: Reads the curve so far of a candidate that is being trained.
        notify: Shows a line to the user; called from the thread that calls this object's methods.
        presses: How often the user has asked to stop: once to stop soon, twice to stop now.
    """

    def __init__(
        self,
        reporters: Sequence[Reporter],
        search: SearchInfo,
        curve: Callable[[Candidate], Sequence[Mapping[str, float]]],
        notify: Callable[[str], None],
        presses: Callable[[], int] = lambda: 0,
    ) -> None:
        self._search, self._curve, self._notify, self._presses = search, curve, notify, presses
        self._mask = Mask(search.description, search.config)
        self._channels = [
            _Channel(each, SearchState(search.objectives, search.limits), self._mask) for each in reporters
        ]
        self._outcome: Outcome = "finished"

    def __enter__(self) -> ReporterDispatcher:
        search = replace(
            self._search,
            space=masked_space(self._search.space, self._mask),
            description=self._mask.data(self._search.description),
            config=self._mask.data(self._search.config),
            mask=self._mask,
        )
        for channel in self._channels:
            # A daemon: the interpreter doesn't wait for a server that never answers.
            channel.thread = threading.Thread(target=channel.work, name=channel.name, daemon=True)
            channel.thread.start()
            channel.events.put(partial(channel.reporter.start, replace(search, notify=channel.messages.put)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and self._outcome == "finished":
            self._outcome = "failed"
        self.close()

    def asked(self, candidate: Candidate) -> None:
        """Report a candidate that was recorded, in this run or an earlier one."""
        if not self._channels:
            return
        candidate = masked_candidate(candidate, self._mask)

        def report(channel: _Channel) -> None:
            channel.state.asked += 1
            channel.reporter.asked(candidate)

        self._for_each(report)

    def told(self, candidate: Candidate, result: Result, population: Sequence[Individual] = ()) -> None:
        """Report a result that was recorded, in this run or an earlier one.

        Args:
            candidate: The candidate.
            result: Its result.
            population: The individuals that the algorithm breeds from now.
        """
        if not self._channels:
            return
        # A copy: the algorithm changes its list while reporters, in their threads, are still being called.
        ids = tuple(individual.id for individual in population)
        candidate, result = masked_candidate(candidate, self._mask), masked_result(result, self._mask)

        def report(channel: _Channel) -> None:
            channel.state.add_result(candidate, result)
            channel.state.population = ids
            channel.reporter.told(candidate, result, channel.state)

        self._for_each(report)

    def poll(self, trainings: Mapping[int, Sequence[Candidate]], elapsed: float) -> None:
        """Report what is being trained, by slot, to the reporters whose interval has passed."""
        self._show_messages()
        for channel in self._channels:
            if time.monotonic() - channel.polled < channel.reporter.interval:
                continue
            channel.polled = time.monotonic()
            channel.events.put(partial(self._report_running, channel, trainings, elapsed))

    def mark_interrupted(self) -> None:
        """Note that the user has asked the search to stop."""
        self._outcome = "interrupted"

    def close(self) -> None:
        """Report the end of the search, and wait for each reporter to finish, up to its ``patience``."""
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.events.put(partial(channel.reporter.finish, channel.state, self._outcome))
            channel.events.put(None)
        closing, pressed = time.monotonic(), self._presses()
        announced: set[str] = set()
        for channel in channels:
            assert channel.thread is not None
            while channel.thread.is_alive():
                waited = time.monotonic() - closing
                patience = (
                    channel.reporter.patience if pressed < 2 else min(HURRIED_PATIENCE, channel.reporter.patience)
                )
                if self._presses() > pressed or waited > patience:
                    self._notify(f"evolution.reporters: {channel.name} did not finish; the archive is complete")
                    channel.stop()
                    break
                if waited > 2 and channel.name not in announced:
                    announced.add(channel.name)
                    self._notify(f"waiting for {channel.name} to finish writing (press Ctrl-C to skip)")
                channel.thread.join(0.1)
        self._show_messages(channels)

    def _for_each(self, report: Callable[[_Channel], None]) -> None:
        for channel in self._channels:
            channel.events.put(partial(report, channel))

    def _report_running(self, channel: _Channel, trainings: Mapping[int, Sequence[Candidate]], elapsed: float) -> None:
        state = channel.state
        state.elapsed = elapsed
        state.running = {
            slot: RunningCandidate(group[0].id, 0, None, others=len(group) - 1)
            for slot, group in trainings.items()
            if group
        }
        active = [
            ActiveTraining(masked_candidate(each, self._mask), slot, self._curve(each))
            for slot, group in trainings.items()
            for each in group
        ]
        channel.reporter.running(active, state)

    def _show_messages(self, channels: Sequence[_Channel] | None = None) -> None:
        for channel in self._channels if channels is None else channels:
            while not channel.messages.empty():
                self._notify(channel.messages.get())


@dataclass
class _Channel:
    """One reporter with its thread and the events it has not received yet."""

    reporter: Reporter
    state: SearchState
    mask: Mask
    events: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    messages: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    polled: float = 0.0
    stopped: bool = False
    thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return type(self.reporter).__name__

    def work(self) -> None:
        """Pass one event after the other to the reporter, up to the last one or the first that fails."""
        while (event := self.events.get()) is not None and not self.stopped:
            try:
                event()
            except Exception as error:  # the search must go on, whatever it is
                if self.stopped:
                    return
                _log.warning("%s failed\n%s", self.name, printable_lines(self.mask.text(traceback_of(error))))
                self.messages.put(
                    f"evolution.reporters: {self.name} failed and was stopped: {first_line_of(error)}; "
                    "the search continues and its archive is complete"
                )
                self.stop()
                return

    def stop(self) -> None:
        """Pass nothing more to the reporter."""
        self.stopped = True
        release_quietly(self.reporter)
