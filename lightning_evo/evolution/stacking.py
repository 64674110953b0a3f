"""Candidates that train together: those that differ only in numbers which leave the structure as it is, or a swarm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from lightning.pytorch import Callback

from lightning_evo.algorithms import Algorithm
from lightning_evo.algorithms.swarm_optimization import is_numeric
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.evolution.errors import SearchError
from lightning_evo.evolution.settings import Budget, Workers
from lightning_evo.execution import read_result
from lightning_evo.genome import FAILED, Candidate, Result, SearchSpace
from lightning_evo.genome.genes import identity
from lightning_evo.genome.links import Link, followers
from lightning_evo.training import Trainable
from lightning_evo.training.structure import StructureComparison
from lightning_evo.utils.imports import import_by_name

__all__ = [
    "ALONE",
    "AUTO",
    "Grouping",
    "StackableGenes",
    "UncomparedGenes",
    "check_stacking",
    "default_averaging",
    "fixed_genes",
    "member_results",
    "stacks",
]

ALONE = "alone"
"""What stands as the lowering of a candidate that was to train in a stack and had to train by itself."""

AUTO = 16
"""How many candidates ``workers.stack: auto`` asks for per free slot: above that small networks gain little more, and a
steady-state algorithm would breed ever more of them from what was known before."""


@dataclass(frozen=True)
class StackableGenes:
    """For each gene why it must be the same in a stack, or ``""``: found out once, kept in the archive's meta values."""

    key: ClassVar[str] = "stackable"

    reasons: Mapping[str, str]

    def to_dict(self) -> dict[str, str]:
        """As JSON: the reasons."""
        return dict(self.reasons)

    @classmethod
    def from_dict(cls, record: Mapping[str, str]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(record)


class UncomparedGenes(StackableGenes):
    """For some genes why optimizers could not be compared while :class:`StackableGenes` were found out."""

    key = "uncompared"


def stacks(algorithm: Algorithm, workers: Workers) -> bool:
    """Whether candidates of a search may train together."""
    return workers.stack is not None or algorithm.swarm_size is not None


def check_stacking(
    algorithm: Algorithm,
    workers: Workers,
    budget: Budget,
    kinds: Sequence[type[SearchCallback]],
    callbacks: Sequence[Callback],
    trainable: Trainable,
) -> None:
    """Raise :class:`SearchError` if a search that stacks candidates can't.

    Args:
        algorithm: The search's.
        workers: Where candidates train.
        budget: When the search ends.
        kinds: The kinds of callbacks that take part in the search.
        callbacks: Those of its own section.
        trainable: What is evolved.
    """
    name = type(algorithm).__name__
    size = algorithm.swarm_size
    what = f"evolution.workers.stack: {workers.stack}" if size is None else f"evolution.algorithm: {name}"
    if not trainable.trains_modules:
        raise SearchError(f"{what} trains several candidates as one LightningModule, but a function is evolved")
    if trainable.alone:
        raise SearchError(f"{what} trains several candidates in one Trainer, but {trainable.alone}")
    if algorithm.continues:
        raise SearchError(f"{what}: candidates of {name} continue each other one by one; leave workers.stack out")
    if size is not None and workers.devices_per_candidate > 1:
        raise SearchError(
            f"{what} trains a swarm on one device, not on devices_per_candidate {workers.devices_per_candidate}"
        )
    if size is not None and budget.candidates is not None and budget.candidates < size:
        raise SearchError(
            f"evolution.budget.candidates: {budget.candidates} is less than one swarm of {name}, which has {size} particles"
        )
    for kind in kinds:
        if not kind.works_in_stacks:
            raise SearchError(
                f"evolution.callbacks: {kind.__name__} needs a Trainer for each candidate, but {what} trains several in "
                "one; leave one of the two out"
            )
    largest = size or (AUTO if workers.stack == "auto" else workers.stack)
    assert isinstance(largest, int)
    for i, callback in enumerate(callbacks):
        if isinstance(callback, SearchCallback):
            try:
                callback.check_stack(largest)
            except ValueError as error:
                raise SearchError(f"evolution.callbacks[{i}].{error}") from None


def default_averaging(algorithm: Algorithm, kinds: Sequence[type[SearchCallback]]) -> SearchCallback | None:
    """The algorithm's own callback that averages the particles of a swarm, where the user names none that does."""
    asked = algorithm.swarm_callback
    if asked is None or any(kind.averages_weights for kind in kinds):
        return None
    callback: SearchCallback = import_by_name(asked["class_path"])(**asked["init_args"])
    return callback


def fixed_genes(
    space: SearchSpace,
    comparison: StructureComparison,
    links: Sequence[Link] = (),
    sections: Sequence[str] = Trainable.stacked_sections,
) -> dict[str, str]:
    """For each gene why candidates of one stack must have the same value of it; empty text where they needn't.

    Args:
        space: The genes.
        comparison: What networks that differ by nothing but one gene's extremes were found to differ in.
        links: What follows other values.
        sections: The sections of the config in which members may differ.
    """
    reasons = {
        path: _shared(path, links, sections)
        or ("" if is_numeric(gene) else f"is a {type(gene).__name__}, not a number")
        for path, gene in space.items()
    }
    for path in [path for path, reason in reasons.items() if not reason]:
        if path in comparison.structural:
            reasons[path] = f"changes the structure: {comparison.structural[path]}"
        elif path in comparison.unbuilt:
            reasons[path] = f"could not be built to be compared: {comparison.unbuilt[path]}"
    return reasons


def _shared(path: str, links: Sequence[Link], sections: Sequence[str]) -> str:
    """Why a gene can't differ within a stack wherever it lies, or what follows it."""
    for changed in (path, *followers(path, links)):
        section, dot, _ = changed.partition(".")
        if section in sections:
            continue
        if not dot:  # of a function's genome, where a name may mean anything
            return f"isn't named {sections[0]}.NAME, so it may concern the data, which a stack shares"
        what = f"belongs to {section}" if changed == path else f"is followed by {changed}, which belongs to {section}"
        return f"{what}, which a stack shares"
    return ""


@dataclass(frozen=True)
class Grouping:
    """How candidates are put together.

    Args:
        reasons: Config path -> why candidates of one stack must have the same value, from :func:`fixed_genes`; ``None``
            where nothing is stacked.
        limit: The largest stack: ``workers.stack``.
        swarm: Gives the number of the swarm a candidate belongs to.

    >>> from lightning_evo.genome import Genome
    >>> grouping = Grouping({"model.width": "changes the structure", "model.lr": ""}, limit=2)
    >>> widths, rates = [8, 8, 16, 8], [0.1, 0.2, 0.1, 0.3]
    >>> genomes = [Genome({"model.width": width, "model.lr": lr}) for width, lr in zip(widths, rates)]
    >>> [[c.id for c in group] for group in grouping.split([Candidate(i, each) for i, each in enumerate(genomes)])]
    [[0, 1], [2], [3]]
    """

    reasons: Mapping[str, str] | None = None
    limit: int | Literal["auto"] | None = None
    swarm: Callable[[Candidate], int | None] = field(default=lambda candidate: None)

    @property
    def capacity(self) -> int:
        """How many candidates a free slot may be given at once: 1 where no gene may differ within a stack."""
        if self.limit is None or not self.free:
            return 1
        return AUTO if self.limit == "auto" else self.limit

    @property
    def free(self) -> frozenset[str] | None:
        """The genes that may differ within a stack; ``None`` where nothing is stacked."""
        return None if self.reasons is None else frozenset(path for path, reason in self.reasons.items() if not reason)

    @property
    def stacks(self) -> bool:
        """Whether candidates are ever put together."""
        return self.reasons is not None

    def split(self, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
        """The stacks that candidates make, in the order of their first ones; a swarm is one, whatever its size."""
        swarms: dict[tuple[int | None, str], list[list[Candidate]]] = {}
        found: list[list[Candidate]] = []
        for candidate in candidates:
            swarm = self.swarm(candidate)
            own = swarms.setdefault((swarm, "" if swarm is not None else self._alike(candidate)), [])
            if not own or (swarm is None and len(own[-1]) >= self.capacity):
                own.append([])
                found.append(own[-1])
            own[-1].append(candidate)
        return found

    def _alike(self, candidate: Candidate) -> str:
        """A text that is equal for candidates which may train in one stack."""
        if self.capacity == 1:
            return str(candidate.id)
        fixed = {path: value for path, value in candidate.genome.items() if (self.reasons or {}).get(path, "unknown")}
        # Which genes are active may follow from a gene that may differ.
        return identity([fixed, sorted(candidate.genome)])


def member_results(
    members: Sequence[Candidate], directory: Callable[[Candidate], Path], result: Result, swarm: int | None
) -> list[tuple[Candidate, Result]]:
    """The results of members of a stack that has ended; those missing are to be trained one by one.

    Particles of a swarm are not, as they make sense only together; nor are those of a stack that took longer than its
    members may take together. They have failed as their stack has.

    Args:
        members: Those that had no result when the stack began.
        directory: Gives each one's directory, where it has left its result.
        result: The stack's own: where it ran, how often it was started, and why it failed.
        swarm: The number of the swarm they are, if one.
    """
    left = ((candidate, read_result(directory(candidate))) for candidate in members)
    found = {
        candidate.id: replace(own, slot=result.slot, attempts=result.attempts)
        for candidate, own in left
        if own is not None and not own.fatal
    }
    if swarm is not None or result.error_type == "TimeLimit":
        lost = RuntimeError("its stack left no result of it")
        failed = result if result.status == FAILED else Result.failure(lost, started=result.started, ended=result.ended)
        found = {**{candidate.id: failed for candidate in members}, **found}
    return [(candidate, found[candidate.id]) for candidate in members if candidate.id in found]
