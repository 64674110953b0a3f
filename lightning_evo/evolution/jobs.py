"""The job of a candidate, or of several that train together, with what their callbacks may know of the search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm
from lightning_evo.archive import Archive
from lightning_evo.archive.shared_results import SHARED_RESULTS_FILE, SharedResult, SharedResultsWriter
from lightning_evo.callbacks.records import InheritanceRecord
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.evolution.checkpoints import CANDIDATES, Checkpoints
from lightning_evo.evolution.search import Search
from lightning_evo.evolution.stacking import Grouping
from lightning_evo.execution import Job
from lightning_evo.execution.results import write_result
from lightning_evo.genome import Candidate, Objective, Result, SearchSpace, derive_seed
from lightning_evo.training import TrainingRequest
from lightning_evo.training.trainable import StackMember
from lightning_evo.utils.files import remove_tree
from lightning_evo.utils.imports import import_by_name

__all__ = ["CANDIDATES", "Jobs", "SharedResults"]

STACKS, EXCHANGE = "stacks", "exchange"


class Jobs:
    """Makes jobs of candidates.

    Args:
        search: The search.
        archive: What is known of earlier candidates.
        checkpoints: Those on disk.
        shared: The results that candidates share, where some callback follows them.
        grouping: Which candidates train together.
        report: Shows a line to the user.
    """

    def __init__(
        self,
        search: Search,
        archive: Archive,
        checkpoints: Checkpoints,
        shared: SharedResults | None,
        grouping: Grouping,
        report: Callable[[str], None],
    ) -> None:
        self.search, self.archive, self.grouping = search, archive, grouping
        self._checkpoints, self._shared, self._report = checkpoints, shared, report
        self._roots: dict[int, int] = {}
        self._orphaned = False

    def directory(self, candidate: Candidate) -> Path:
        """A candidate's own directory."""
        return self.search.directory / CANDIDATES / f"{candidate.id:06d}"

    def directory_of(self, group: Sequence[Candidate]) -> Path:
        """The directory of the job that trains some candidates."""
        if len(group) == 1:
            return self.directory(group[0])
        return self.search.directory / STACKS / f"{group[0].id:06d}"

    def alone(self, candidate: Candidate) -> Job:
        """Train one candidate by itself."""
        directory = self.directory(candidate)
        # Whatever an interrupted attempt left would mix with the new one.
        remove_tree(directory)
        search = self.search
        request = TrainingRequest(
            directory=str(directory),
            objectives=search.objectives,
            fitness_epoch=search.fitness_epoch,
            save_checkpoint=self._save_checkpoint,
            devices=search.workers.devices_per_candidate,
            callbacks=(*self._segment_callbacks(candidate), *search.callbacks),
            context=self._context(candidate, directory),
            # Where others are stacked, whether a candidate is should make no difference to what it sees.
            data_seed=self._data_seed if self.grouping.stacks else None,
            chdir=search.workers.chdir,
        )
        task = search.trainable.task(candidate, request)
        return Job(
            id=candidate.id,
            function=task.function,
            arguments=task.arguments,
            directory=str(directory),
            time_limit=search.workers.time_limit_seconds,
            modules=task.modules,
        )

    def together(self, candidates: Sequence[Candidate], finished: Collection[int] = ()) -> Job:
        """Train several candidates as one stack, each of which leaves its own result in its own directory.

        Args:
            candidates: The members.
            finished: Ids of those that have their results already, and only train along with their swarm.
        """
        search, first = self.search, candidates[0]
        directory = self.directory_of(candidates)
        for stale in (directory, *(self.directory(each) for each in candidates if each.id not in finished)):
            remove_tree(stale)
        request = TrainingRequest(
            directory=str(directory),
            objectives=search.objectives,
            fitness_epoch=search.fitness_epoch,
            save_checkpoint=self._save_checkpoint,
            callbacks=search.callbacks,
            context=self._stack_context(first, directory),
            data_seed=self._data_seed,
            chdir=search.workers.chdir,
        )
        members = [StackMember(each, str(self.directory(each)), each.id in finished) for each in candidates]
        is_swarm = search.algorithm.swarm(first) is not None
        task = search.trainable.stack_task(members, request, write_result, whole=is_swarm)
        limit = search.workers.time_limit_seconds
        return Job(
            id=first.id,
            function=task.function,
            arguments=task.arguments,
            directory=str(directory),
            time_limit=None if limit is None else limit * len(candidates),
            modules=task.modules,
        )

    def _segment_callbacks(self, candidate: Candidate) -> list[Callback]:
        """What trains a part of a training, where that is asked for."""
        return [] if candidate.segment is None else [import_by_name(self.search.algorithm.segment_callback)()]

    @property
    def _save_checkpoint(self) -> bool:
        return self.search.keep_checkpoints > 0 or self.search.inherits

    @property
    def _data_seed(self) -> int:
        return derive_seed(self.search.algorithm.seed, "data")

    def _context(self, candidate: Candidate, directory: Path) -> SearchContext:
        parent = self._parent(candidate)
        averages = self.search.averages
        return SearchContext(
            candidate=candidate.id,
            seed=candidate.seed,
            objectives=self.search.objectives,
            fitness_epoch=self.search.fitness_epoch,
            directory=str(directory),
            shared_results=None if self._shared is None else str(self._shared.path.absolute()),
            features=() if self._shared is None else self._shared.features(candidate),
            parent=parent,
            segment=candidate.segment,
            exchange=str((self.search.directory / EXCHANGE).absolute()) if averages else None,
            ancestry=self._ancestry(candidate, parent) if averages else "",
            genes=dict(candidate.genome),
            search_seed=self.search.algorithm.seed,
        )

    def _stack_context(self, first: Candidate, directory: Path) -> SearchContext:
        """Of a stack as a whole: what it draws must not depend on its members."""
        swarm = self.search.algorithm.swarm(first)
        of = "stack" if swarm is None else f"swarm {swarm}"
        return SearchContext(
            candidate=first.id,
            seed=derive_seed(self.search.algorithm.seed, of),
            objectives=self.search.objectives,
            fitness_epoch=self.search.fitness_epoch,
            directory=str(directory),
            ancestry=of,
            search_seed=self.search.algorithm.seed,
        )

    def _parent(self, candidate: Candidate) -> Inherited | None:
        parent = self._checkpoints.parent_of(candidate, self.archive.candidate)
        if parent is not None and parent.why and not self._orphaned:
            self._orphaned = True  # each such case is recorded with its candidate; once is enough to say it
            instead = f"from {parent.candidate}" if parent.checkpoint else "from scratch"
            self._report(f"{parent.why}: candidate {candidate.id} starts {instead} instead")
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


