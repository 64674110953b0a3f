"""Progress of a running search: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightning_evo.genome import COMPLETED, FAILED, STOPPED, Candidate, Objective, Result
from lightning_evo.reporting.outgoing import masked_candidate, masked_result
from lightning_evo.utils.masking import Mask
from lightning_evo.utils.output import settle_output
from lightning_evo.utils.text import bounded, printable, printable_lines, traceback_of

__all__ = [
    "HarmlessProgress",
    "LiveProgress",
    "PlainProgress",
    "ProgressDisplay",
    "RunningCandidate",
    "SearchState",
    "SilentProgress",
    "make_progress",
]

FIRST_ERRORS = 10

MAX_MESSAGE = 4000
"""Characters of a message that are shown."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningCandidate:
    """A candidate that is being trained.

    Args:
        candidate: Its id.
        epoch: Epochs completed.
        epochs: Epochs in total; ``None`` where unknown.
        others: How many other candidates train in the same stack.
    """

    candidate: int
    epoch: int
    epochs: int | None
    others: int = 0


@dataclass
class SearchState:
    """The current state of a search, kept up to date by the controller.

    Args:
        objectives: The objectives.
        limits: The budget: ``candidates``, ``epochs``, ``seconds``, where they are limited.

    Attributes:
        asked: Candidates bred so far.
        completed: Candidates trained to the end.
        stopped: Candidates stopped early.
        failed: Candidates that failed.
        answered: Duplicates, answered with an earlier candidate's result.
        epochs: Epochs trained by all candidates.
        elapsed: Seconds of search.
        end: Why the search ended; empty while it runs.
        best: The best completed candidate.
        best_fitness: Its fitness.
        front: Fitness of the candidates on the Pareto front, times the objectives' weights.
        running: What is being trained, by slot.
        population: Ids of the candidates that the algorithm currently breeds from.
        first_errors: Error types of the first failures.
    """

    objectives: Sequence[Objective]
    limits: Mapping[str, float]
    asked: int = 0
    completed: int = 0
    stopped: int = 0
    failed: int = 0
    answered: int = 0
    epochs: int = 0
    elapsed: float = 0.0
    end: str = ""
    best: Candidate | None = None
    best_fitness: tuple[float, ...] | None = None
    front: list[tuple[float, ...]] = field(default_factory=list)
    running: dict[int, RunningCandidate] = field(default_factory=dict)
    population: tuple[int, ...] = ()
    first_errors: list[str] = field(default_factory=list)

    @property
    def told(self) -> int:
        """The number of results."""
        return self.completed + self.stopped + self.failed

    def add_result(self, candidate: Candidate, result: Result) -> None:
        """Update the counts, the best candidate and the Pareto front with a result."""
        self.completed += result.status == COMPLETED
        self.stopped += result.status == STOPPED
        self.failed += result.status == FAILED
        self.answered += candidate.duplicate_of is not None
        self.epochs += int(result.cost.get("epochs", 0))
        if result.status == FAILED and len(self.first_errors) < FIRST_ERRORS:
            self.first_errors.append(result.error_type or "")
        if result.fitness is None or candidate.duplicate_of is not None:
            return
        if result.status != COMPLETED:
            return  # stopped early: its fitness is predicted, so it is neither the best nor on the front
        weighted = self._weighted(result.fitness)
        if self.best_fitness is None or weighted > self._weighted(self.best_fitness):
            self.best, self.best_fitness = candidate, result.fitness
        if len(self.objectives) > 1 and not any(_dominates(other, weighted) for other in self.front):
            self.front = [other for other in self.front if not _dominates(weighted, other)]
            self.front.append(weighted)

    def seconds_left(self) -> float | None:
        """Seconds until the budget is spent, at the pace so far; ``None`` while that is unknown."""
        spent = {"candidates": self.told, "epochs": self.epochs, "seconds": self.elapsed}
        paces = [
            max(0.0, limit - spent[name]) * self.elapsed / spent[name]
            for name, limit in self.limits.items()
            if spent[name]
        ]
        return min(paces) if paces and self.told else None

    def summary(self) -> str:
        """Counts and the best so far, in one line."""
        counts = [f"{self.completed} completed"]
        others = {"stopped": self.stopped, "failed": self.failed, "duplicate": self.answered}
        counts += [f"{count} {name}" for name, count in others.items() if count]
        return f"{self.asked} candidates ({', '.join(counts)}), {self.describe_best()}"

    def describe_best(self) -> str:
        """The best candidate so far and its fitness."""
        if self.best is None or self.best_fitness is None:
            return "none finished yet"
        front = f", {len(self.front)} on the Pareto front" if len(self.objectives) > 1 else ""
        return f"best {self.describe_fitness(self.best_fitness)} (candidate {self.best.id}){front}"

    def describe_fitness(self, fitness: Sequence[float]) -> str:
        """Every objective with its value."""
        pairs = zip(self.objectives, fitness, strict=True)
        return ", ".join(f"{objective.monitor} {_number(value)}" for objective, value in pairs)

    def _weighted(self, fitness: Sequence[float]) -> tuple[float, ...]:
        return tuple(o.weight * value for o, value in zip(self.objectives, fitness, strict=True))


class ProgressDisplay(ABC):
    """Shows a search to its user; a context manager that is open while the search runs."""

    interval = 0.5
    """Seconds between two updates."""

    _updated = 0.0

    def due(self) -> bool:
        """Whether it is time for the next :meth:`update`."""
        return time.monotonic() - self._updated >= self.interval

    def update(self, state: SearchState) -> None:
        """Show the current state of the search."""
        self._updated = time.monotonic()

    @abstractmethod
    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """Show a candidate's result."""

    @abstractmethod
    def message(self, text: str) -> None:
        """Show a line of text."""

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        return


