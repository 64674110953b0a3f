"""When do others learn of a result? As soon as it may guide them without making the search depend on who ends first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_evo.algorithms import Algorithm
from lightning_evo.archive.shared_results import KNOWN, KnownResult, KnownWriter
from lightning_evo.genome import Candidate, Objective, Result, SearchSpace

__all__ = ["Knowledge"]


class Knowledge:
    """Writes down results where running candidates follow them, each when the algorithm's order allows it.

    In a synchronous algorithm a generation's results become known when it ends, by id: so a candidate is stopped early or
    not whatever the number of slots. Elsewhere at once.

    Args:
        directory: The run's directory.
        algorithm: Says which results may be known (:attr:`Algorithm.visible_before
            <lightning_evo.algorithms.Algorithm.visible_before>`).
        space: Describes genomes as numbers.
        objectives: What is optimised.
    """

    def __init__(
        self, directory: Path, algorithm: Algorithm, space: SearchSpace, objectives: Sequence[Objective]
    ) -> None:
        self.path = directory / KNOWN
        self._algorithm, self._space, self._objectives = algorithm, space, objectives
        self._waiting: dict[int, KnownResult] = {}
        self._writer = KnownWriter(self.path)

    def features(self, candidate: Candidate) -> tuple[float, ...]:
        """The candidate's genome as numbers."""
        return tuple(self._space.features(candidate.genome))

    def told(self, candidate: Candidate, result: Result) -> None:
        """Take in a result that the algorithm was told; write down those that may be known by now."""
        known = KnownResult.of(candidate, result, self._objectives, self.features(candidate))
        if known is not None:
            self._waiting[known.id] = known
        before = self._algorithm.visible_before
        ready = [id for id in self._waiting if before is None or id < before]
        self._writer.add([self._waiting.pop(id) for id in sorted(ready)])
