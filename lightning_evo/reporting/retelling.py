"""How does a reporter learn of a search that is over? It is told what the archive holds, as if it happened now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from lightning_evo.archive import Archive, ArchiveError, read_space
from lightning_evo.genome import COMPLETED
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import Outcome, Reporter, SearchInfo

__all__ = ["retell"]

USUAL_POPULATION = 16


def retell(directory: Path, reporter: Reporter, say: Callable[[str], None]) -> None:
    """Tell a reporter everything that an archive holds, from the beginning to the end.

    An archive doesn't say who was in the population when. Told is what an algorithm that replaces the oldest would have:
    the last completed candidates, as many as the population is large.

    Args:
        directory: Of a search that doesn't run now.
        reporter: Whom to tell, after its ``check``.
        say: Shows a line to the user.

    Raises:
        ArchiveError: If there is no search to tell of, or it can't be read.
    """
    with Archive(directory) as archive:
        meta = archive.meta
        if "search" not in meta:
            raise ArchiveError(f"{directory}: the archive doesn't say what was searched")
        algorithm = meta["search"]["evolution"]["algorithm"]
        search = SearchInfo(
            name=archive.run,
            location=directory,
            directory=archive.directory,
            space=read_space(archive),
            objectives=tuple(archive.objectives),
            algorithm=algorithm["class_path"].rpartition(".")[2],
            description=meta["search"],
            seed=meta["seed"],
            limits={},
            slots=1 + max((row.get("slot") or 0 for row in archive.candidates()), default=0),
            config=meta["search"].get("config"),
            resumed=True,
            say=say,
        )
        state = SearchState(search.objectives, search.limits, elapsed=float(meta.get("elapsed", 0.0)))
        size = algorithm["init_args"].get("population_size") or USUAL_POPULATION
        latest: deque[int] = deque(maxlen=int(size))
        reporter.start(search)
        for candidate, result in archive.events():
            if result is None:
                state.asked += 1
                reporter.asked(candidate)
                continue
            if result.status == COMPLETED:
                latest.append(candidate.id)
            state.account(candidate, result)
            state.population = tuple(latest)
            reporter.told(candidate, result, state)
        outcome: Outcome = "finished" if "final" in meta or state.asked == state.told else "interrupted"
        reporter.finish(state, outcome)
