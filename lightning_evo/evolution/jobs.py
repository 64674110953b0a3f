"""What is run for a candidate, or for several at once? A job, with what their callbacks may know of the search."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning.pytorch import Callback

from lightning_evo.archive import Archive
from lightning_evo.callbacks.records import InheritanceRecord
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.evolution.checkpoints import Checkpoints
from lightning_evo.evolution.shared_results import Knowledge
from lightning_evo.evolution.stacking import Grouping
from lightning_evo.execution import Job
from lightning_evo.execution.results import write_result
from lightning_evo.genome import Candidate, derive_seed
from lightning_evo.training import TrainingRequest
from lightning_evo.training.trainable import StackMember
from lightning_evo.utils.imports import import_by_name

if TYPE_CHECKING:
    from lightning_evo.evolution.evolution import Evolution

__all__ = ["Jobs"]

CANDIDATES, STACKS, EXCHANGE = "candidates", "stacks", "exchange"


class Jobs:
    """Makes jobs of candidates.

    Args:
        evolution: The search.
        archive: What is known of earlier candidates.
        checkpoints: Those on disk.
        knowledge: What others may know of results, where some callback follows them.
        grouping: Which candidates train together.
        say: Tells the user something.
    """

    def __init__(
        self,
        evolution: Evolution,
        archive: Archive,
        checkpoints: Checkpoints,
        knowledge: Knowledge | None,
        grouping: Grouping,
        say: Callable[[str], None],
    ) -> None:
        self.evolution, self.archive, self.grouping = evolution, archive, grouping
        self._checkpoints, self._knowledge, self._say = checkpoints, knowledge, say
        self._roots: dict[int, int] = {}
        self._orphaned = False

    def directory(self, candidate: Candidate) -> Path:
        """A candidate's own directory."""
        return self.evolution.directory / CANDIDATES / f"{candidate.id:06d}"

    def place(self, group: Sequence[Candidate]) -> Path:
        """The directory of the job that trains some candidates."""
        if len(group) == 1:
            return self.directory(group[0])
        return self.evolution.directory / STACKS / f"{group[0].id:06d}"

    def alone(self, candidate: Candidate) -> Job:
        """Train one candidate by itself."""
        directory = self.directory(candidate)
        # Whatever an interrupted attempt left would mix with the new one.
        shutil.rmtree(directory, ignore_errors=True)
        evolution = self.evolution
        request = TrainingRequest(
            directory=str(directory),
            objectives=evolution.objectives,
            fitness_epoch=evolution.fitness_epoch,
            save_checkpoint=self._save_checkpoint,
            devices=evolution.workers.devices_per_candidate,
            callbacks=(*self._segment_callbacks(candidate), *evolution.callbacks),
            context=self._context(candidate, directory),
            # Where others are stacked, whether a candidate is should make no difference to what it sees.
            data_seed=self._data_seed if self.grouping.stacks else None,
        )
        task = evolution.trainable.task(candidate, request)
        return Job(
            id=candidate.id,
            function=task.function,
            arguments=task.arguments,
            directory=str(directory),
            time_limit=evolution.workers.time_limit_seconds,
        )

    def together(self, candidates: Sequence[Candidate], finished: Collection[int] = ()) -> Job:
        """Train several candidates as one stack, each of which leaves its own result in its own directory.

        Args:
            candidates: The members.
            finished: Ids of those that have their results already, and only train along with their swarm.
        """
        evolution, first = self.evolution, candidates[0]
        directory = self.place(candidates)
        for stale in (directory, *(self.directory(each) for each in candidates if each.id not in finished)):
            shutil.rmtree(stale, ignore_errors=True)
        request = TrainingRequest(
            directory=str(directory),
            objectives=evolution.objectives,
            fitness_epoch=evolution.fitness_epoch,
            save_checkpoint=self._save_checkpoint,
            callbacks=evolution.callbacks,
            context=self._stack_context(first, directory),
            data_seed=self._data_seed,
        )
        members = [StackMember(each, str(self.directory(each)), each.id in finished) for each in candidates]
        is_swarm = evolution.algorithm.swarm(first) is not None
        task = evolution.trainable.stack_task(members, request, write_result, whole=is_swarm)
        limit = evolution.workers.time_limit_seconds
        return Job(
            id=first.id,
            function=task.function,
            arguments=task.arguments,
            directory=str(directory),
            time_limit=None if limit is None else limit * len(candidates),
        )

    def _segment_callbacks(self, candidate: Candidate) -> list[Callback]:
        """What trains a part of a training, where that is asked for."""
        return [] if candidate.segment is None else [import_by_name(self.evolution.algorithm.segment_callback)()]

    @property
    def _save_checkpoint(self) -> bool:
        return self.evolution.keep_checkpoints > 0 or self.evolution.inherits

    @property
    def _data_seed(self) -> int:
        return derive_seed(self.evolution.algorithm.seed, "data")

    def _context(self, candidate: Candidate, directory: Path) -> SearchContext:
        parent = self._parent(candidate)
        averages = self.evolution.averages
        return SearchContext(
            candidate=candidate.id,
            seed=candidate.seed,
            objectives=self.evolution.objectives,
            fitness_epoch=self.evolution.fitness_epoch,
            directory=str(directory),
            shared_results=None if self._knowledge is None else str(self._knowledge.path.absolute()),
            features=() if self._knowledge is None else self._knowledge.features(candidate),
            parent=parent,
            segment=candidate.segment,
            exchange=str((self.evolution.directory / EXCHANGE).absolute()) if averages else None,
            ancestry=self._ancestry(candidate, parent) if averages else "",
            genes=dict(candidate.genome),
            search_seed=self.evolution.algorithm.seed,
        )

    def _stack_context(self, first: Candidate, directory: Path) -> SearchContext:
        """Of a stack as a whole: what it draws must not depend on who is in it."""
        swarm = self.evolution.algorithm.swarm(first)
        of = "stack" if swarm is None else f"swarm {swarm}"
        return SearchContext(
            candidate=first.id,
            seed=derive_seed(self.evolution.algorithm.seed, of),
            objectives=self.evolution.objectives,
            fitness_epoch=self.evolution.fitness_epoch,
            directory=str(directory),
            ancestry=of,
            search_seed=self.evolution.algorithm.seed,
        )

    def _parent(self, candidate: Candidate) -> Inherited | None:
        parent = self._checkpoints.parent_of(candidate, self.archive.candidate)
        if parent is not None and parent.why and not self._orphaned:
            self._orphaned = True  # each such case is recorded with its candidate; once is enough to say it
            instead = f"from {parent.candidate}" if parent.checkpoint else "from scratch"
            self._say(f"{parent.why}: candidate {candidate.id} starts {instead} instead")
        return parent

    def _ancestry(self, candidate: Candidate, parent: Inherited | None) -> str:
        """The candidate whose initial weights this one's come from, by way of all it inherits from."""
        if parent is None or not parent.checkpoint:
            return str(candidate.id)
        line = [candidate.id]
        at: int | None = parent.candidate
        while at is not None:
            line.append(at)
            at = None if at in self._roots else self._inherited_from(at)
        root = self._roots.get(line[-1], line[-1])
        self._roots.update(dict.fromkeys(line, root))
        return str(root)

    def _inherited_from(self, id: int) -> int | None:
        result = self.archive.result(id)
        taken = None if result is None else result.entry(InheritanceRecord)
        # What a candidate really started from stands in its result: a checkpoint may have been gone.
        return self.archive.candidate(id).inherits if taken is None else taken.parent
