"""The contract between a search and its callbacks: what they may know, what they declare, and what they give back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule
from torch import Tensor

if TYPE_CHECKING:
    from lightning_evo.functional.growth.steps import Growth
    from lightning_evo.functional.optimizers import OptimizerSettings
    from lightning_evo.genome import Objective, Segment

__all__ = ["ExportedStructure", "Inherited", "SearchCallback", "SearchContext", "StackedModule", "callbacks_that"]


@dataclass(frozen=True)
class Inherited:
    """The checkpoint that a candidate starts from.

    Args:
        candidate: Id of the ancestor whose checkpoint it is.
        checkpoint: Absolute path of a Lightning checkpoint; it may have vanished by the time it is read.
        asked: The id recorded as ``Candidate.inherits``.
        why: Why ``candidate`` isn't ``asked``; empty if it is.
        trusted: Whether it may be unpickled, which runs code that it holds: it is the user's own, or the user said so.
        digest: The hash of what is in it, which whoever reads it compares; empty where none is known.
    """

    candidate: int
    checkpoint: str
    asked: int
    why: str = ""
    trusted: bool = False
    digest: str = ""


@dataclass(frozen=True)
class SearchContext:
    """The context of a candidate's callbacks: what they may know about the search.

    Args:
        candidate: Its id.
        seed: Its seed.
        objectives: What is optimized.
        fitness_epoch: At which epoch the fitness is read: ``best`` or ``last``.
        directory: Its own directory.
        shared_results: Path of the file of results so far, which grows while others end; ``None`` where nobody writes one.
        features: Its genome as numbers.
        parent: The checkpoint it starts from, if any.
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
    shared_results: str | None = None
    features: tuple[float, ...] = ()
    parent: Inherited | None = None
    segment: Segment | None = None
    exchange: str | None = None
    ancestry: str = ""
    genes: Mapping[str, Any] = field(default_factory=dict)
    search_seed: int = 0


@dataclass(frozen=True)
class ExportedStructure:
    """What was written of a network whose structure isn't the one of its config.

    Args:
        files: The files written, beside the config.
        message: How to open them, in one line.
        model: The config's ``model`` section (``class_path`` and ``init_args``) that builds the network as it is; ``None``
            where the class's arguments can't express it.
    """

    files: tuple[Path, ...]
    message: str
    model: Mapping[str, Any] | None = None


@runtime_checkable
class StackedModule(Protocol):
    """Several candidates trained as one LightningModule: what a callback that works in stacks meets as ``pl_module``."""

    @property
    def particles(self) -> Sequence[LightningModule]:
        """The candidates' modules, which share the stack's memory."""

    @property
    def metrics(self) -> Sequence[Mapping[str, float]]:
        """What each of them logged."""

    @property
    def lowering(self) -> str:
        """How steps are computed."""

    @property
    def reason(self) -> str:
        """Why they are computed so."""

    def particle(self, index: int) -> LightningModule:
        """A copy of one as an ordinary module."""

    def particle_checkpoint(self, index: int, weights_only: bool = False) -> dict[str, Any]:
        """One as a plain Lightning checkpoint."""


