"""The callback that starts a training from a parent's weights, also in a network that has grown."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import Enum
from pathlib import PurePath
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_evo.callbacks.growth.recipe import with_names
from lightning_evo.callbacks.records import InheritanceRecord
from lightning_evo.callbacks.search import SearchCallback, SearchContext
from lightning_evo.functional import Inheritance, Structure, inherit, inherit_optimizer, structure_of
from lightning_evo.functional.graph.channels import NewUnits
from lightning_evo.functional.growth.steps import Growth, inheritance_after
from lightning_evo.functional.inheritance.alignment import plain_names
from lightning_evo.functional.inheritance.family import Family, family_of, why_another_family
from lightning_evo.utils.checkpoints import DamagedCheckpoint, read_checkpoint

__all__ = ["CheckpointFitting", "WeightInheritance"]


class WeightInheritance(SearchCallback):
    """Start a training from a parent's weights.

    At the start of ``fit`` it reads the parent's checkpoint and copies its weights into the model, see
    :func:`~lightning_evo.functional.inherit`: common tensors are copied, and larger ones are filled so that the model
    computes the same function as its parent, as far as possible. In a search, the search chooses the checkpoint;
    otherwise it is ``checkpoint``. Only weights, buffers and, optionally, optimizer moments are inherited:
    hyperparameters, epoch and schedules are the model's own. A resumed run doesn't inherit again. The model's graph is
    stored in its checkpoints, to determine whether inheritance preserves the function (``inheritance["preserving"]``).

    Only networks of one family inherit: at least half of their layers must correspond, and where the parent's checkpoint
    comes from a training with this callback, both are of one class, or their backbones are. A network that comes with
    pretrained weights keeps them, unless the parent started from pretrained weights of the same shapes.

    A checkpoint that is missing, damaged, or doesn't match isn't an error: the model trains from scratch, with one
    warning, and :attr:`inheritance` records the reason.

    In population-based training, a member copies another's whole training state; if a gene has changed the structure,
    weights and moments are mapped by the same rules, and everything else continues.

    With DDP, rank 0 reads the checkpoint and all ranks inherit the same weights. Sharded strategies (FSDP, DeepSpeed
    stage 3) are not supported: they train from scratch, with a warning.

    Args:
        checkpoint: Path of the parent's Lightning checkpoint; in a search, the search's choice takes precedence.
        new_units: ``zero``: new units are fresh, with zero outgoing weights. ``net2wider``: copies of old units.
        spread: How unequally copies share the outgoing weights, from 0 (equally) to below 1.
        optimizer: Whether to also inherit the optimizer's moments: kept for copied weights, 0 for new slices.
        trusted: Whether to unpickle a checkpoint that contains more than tensors and plain data, which can run
            arbitrary code. Default: only if the search provided it, and trusts it.
        cross_architecture: Whether to inherit from another class of module or backbone as well, as far as layers
            correspond.

    Raises:
        ValueError: If ``new_units`` or ``spread`` is out of its range.

    >>> WeightInheritance("parent.ckpt", new_units="net2wider").inheritance
    {}
    """

    needs_parent = True
    fits_structures = True

    def __init__(
        self,
        checkpoint: str | None = None,
        new_units: NewUnits = "zero",
        spread: float = 0.0,
        optimizer: bool = False,
        trusted: bool | None = None,
        cross_architecture: bool = False,
    ) -> None:
        if new_units not in get_args(NewUnits):
            raise ValueError(f"new_units: {new_units!r} is not 'zero' or 'net2wider'")
        if not 0 <= spread < 1:
            raise ValueError(f"spread: {spread!r} is not in [0, 1)")
        self.checkpoint, self.new_units, self.spread = checkpoint, new_units, spread
        self.optimizer, self.trusted = optimizer, trusted
        self.cross_architecture = cross_architecture
        self._record: InheritanceRecord | None = None
        self._structure: dict[str, Any] = {}
        self._family: Family | None = None
        self._inherited_early: Inheritance | None = None
        self._context: SearchContext | None = None
        self._fitting: CheckpointFitting | None = None

    def should_inherit(self, name: str, pl_module: LightningModule) -> bool:
        """Whether a tensor, by its name in the model's state dict, may inherit; override to decide otherwise.

        >>> class Backbone(WeightInheritance):
        ...     def should_inherit(self, name, pl_module):
        ...         return name.startswith("backbone.")
        """
        return True

    def join_search(self, context: SearchContext) -> None:
        self._context = context

    @property
    def extra(self) -> Mapping[str, Any]:
        """What was inherited: ``{"inheritance": ...}``; nothing where there was no parent."""
        return {InheritanceRecord.key: self.inheritance} if self._record is not None else {}

    @property
    def inheritance(self) -> dict[str, Any]:
        """What was inherited, as JSON; empty where there was no parent."""
        return {} if self._record is None else self._record.to_dict()

    @property
    def _continues_training(self) -> bool:
        """Whether the candidate goes on with another one's training, with all its state."""
        return self._context is not None and self._context.segment is not None and self._context.segment.start > 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and self._continues_training:
            self._fitting = CheckpointFitting(pl_module, **self._arguments(pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._fitting is not None:
            self._fitting.checkpoint = checkpoint

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Here the optimizers exist, and under DDP all ranks have the same fresh weights. Weights are written in place,
        # so that optimizers and wrappers keep hold of them.
        self._note_structure(pl_module)
        self._note_family(pl_module)
        parent = self._context.parent if self._context is not None else None
        if self._fitting is not None:
            self._record_restructuring(self._fitting, trainer)
            return
        path = parent.checkpoint if parent is not None else self.checkpoint
        if path is None or trainer.ckpt_path is not None or self._record is not None:
            return
        self._record = InheritanceRecord(
            parent=parent.candidate if parent is not None else None,
            asked=parent.asked if parent is not None else None,
            why=parent.why if parent is not None else "",
        )
        loaded, problem = trainer.strategy.broadcast(self._load(path) if trainer.is_global_zero else ({}, ""))
        if not problem:
            problem = self._inherit(loaded, trainer, pl_module)
        if problem:
            self._record = replace(self._record, parent=None, why=problem, fresh=list(pl_module.state_dict()))
            start = "keeping its own pretrained weights" if problem.startswith(_PRETRAINED) else "training from scratch"
            rank_zero_warn(f"WeightInheritance: {start}: {problem}")

    def before_early_growth(self, pl_module: LightningModule) -> None:
        # New normalizations have statistics as if they had seen data.
        self._note_family(pl_module)

    def inherit_early(self, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> bool:
        """Inherit already before ``fit`` starts, from the search's parent, whose structure the model still has.

        A callback that changes the structure calls it before it takes a child's own steps, in all processes: a step on the
        parent's weights preserves what they compute, which can't be had of weights that come afterwards.

        Args:
            pl_module: The child, as its parent was.
            checkpoint: The parent's.

        Returns:
            Whether it has inherited; if not, it's tried again at the start of ``fit``.
        """
        self._note_family(pl_module)
        loaded, problem = self._parts(checkpoint, "")
        problem = problem or self._refusal(loaded, pl_module)
        with suppress(ValueError):  # lazy or sharded parameters
            done = None if problem else self._written(pl_module, loaded)
            self._inherited_early = done if done is not None and done.maps else None
        return self._inherited_early is not None

    def on_early_growth(self, growth: Growth, before: Mapping[str, Tensor], pl_module: LightningModule) -> None:
        """Note a step that was taken after :meth:`inherit_early`.

        Args:
            growth: The step.
            before: The model's ``state_dict(keep_vars=True)`` before it.
            pl_module: The model after it.
        """
        if self._inherited_early is not None:
            self._inherited_early = inheritance_after(
                self._inherited_early, growth, before, pl_module.state_dict(keep_vars=True)
            )

    def on_structure_change(self, trainer: Trainer, pl_module: LightningModule, growth: Any) -> None:
        """Keep how the network computes now; whatever changes the structure calls it after each step."""
        self._note_structure(pl_module)

    def state_dict(self) -> dict[str, Any]:
        family = {"family": self._family.to_dict()} if self._family is not None else {}
        return {"inheritance": self.inheritance, "structure": self._structure, **family}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # By now the module holds trained weights, whatever it started from.
        self._family = Family.from_dict(state_dict["family"]) if "family" in state_dict else None
        if self._continues_training:
            return  # the rest was another candidate's
        inherited = state_dict["inheritance"]
        self._record = InheritanceRecord.from_dict(inherited) if inherited else None

    def _note_structure(self, pl_module: LightningModule) -> None:
        with suppress(ValueError):  # lazy or sharded parameters: children will do without
            self._structure = structure_of(pl_module).to_dict()

    def _note_family(self, pl_module: LightningModule) -> None:
        if self._family is None:
            genes = self._context.genes if self._context is not None else {}
            self._family = family_of(pl_module, _asks_for_weights(pl_module.hparams) or _asks_for_weights(genes))

    def _refusal(self, loaded: Mapping[str, Any], pl_module: LightningModule) -> str:
        """Why the module is not to inherit; empty if it may."""
        own = self._family
        parents = Family.from_dict(loaded["family"]) if loaded["family"] else None
        if own is None:
            return ""
        if parents is not None and not self.cross_architecture and (why := why_another_family(own, parents)):
            return f"{why} (cross_architecture: true inherits what corresponds)"
        mine, theirs = (
            {name: tensor.shape for name, tensor in plain_names(state).items() if hasattr(tensor, "shape")}
            for state in (pl_module.state_dict(), loaded["state_dict"])
        )
        for part in own.pretrained:
            called = f"{_PRETRAINED}{f' of {part}' if part else ''}"
            if parents is not None and part not in parents.pretrained:
                return f"{called} are better than weights that began from scratch"
            here, there = (
                {n: s for n, s in all.items() if n.startswith(f"{part}." if part else "")} for all in (mine, theirs)
            )
            if here != there:
                return f"{called} don't have the shapes of the parent's"
        return ""

    def _arguments(self, pl_module: LightningModule) -> dict[str, Any]:
        """How weights are inherited, as arguments of ``inherit``."""
        return {
            "new_units": self.new_units,
            "spread": self.spread,
            "seed": self._context.seed if self._context is not None else 0,
            "choose": lambda name: self.should_inherit(name, pl_module),
        }

    def _record_restructuring(self, fitting: CheckpointFitting, trainer: Trainer) -> None:
        """Fit the optimizers' states, where the structure differs from the one whose training goes on."""
        optimizer, done = fitting.translate(trainer.optimizers), fitting.done
        parent = self._context.parent if self._context is not None else None
        if done is None or parent is None:
            return
        record = InheritanceRecord(parent.candidate, parent.asked, parent.why)
        self._record = _completed(record, done, optimizer)

    def _load(self, path: str) -> tuple[dict[str, Any], str]:
        """What is needed of a checkpoint, and why there is none."""
        if not path:
            assert self._record is not None
            return {}, f"{self._record.why}, and no ancestor's is left"
        parent = self._context.parent if self._context is not None else None
        trusted = self.trusted if self.trusted is not None else parent is not None and parent.trusted
        try:
            return self._parts(read_checkpoint(path, trusted, "" if parent is None else parent.digest), path)
        except DamagedCheckpoint:
            raise  # the search has the candidate start from another
        except FileNotFoundError:
            return {}, f"{path} does not exist"
        except Exception as error:  # unpickling a damaged file, or foreign objects, may raise anything
            if isinstance(error, pickle.UnpicklingError) and not trusted:
                return {}, f"{path} holds more than tensors and plain data (trusted=True reads it): {_line(error)}"
            return {}, f"{path} cannot be read: {_line(error)}"

    def _parts(self, loaded: Any, path: str) -> tuple[dict[str, Any], str]:
        """What is needed of a checkpoint that was read, and why there is none."""
        if not isinstance(loaded, dict) or not isinstance(loaded.get("state_dict"), Mapping):
            return {}, f"{path} is not a Lightning checkpoint: it has no state_dict"
        states = with_names(loaded) if self.optimizer else []
        theirs = [state for state in loaded.get("callbacks", {}).values() if isinstance(state, dict)]
        ours = next((state for state in theirs if {"inheritance", "structure"} <= set(state)), {})
        known = {"structure": ours.get("structure", {}), "family": ours.get("family", {})}
        return {"state_dict": dict(loaded["state_dict"]), "optimizer_states": states, **known}, ""

    def _inherit(self, loaded: Mapping[str, Any], trainer: Trainer, pl_module: LightningModule) -> str:
        """Inherit; returns why nothing could be."""
        if self._inherited_early is None and (refusal := self._refusal(loaded, pl_module)):
            return refusal
        try:
            done = self._inherited_early or self._written(pl_module, loaded)
        except ValueError as error:  # lazy or sharded parameters
            return str(error)
        if not done.maps:
            return done.why_not[0]
        optimizer = self._inherit_optimizers(loaded, trainer, pl_module, done) if self.optimizer else "none"
        assert self._record is not None
        self._record = _completed(self._record, done, optimizer)
        if self._family is not None and loaded["family"]:
            trained = {*self._family.pretrained, *Family.from_dict(loaded["family"]).pretrained}
            self._family = replace(self._family, pretrained=tuple(sorted(trained)))
        return ""

    def _written(self, pl_module: LightningModule, loaded: Mapping[str, Any]) -> Inheritance:
        """Write a parent's weights into the model."""
        structure = Structure.from_dict(loaded["structure"]) if loaded["structure"] else None
        return inherit(pl_module, loaded["state_dict"], structure=structure, **self._arguments(pl_module))

    def _inherit_optimizers(
        self, loaded: Mapping[str, Any], trainer: Trainer, pl_module: LightningModule, done: Inheritance
    ) -> str:
        states = loaded["optimizer_states"]
        if len(states) != len(trainer.optimizers):
            return f"fresh: {len(trainer.optimizers)} optimizers, the checkpoint holds {len(states)}"
        try:
            for optimizer, state in zip(trainer.optimizers, states, strict=True):
                inherit_optimizer(optimizer, pl_module, done, state, loaded["state_dict"])
        except ValueError as error:
            rank_zero_warn(f"WeightInheritance: optimizers are reset: {error}")
            return f"fresh: {error}"
        return "kept"


_PRETRAINED = "the pretrained weights"
_WEIGHTS = re.compile(r"(?:\w+_)?pretrained(?:_\w+)?|weights(?:_backbone|_path|_file)?|backbone_weights")
"""Arguments that ask for trained weights."""


def _asks_for_weights(arguments: Mapping[Any, Any]) -> bool:
    return any(
        _asks_for_weights(value)
        if isinstance(value, Mapping)
        else _WEIGHTS.fullmatch(str(path).rpartition(".")[2])
        and isinstance(value, bool | str | Enum | PurePath)
        and str(value).lower() not in _NO_WEIGHTS
        for path, value in arguments.items()
    )


_NO_WEIGHTS = ("", "none", "null", "false", "random", "scratch")


def _completed(record: InheritanceRecord, done: Inheritance, optimizer: str) -> InheritanceRecord:
    """The record with what became of the tensors and the optimizers' states."""
    return replace(
        record,
        copied=done.copied,
        sliced=done.sliced,
        identity=done.identity,
        fresh=done.fresh,
        optimizer=optimizer,
        preserving=done.preserving,
        why_not=done.why_not,
    )


class CheckpointFitting:
    """Fits the checkpoint of a training to a module whose structure may differ.

    If all shapes are equal, nothing is done, and the training continues exactly. Otherwise the module inherits
    the weights when Lightning loads them (:func:`~lightning_evo.functional.inherit`), and :meth:`translate` fits the
    optimizers' states before Lightning restores those. All else in the checkpoint holds as it is.

    Args:
        module: The module into which the checkpoint will be loaded.
        inheriting: Arguments of ``inherit``.
    """

    def __init__(self, module: LightningModule, **inheriting: Any) -> None:
        self.module = module
        self.done: Inheritance | None = None
        self.checkpoint: dict[str, Any] = {}
        self._inheriting = inheriting
        self._parent: dict[str, Tensor] = {}
        self._handle = module.register_load_state_dict_pre_hook(self._load)

    def _load(self, module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
        own = module.state_dict()
        if {name: tensor.shape for name, tensor in own.items()} == {n: t.shape for n, t in state.items()}:
            return
        self._parent = dict(state)
        self.done = inherit(module, self._parent, **self._inheriting)
        state.clear()
        state.update(module.state_dict())

    def translate(self, optimizers: list[Optimizer]) -> str:
        """Fit the optimizers' states in the checkpoint to the module; return ``kept``, or why they are fresh.

        Moments follow their weights; settings (such as the rate that a schedule has reached) are the checkpoint's.
        """
        self._handle.remove()
        if self.done is None:
            return "kept"
        states, kept = self.checkpoint["optimizer_states"], "kept"
        for i, (optimizer, state) in enumerate(zip(optimizers, states, strict=True)):
            try:
                inherit_optimizer(optimizer, self.module, self.done, state, self._parent)
            except ValueError as error:
                kept = f"fresh: {error}"
            fitted = copy.deepcopy(optimizer.state_dict())
            for mine, theirs in zip(fitted["param_groups"], state["param_groups"], strict=True):
                mine.update({name: theirs[name] for name in set(theirs) - {"params", "param_names"}})
            states[i] = fitted
        return kept


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
