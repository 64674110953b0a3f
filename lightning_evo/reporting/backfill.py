"""Backfill: a search that has ended, reported from its archive as if it were running."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from lightning_evo.archive import Archive, ArchiveError, read_space
from lightning_evo.archive.meta import FinalOutcome, SearchDescription, read_meta
from lightning_evo.genome import COMPLETED
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, Reporter, SearchInfo

__all__ = ["backfill"]

DEFAULT_POPULATION = 16
"""Population size of an algorithm that has no ``population_size``."""


def backfill(directory: Path, reporter: Reporter, notify: Callable[[str], None], trust: bool = False) -> None:
    """Pass everything in an archive to a reporter, from start to finish.

    An archive doesn't record which candidates were in the population at what time. The reporter receives the population
    of an algorithm that always replaces the oldest: the latest completed candidates, up to the population size.

    Args:
        directory: The directory of a search that isn't running.
        reporter: The reporter, after its ``check``.
        notify: Shows a line to the user.
        trust: Whether to import whatever genes the archive names, though somebody else ran the search.

    Raises:
        ArchiveError: If the archive can't be read or holds no search.
    """
    with Archive(directory) as archive:
        meta = archive.meta
        described = read_meta(meta, SearchDescription)
        if described is None:
            raise ArchiveError(f"{directory}: the archive has no description of the search")
        algorithm = described.algorithm
        search = SearchInfo(
            name=archive.run,
            location=directory,
            directory=archive.directory,
            space=read_space(archive, trust),
            objectives=tuple(archive.objectives),
            algorithm=algorithm["class_path"].rpartition(".")[2],
            description=described.to_dict(),
            seed=meta["seed"],
            limits={},
            slots=1 + max((row.get("slot") or 0 for row in archive.candidates()), default=0),
            config=described.config,
            resumed=True,
            notify=notify,
        )
        state = SearchState(search.objectives, search.limits, elapsed=float(meta.get("elapsed", 0.0)))
        size = algorithm["init_args"].get("population_size") or DEFAULT_POPULATION
        latest: deque[int] = deque(maxlen=int(size))
        reporter.start(search)
        for candidate, result in archive.events():
            if result is None:
                state.asked += 1
                reporter.asked(candidate)
                continue
            if result.status == COMPLETED:
                latest.append(candidate.id)
            state.add_result(candidate, result)
            state.population = tuple(latest)
            reporter.told(candidate, result, state)
        outcome: Outcome = "finished" if FinalOutcome.key in meta or state.asked == state.told else "interrupted"
        reporter.finish(state, outcome)
