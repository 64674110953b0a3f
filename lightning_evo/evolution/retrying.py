"""Failed candidates that are trained again: what made them fail has been mended, and their failures are not to stand."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.archive.table import PENDING
from lightning_evo.evolution.checkpoints import CANDIDATES
from lightning_evo.evolution.controller import AnswerRecord, Controller, answered_by
from lightning_evo.evolution.errors import SearchError, SearchInterrupted
from lightning_evo.evolution.search import Search
from lightning_evo.execution import find_result
from lightning_evo.genome import FAILED, Candidate, Result
from lightning_evo.utils.files import OutsideError, inside, remove_tree

__all__ = ["Retrial", "plan_retrial"]


def plan_retrial(search: Search, writer: ArchiveWriter, archive: Archive) -> int:
    """Have all candidates that failed trained again; returns how many there are.

    What an earlier training left in their directories goes first: whatever is there afterwards is of the new one. Only
    those that a killed search was training again, and that ended well, keep what they left, which is then recorded.
    """
    failed, again = [row["id"] for row in archive.candidates(status=FAILED)], set(archive.waiting())
    # Those that had ended as the search was stopped, and aren't recorded: without what they left they are trained anyway.
    ended = [row["id"] for row in archive.candidates(status=PENDING) if _left(search.directory, row["id"]) == FAILED]
    for id in (*failed, *ended):
        if id in again and _left(search.directory, id) not in (None, FAILED):
            continue
        with suppress(OutsideError):
            remove_tree(inside(search.directory, f"{CANDIDATES}/{id:06d}"))
    writer.retry(failed)
    return len(failed) + len(ended)


def _left(directory: Path, id: int) -> str | None:
    """The status of the result in a candidate's directory."""
    result = find_result(directory / CANDIDATES / f"{id:06d}")[0]
    return None if result is None else result.status


class Retrial(Controller):
    """Trains candidates again, with the genomes, seeds and parents they had; the algorithm takes no part in it.

    It comes before the algorithm is brought to where the archive says it was: that is then told the new results in the
    places of the failures, as if these had never been. What was bred since stays as it is. Results of others aren't shared
    with these candidates, as the order in which they came is past: so they are trained to their ends.
    """

    def retry(self) -> None:
        """Train all that wait, and record their results.

        Raises:
            SearchError: If the machine fails (full disk), or nothing has ever finished and the first ones fail alike again.
            SearchInterrupted: If the user asked to stop; the same command goes on.
        """
        waiting = self.archive.waiting()
        if not waiting:
            return
        self.progress.message(f"trying {_count(len(waiting))} again")
        self._answers: dict[int, list[Candidate]] = {}
        self._ended = Counter[str]()
        fresh = []
        for candidate, result in self.archive.events():
            if result is None:
                self.state.asked += 1
                continue
            self._checkpoints.add(candidate, result)
            if candidate.id in waiting:
                self._unfinished[candidate.id] = candidate
                answer = result.entry(AnswerRecord)
                if answer is None:
                    fresh.append(candidate)
                else:
                    self._answers.setdefault(answer.original, []).append(candidate)
            else:
                self.state.add_result(candidate, result)
        self._adopt(fresh)
        for original in [id for id in self._answers if id not in self._unfinished]:
            self._answer(original, self._result(original))
        groups = self._groups([candidate for candidate in fresh if candidate.id in self._unfinished])
        while groups or self._running:
            while groups and len(self._running) < self.executor.slots and not self.interrupts.stopping:
                self._submit(groups.pop(0))
            if not self._running:
                break
            self._wait()
            if self.interrupts.now:
                break
        self._look(force=True)
        done = ", ".join(f"{count} {status}" for status, count in sorted(self._ended.items()))
        self.progress.message(f"tried again: {done or 'none'}")
        if self.interrupts.stopping:
            self.executor.shutdown(cancel=self.interrupts.now)
            raise SearchInterrupted(f"stopped; the same command goes on in {self.search.directory}")

    def _groups(self, candidates: list[Candidate]) -> list[list[Candidate]]:
        """What trains together: a candidate by itself, but a swarm whole."""
        size = self.algorithm.swarm_size
        if size is None:
            return [[candidate] for candidate in candidates]
        firsts = sorted({candidate.id // size * size for candidate in candidates})
        return [[self.archive.candidate(id) for id in range(first, first + size)] for first in firsts]

    def _record(self, candidate: Candidate, result: Result, adopted: bool = False) -> None:
        result = self._as_recorded(candidate, result, adopted)
        self._replace(candidate, result)
        if not self.search.inherits:  # otherwise the algorithm knows which are needed, once it is up to date
            self._checkpoints.add(candidate, result)
            self._drop_checkpoints()
        self._tell_uncounted(result)
        self._answer(candidate.id, result)

    def _answer(self, original: int, result: Result) -> None:
        for duplicate in self._answers.pop(original, []):
            self._replace(duplicate, answered_by(result, original))

    def _replace(self, candidate: Candidate, result: Result) -> None:
        self.writer.replace_result(candidate.id, result)
        del self._unfinished[candidate.id]
        self.state.add_result(candidate, result)
        self._ended[result.status] += 1

    def _result(self, id: int) -> Result:
        result = self.archive.result(id)
        if result is None:
            raise SearchError(f"{self.search.directory}: candidate {id} has answered others and has no result")
        return result


def _count(number: int) -> str:
    return f"{number} failed candidate" + ("s" if number != 1 else "")