class SearchCallback(Callback):
    """A callback that takes part in a search where there is one, and works alone in any Trainer where not.

    It crosses process borders by pickle before training, so its constructor keeps plain settings only.

    What it needs of a search and what it does to a training it declares by class attributes. The search, the training of a
    candidate and other callbacks ask for these, never for a class: a callback of your own that declares the same is treated
    the same.
    """

    needs_shared_results: bool = False
    """Whether the search is to write down results for running candidates (:attr:`SearchContext.shared_results`)."""
    needs_parent: bool = False
    """Whether children are to be given a parent's checkpoint (:attr:`SearchContext.parent`)."""
    averages_weights: bool = False
    """Whether it averages weights: candidates that train at the same time then have :attr:`SearchContext.exchange` and
    :attr:`SearchContext.ancestry`."""
    ends_trainings: bool = False
    """Whether it may end a training early, so that no other candidate can continue it."""
    fits_structures: bool = False
    """Whether it fits a parent's weights to a network of another structure, also where a training is continued."""
    changes_structure: bool = False
    """Whether it gives the network a structure that its config doesn't describe. Where that happens before training,
    ``setup`` does it; checkpoints of such networks are opened by :meth:`restore_structure` and :meth:`export_structure`."""
    fixed_structure: str = ""
    """Why the network's structure must not change while it works; empty if it may, or if it has a method
    ``on_structure_change``. Any Lightning callback may declare it."""
    works_in_stacks: bool = False
    """Whether it also serves a :class:`StackedModule` of several candidates at once."""
    comes_first: bool = False
    """Whether a training that the search adds it to must call it before all other callbacks."""
    restarts_in_segments: bool = False
    """Whether its saved state ends with a segment of a training, as what it measures is the segment's own. Any Lightning
    callback may declare it."""

    measures_cost: bool = False
    """Whether its attribute ``cost`` is what the training has cost so far, by name (``params``, ``seconds``, ...). Any
    Lightning callback may declare it."""

    def check_search(self, objectives: Sequence[Objective], epochs: int | None) -> None:
        """Raise ``ValueError`` if it can't take part in such a search.

        Args:
            objectives: What is optimized.
            epochs: The fewest epochs that a candidate may train, if known.
        """

    def check_stack(self, size: int) -> None:
        """Raise ``ValueError`` if it can't serve stacks of at most ``size`` candidates."""

    def join_search(self, context: SearchContext) -> None:
        """Take part in a search: called once, before ``fit``, in the process that trains the candidate."""

    @property
    def resume_from(self) -> str | None:
        """Path of the checkpoint that ``fit`` continues (``ckpt_path``); ``None``: the training begins."""
        return None

    @property
    def extra(self) -> Mapping[str, Any]:
        """Return what the archive remembers of this training, as JSON by name (``Result.extra``)."""
        return {}

    @property
    def predicted_fitness(self) -> tuple[float, ...] | None:
        """The fitness where this callback ended the training early and predicts it, one value per objective."""
        return None

    # -- between callbacks ---------------------------------------------------------------------------------------------

    def before_early_growth(self, pl_module: LightningModule) -> None:
        """The structure is about to be changed before ``fit`` starts; the module still is as its class built it."""

    def inherit_early(self, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> bool:
        """Take a parent's weights before ``fit`` starts, because another callback is about to change the structure.

        Args:
            pl_module: The child, which still has its parent's structure.
            checkpoint: The parent's.

        Returns:
            Whether it has; if so, :meth:`on_early_growth` is called for every change.
        """
        return False

    def on_early_growth(self, growth: Growth, before: Mapping[str, Tensor], pl_module: LightningModule) -> None:
        """The structure was changed before ``fit`` started, after :meth:`inherit_early`.

        Args:
            growth: The step.
            before: The module's ``state_dict(keep_vars=True)`` before it.
            pl_module: The module after it.
        """

    def on_settings_change(self, settings: OptimizerSettings) -> None:
        """Another callback has changed the settings of the optimizers and schedulers, which are these from now on."""

    # -- of checkpoints whose structure it changed ---------------------------------------------------------------------

    @classmethod
    def has_changed_structure(cls, checkpoint: Mapping[str, Any]) -> bool:
        """Whether this kind of callback had changed the network of a checkpoint, which isn't trusted."""
        return False

    @classmethod
    def restore_structure(cls, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> bool:
        """Give a module, as its class builds it, the structure of a checkpoint's network.

        Returns:
            Whether this kind of callback had changed the checkpoint's network.
        """
        return False

    @classmethod
    def export_structure(cls, checkpoint: Path, to: Path) -> ExportedStructure | None:
        """Write a checkpoint, trusted, as ``model.ckpt`` with whatever else is needed to open it.

        Returns:
            What was written; ``None`` where this kind of callback had not changed the checkpoint's network.
        """
        return None


def callbacks_that(declare: str) -> list[type[SearchCallback]]:
    """The kinds of callbacks for which a declaration of :class:`SearchCallback` is true.

    Args:
        declare: The attribute, such as ``changes_structure``.

    Returns:
        Those that this package offers and those that are imported, by name.

    >>> "SwarmAveraging" in [kind.__name__ for kind in callbacks_that("averages_weights")]
    True
    """
    face = import_module(__package__)
    for name in face.__all__:
        getattr(face, name)  # imports it
    found = (kind for kind in _below(SearchCallback) if getattr(kind, declare))
    return sorted(found, key=lambda kind: (kind.__name__, kind.__module__))


def _below(kind: type[SearchCallback]) -> Iterator[type[SearchCallback]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)