class SilentProgress(ProgressDisplay):
    """Shows nothing."""

    def due(self) -> bool:
        return False

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """Show nothing."""

    def message(self, text: str) -> None:
        """Show nothing."""


class PlainProgress(ProgressDisplay):
    """One line per result, for logs and pipes."""

    def due(self) -> bool:
        return False  # periodic lines would bury the results

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        limit = state.limits.get("candidates")
        of = f"/{int(limit)}" if limit is not None else ""
        if result.fitness is None:
            outcome = f"failed: {printable(result.error_type or '')}"
        else:
            outcome = f"{result.status}: {state.describe_fitness(result.fitness)}"
        if candidate.duplicate_of is not None:
            outcome += f" (duplicate of candidate {candidate.duplicate_of}, not trained again)"
        elif "seconds" in result.cost:
            outcome += f" in {result.cost['seconds']:.1f} s"
        self.message(f"[{state.told}{of}] candidate {candidate.id} {outcome}; {state.describe_best()}")

    def message(self, text: str) -> None:
        _print(_shown(text))


class LiveProgress(ProgressDisplay):
    """One live display: best candidate so far, slots, counts, budget and time left.

    Nothing more is shown once the terminal is gone.

    Args:
        console: The console to draw on; default: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveProgress:
        with self._rendering():
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._rendering():
            self._live.stop()

    def update(self, state: SearchState) -> None:
        super().update(state)
        with self._rendering():
            self._live.update(render(state), refresh=True)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        if result.status == FAILED:
            self.message(f"candidate {candidate.id} failed: {printable(result.error_type or '')}")

    def message(self, text: str) -> None:
        with self._rendering():
            self.console.print(Text(_shown(text)), highlight=False)

    @contextmanager
    def _rendering(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.console.quiet = True  # drops what it would otherwise try to write again, and more of it each time


class HarmlessProgress(ProgressDisplay):
    """Shows what another display shows, without secrets, and doesn't let its failures reach the search.

    Args:
        display: The display, whichever exceptions it raises.
        mask: What masks secrets.
    """

    def __init__(self, display: ProgressDisplay, mask: Mask) -> None:
        self.display, self._mask = display, mask
        self._warned = False

    def due(self) -> bool:
        return bool(self._call(self.display.due))

    def update(self, state: SearchState) -> None:
        """Pass on the current state of the search."""
        self._call(self.display.update, state)

    def told(self, candidate: Candidate, result: Result, state: SearchState) -> None:
        """Pass on a candidate's result."""
        if result.error is not None or result.error_type is not None:
            result = masked_result(result, self._mask)
        self._call(self.display.told, masked_candidate(candidate, self._mask), result, state)

    def message(self, text: str) -> None:
        """Pass on a line of text."""
        self._call(self.display.message, self._mask.text(text))

    def __enter__(self) -> HarmlessProgress:
        self._call(self.display.__enter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(self.display.__exit__, kind, error, traceback)

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except (Exception, SystemExit) as error:  # rich exits where a pipe is closed
            if not self._warned and not isinstance(error, OSError):
                self._warned = True
                text = printable_lines(self._mask.text(traceback_of(error)))
                _log.warning("%s failed; the search goes on\n%s", type(self.display).__name__, text)
            return None


def make_progress(display: ProgressDisplay | bool) -> ProgressDisplay:
    """Return ``display`` itself; for ``True``, the display that suits standard output; for ``False``, a silent one."""
    if isinstance(display, ProgressDisplay):
        return display
    if not display:
        return SilentProgress()
    return LiveProgress() if _is_terminal() else PlainProgress()


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError, OSError):
        return False  # there is none, it is closed, or it is gone


def _print(text: str) -> None:
    """Print, or don't where standard output can't be written or doesn't have the characters."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError:
        with suppress(OSError, ValueError):
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
    except (OSError, ValueError, RuntimeError):
        settle_output()  # RuntimeError: a signal came while something was being printed, and its handler prints


def _shown(text: str) -> str:
    return printable_lines(bounded(text, MAX_MESSAGE))


def render(state: SearchState) -> Group:
    """The live display as a rich renderable."""
    head = Table.grid(padding=(0, 2))
    head.add_row("best", Text(printable(state.describe_best()), style="bold green"))
    counts = f"{state.completed} completed  {state.stopped} stopped  {state.failed} failed  {state.answered} duplicate"
    head.add_row("candidates", counts)
    left = state.seconds_left()
    spent = f"{state.epochs} epochs  {_duration(state.elapsed)} spent"
    head.add_row("time", f"{spent}  {'about ' + _duration(left) + ' left' if left is not None else ''}")
    for name, limit in state.limits.items():
        done = {"candidates": state.told, "epochs": state.epochs, "seconds": state.elapsed}[name]
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=limit, completed=min(done, limit), width=32), f"{done:.0f} of {limit:.0f} {name}")
        head.add_row("budget", bar)
    slots = Table(box=None, padding=(0, 2), show_header=bool(state.running))
    for title in ("slot", "candidate", "epoch"):
        slots.add_column(title, justify="right")
    for slot, running in sorted(state.running.items()):
        of = f"/{running.epochs}" if running.epochs else ""
        more = f" (+{running.others})" if running.others else ""
        slots.add_row(str(slot), f"{running.candidate}{more}", f"{running.epoch}{of}")
    return Group(head, slots)


def _dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
