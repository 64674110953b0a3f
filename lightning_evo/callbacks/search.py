"""What may a callback know of the search its candidate belongs to, and what does it give back? Plain data, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning.pytorch import Callback

from lightning_evo.genome import Objective, Segment

__all__ = ["Inherited", "SearchCallback", "SearchContext"]


@dataclass(frozen=True)
class Inherited:
    """Whose checkpoint a candidate starts from.

    Args:
        candidate: Id of the ancestor whose checkpoint it is.
        checkpoint: Absolute path of a Lightning checkpoint; it may have vanished by the time it is read.
        asked: The id recorded as ``Candidate.inherits``.
        why: Why ``candidate`` isn't ``asked``; empty if it is.
    """

    candidate: int
    checkpoint: str
    asked: int
    why: str = ""


@dataclass(frozen=True)
class SearchContext:
    """What a candidate's callbacks may know about the search.

    Args:
        candidate: Its id.
        seed: Its seed.
        objectives: What is optimised.
        fitness_epoch: At which epoch the fitness is read: ``best`` or ``last``.
        directory: Its own directory.
        known: Path of the file of results known so far, which grows while others end; ``None`` where nobody writes one.
        features: Its genome as numbers.
        parent: Whose checkpoint it starts from, if anybody's.
        segment: Which epochs it trains, where it isn't a whole training.
        exchange: Path of the directory through which candidates that train at the same time may average with each other;
            ``None`` where the candidate meets the others otherwise: it trains in one stack with them.
        ancestry: Equal for candidates whose weights have a common origin, which alone may be averaged: the id of the
            candidate that began the chain of inheritance, or the swarm's number.
        genes: Its genome, config path -> value; empty for a stack, whose members have their own.
        search_seed: The search's seed, the same for all candidates.
    """

    candidate: int
    seed: int
    objectives: tuple[Objective, ...]
    fitness_epoch: Literal["best", "last"] = "best"
    directory: str = "."
    known: str | None = None
    features: tuple[float, ...] = ()
    parent: Inherited | None = None
    segment: Segment | None = None
    exchange: str | None = None
    ancestry: str = ""
    genes: Mapping[str, Any] = field(default_factory=dict)
    search_seed: int = 0


class SearchCallback(Callback):
    """A callback that takes part in a search where there is one, and works alone in any Trainer where not.

    It crosses process borders by pickle before training, so its constructor keeps plain settings only.
    """

    needs_known_results: bool = False
    """Whether the search is to write down results as they become known (:attr:`SearchContext.known`)."""
    needs_parent: bool = False
    """Whether children are to be handed a parent's checkpoint (:attr:`SearchContext.parent`)."""
    works_in_stacks: bool = False
    """Whether it also serves a :class:`~lightning_evo.ParticleStack` of several candidates at once."""

    def check_search(self, objectives: Sequence[Objective], epochs: int | None) -> None:
        """Raise ``ValueError`` if it can't take part in such a search.

        Args:
            objectives: What is optimised.
            epochs: The fewest epochs that a candidate may train, if known.
        """

    def join_search(self, context: SearchContext) -> None:
        """Take part in a search: called once, before ``fit``, in the process that trains the candidate."""

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the archive is to remember of this training, as JSON by name (``Result.extra``)."""
        return {}

    @property
    def predicted_fitness(self) -> tuple[float, ...] | None:
        """The fitness where this callback ended the training early and predicts it, one value per objective."""
        return None