class SharedResults:
    """The results that running candidates follow, each written down when the algorithm's order allows it.

    In a synchronous algorithm a generation's results become known when it ends, by id: so a candidate is stopped early or
    not whatever the number of slots. Elsewhere at once.

    Args:
        directory: The run's directory.
        algorithm: Says which results may be known (:attr:`Algorithm.visible_before
            <lightning_evo.algorithms.Algorithm.visible_before>`).
        space: Describes genomes as numbers.
        objectives: What is optimized.
    """

    def __init__(
        self, directory: Path, algorithm: Algorithm, space: SearchSpace, objectives: Sequence[Objective]
    ) -> None:
        self.path = directory / SHARED_RESULTS_FILE
        self._algorithm, self._space, self._objectives = algorithm, space, objectives
        self._waiting: dict[int, SharedResult] = {}
        self._writer = SharedResultsWriter(self.path)

    def features(self, candidate: Candidate) -> tuple[float, ...]:
        """The candidate's genome as numbers."""
        return tuple(self._space.features(candidate.genome))

    def told(self, candidate: Candidate, result: Result) -> None:
        """Take in a result that the algorithm was told; write down those that may be known by now."""
        known = SharedResult.of(candidate, result, self._objectives, self.features(candidate))
        if known is not None:
            self._waiting[known.id] = known
        before = self._algorithm.visible_before
        ready = [id for id in self._waiting if before is None or id < before]
        self._writer.add([self._waiting.pop(id) for id in sorted(ready)])
