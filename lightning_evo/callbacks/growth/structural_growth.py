"""The callback that grows a network while it trains, step by step, when its triggers agree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lightning_evo._compat.lightning import callbacks_of
from lightning_evo.callbacks.growth.checks import (
    Entropy,
    Mode,
    check_above_zero,
    check_choices,
    check_layer_names,
    check_layers,
    check_logged,
    check_monitored,
    check_operations,
    check_room,
    check_training,
    check_whole,
)
from lightning_evo.callbacks.growth.observation import EntropySampler, ExampleBatch, GrowthHistory, renamed_layers
from lightning_evo.callbacks.growth.recipe import (
    OriginalStructure,
    StructureRestorer,
    attach_recipe,
    continues_parent,
    read_parent,
    recipe_in,
    recipe_of,
    repeat_parents_growth,
    restore_structure,
    take_initial_steps,
)
from lightning_evo.callbacks.growth.trainer_state import ParameterGrouping, take_in_all_ranks, update_trainer
from lightning_evo.callbacks.growth.triggers import Decision, EntropySaturation, GrowthState, GrowthTrigger, Plateau
from lightning_evo.callbacks.records import GrowthRecord
from lightning_evo.callbacks.search import ExportedStructure, SearchCallback, SearchContext
from lightning_evo.functional.growth import (
    Growth,
    GrowthError,
    GrowthStep,
    NewWeights,
    Operation,
    Site,
    growth_sites,
    plan_step,
)
from lightning_evo.functional.growth import grow as grow_network
from lightning_evo.functional.growth.surgery import count as count_parameters
from lightning_evo.utils.compiled import eagerly, plain_name
from lightning_evo.utils.seeds import derive_seed

if TYPE_CHECKING:
    from lightning_evo.utils.checkpoints import Checkpoint

__all__ = ["StructuralGrowth"]

_ADDING = frozenset(("widen", "insert", "residual"))
"""Operations that add parameters whatever their settings."""


class StructuralGrowth(SearchCallback):
    """Grow the network while it trains.

    The triggers are evaluated at the start of each epoch (:meth:`should_grow`); if they all agree, layers are chosen
    (:meth:`choose_layers`) and changed (:meth:`grow`) by :func:`~lightning_evo.functional.grow`, one operation at a
    time: the network computes the same function as before, with more parameters (except for some operations).
    Everything that holds parameters is updated: optimizers keep the moments of existing parameters, schedules and the
    gradient scaler continue, DDP is wrapped around the network again, ``torch.compile`` recompiles, and the method
    ``on_structure_change(trainer, pl_module, growth)`` of callbacks is called. Parameters are counted before and after;
    a step that changed nothing is an error.

    Checkpoints contain the steps, which are replayed before the weights are loaded, so a training resumes with the
    grown network; so do ``validate``, ``test`` and ``predict``, and :func:`lightning_evo.load_grown` loads it without
    this callback. Under DDP rank 0 decides for all.

    Works with automatic and manual optimization, on a single device and with DDP. An error before training: other
    strategies, optimizers and schedulers that can't be extended, and callbacks that don't support it (weight averages,
    pruning, fine-tuning schedules).

    Args:
        triggers: When to grow; all triggers in a list must agree. Default: ``EntropySaturation() & Plateau()``.
        operations: Operations to alternate: ``widen``, ``insert``, ``residual``, ``kernel``, ``activation``, ``prune``.
            If no layer supports one, the next is used.
        layers: Names of the layers that may be changed; default: all supported layers.
        expand_ratio: Maximum growth of one step (the change of one layer), as a share of the current parameters.
        max_parameters: Maximum number of parameters of the network.
        layers_per_step: Number of layers changed at a time.
        min_epochs_between: Minimum number of epochs before the first step and between two steps.
        new_units: Initial weights of the new units of a widened layer: ``zero`` (fresh, with zero outgoing weights),
            ``net2wider`` (copies of old units, with the outgoing weights divided among them), ``gradmax`` (zero
            incoming weights, and outgoing weights that maximize the gradient).
        spread: How unequally copies share the outgoing weights, from 0 to below 1.
        rate: Learning rate of new parameters relative to their group's. With a value other than 1 they form separate
            groups.
        monitor: The metric for the triggers. Default: the search's first objective.
        mode: Whether ``monitor`` is maximized (``max``) or minimized (``min``).
        monitor_train: The same metric on training data, for :class:`~lightning_evo.callbacks.growth.triggers.Gap`.
        entropy: Estimator of the activation entropy, see :mod:`lightning_evo.functional.entropy`.
        entropy_batches: Number of batches at the end of an epoch on which entropy is sampled.
        initial: Steps to apply before training, in order: ``{operation, place or layer, ratio, settings}``, see
            :func:`~lightning_evo.functional.growth.resolve`. A search can evolve this list.
        seed: Seed of all random draws.

    Attributes:
        history: One record per step: epoch (``None``: before training), source (``initial``, ``parent`` or
            ``trigger``), operation, layer, settings, parameters before and after, whether it preserved the network's
            function, and the reason.

    Raises:
        GrowthError: A ``ValueError``. For arguments out of range; at the start of ``fit`` for anything unsupported;
            after the first validation if ``monitor`` isn't logged.

    Example:
        >>> growth = StructuralGrowth(operations=["widen"], max_parameters=100_000)
        >>> StructuralGrowth(expand_ratio=0)
        Traceback (most recent call last):
        lightning_evo.functional.growth.steps.GrowthError: expand_ratio: 0 is not above 0
    """

    changes_structure = True

    def __init__(
        self,
        triggers: GrowthTrigger | list[GrowthTrigger] | None = None,
        operations: Sequence[Operation] = ("widen", "insert"),
        layers: Sequence[str] | None = None,
        expand_ratio: float = 0.5,
        max_parameters: int | None = None,
        layers_per_step: int = 1,
        min_epochs_between: int = 3,
        new_units: NewWeights = "zero",
        spread: float = 0.5,
        rate: float = 1.0,
        monitor: str | None = None,
        mode: Mode = "max",
        monitor_train: str | None = None,
        entropy: Entropy = "covariance",
        entropy_batches: int = 2,
        initial: Sequence[dict[str, Any]] = (),
        seed: int = 0,
    ) -> None:
        check_choices(new_units=(new_units, NewWeights), mode=(mode, Mode), entropy=(entropy, Entropy))
        check_operations(operations)
        check_above_zero(expand_ratio=expand_ratio, rate=rate)
        check_whole(
            layers_per_step=layers_per_step, min_epochs_between=min_epochs_between, entropy_batches=entropy_batches
        )
        check_layer_names(layers)
        if max_parameters is not None:
            check_whole(max_parameters=max_parameters)
        if not 0 <= spread < 1:
            raise GrowthError(f"spread: {spread!r} is not in [0, 1)")
        given = [triggers] if isinstance(triggers, GrowthTrigger) else triggers
        self.trigger: GrowthTrigger = reduce(operator.and_, given) if given else EntropySaturation() & Plateau()
        self.operations, self.layers = tuple(operations), None if layers is None else tuple(layers)
        self.expand_ratio, self.max_parameters = expand_ratio, max_parameters
        self.layers_per_step, self.min_epochs_between = layers_per_step, min_epochs_between
        self.new_units, self.spread, self.rate = new_units, spread, rate
        self.monitor, self.mode, self.monitor_train = monitor, mode, monitor_train
        self.entropy, self.entropy_batches = entropy, entropy_batches
        self.initial, self.seed = [dict(one) for one in initial], seed
        self._context: SearchContext | None = None
        self._restoration = StructureRestorer()
        self._trainer: Trainer | None = None
        self._held: Checkpoint | None = None
        self._groups: dict[str, Any] | None = None  # a checkpoint's, until the optimizers are made
        self._last_groups: dict[str, Any] | None = None
        self._last_metrics: dict[str, Any] = {}  # what the metrics were when they were last noted
        self._reported = False
        self._forget()

    @property
    def history(self) -> list[dict[str, Any]]:
        return self._records.history

    # -- decisions -----------------------------------------------------------------------------------------------------

    def should_grow(self, state: GrowthState) -> Decision:
        """Decide whether to grow now; override it to decide differently. Called on rank 0, whose decision holds for all.

        It isn't called within ``min_epochs_between`` epochs of the last step, or when no parameters can be added.

        Args:
            state: The state at the start of the epoch.
        """
        return self.trigger.decide(state)

    def choose_layers(self, sites: Mapping[str, Site], state: GrowthState, decision: Decision) -> list[str]:
        """Choose layers in order of preference: the first :attr:`layers_per_step` that can be changed are changed.

        They are ordered by their need, where the trigger gives it, then by the time since they last grew, then as in the
        network. Override it to choose differently. Called on rank 0, whose choice holds for all.

        Args:
            sites: The layers that may be changed and offer the operation.
            state: The state at the start of the epoch.
            decision: The result of :meth:`should_grow`.
        """
        touched = self._records.touched
        return sorted(sites, key=lambda layer: (-decision.layers.get(layer, 0.0), touched.get(layer, -1)))

    def grow(
        self,
        pl_module: LightningModule,
        operation: Operation,
        layer: str,
        *,
        max_added: int | None = None,
        sample: tuple[Any, ...] | None = None,
        loss: Callable[[nn.Module], Tensor] | None = None,
        seed: int = 0,
    ) -> Growth:
        """Change one layer, in place; override it to change it differently. Called on rank 0; other ranks repeat the step.

        Args:
            pl_module: The module in training.
            operation: The operation.
            layer: Name of the layer.
            max_added: How many parameters may be added.
            sample: Inputs of the module, on which the step is checked.
            loss: Returns a training loss, for ``gradmax``.
            seed: Seed of everything drawn.

        Raises:
            GrowthError: If it isn't possible. The module is then unchanged, and another layer is tried.
        """
        ratio = 1 / (1 + self.expand_ratio) if operation == "prune" else 1 + self.expand_ratio
        step = plan_step(pl_module, operation, layer, ratio=ratio, max_added=max_added, seed=seed)
        return self._take(pl_module, step, seed, sample, loss)

    # -- in a search ---------------------------------------------------------------------------------------------------

    def join_search(self, context: SearchContext) -> None:
        self._context = context
        measured = [one for one in context.objectives if not one.monitor.startswith("cost/")]
        if self.monitor is None and measured:
            self.monitor, self.mode = measured[0].monitor, measured[0].mode

    @property
    def extra(self) -> Mapping[str, Any]:
        """The record of each step: ``{"growth": [...]}``."""
        return {GrowthRecord.key: GrowthRecord.from_dict(self.history).to_dict()}

    @classmethod
    def has_changed_structure(cls, checkpoint: Mapping[str, Any]) -> bool:
        return recipe_in(checkpoint) is not None

    @classmethod
    def restore_structure(cls, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> bool:
        if recipe_in(checkpoint) is None:
            return False
        if is_overridden("configure_model", pl_module):
            pl_module.configure_model()
        restore_structure(pl_module, checkpoint, OriginalStructure(pl_module))
        return True

    @classmethod
    def export_structure(cls, checkpoint: Path, to: Path) -> ExportedStructure | None:
        from lightning_evo.callbacks.growth.loading import export_structure  # a training exports nothing

        return export_structure(checkpoint, to)

    # -- before training -----------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restoration.install(pl_module)
        if stage != "fit":
            return
        self._trainer = trainer
        self._forget()  # a training begins anew, unless its state is loaded after this
        callbacks: list[Callback] = callbacks_of(trainer)
        inheriting = [one for one in callbacks if isinstance(one, SearchCallback) and one.needs_parent]
        held = read_parent(self._context) if inheriting else None
        self._held = held  # until the others have read it too
        parent = held if held is not None and continues_parent(held, self.state_key, self.initial) else None
        if not (self.initial or parent) or recipe_of(pl_module).steps:
            return  # a module that has grown already continues from there
        if is_overridden("configure_model", pl_module):
            pl_module.configure_model()  # which Lightning calls later
        original = self._restoration.remember(pl_module)
        for one in inheriting:
            one.before_early_growth(pl_module)
        try:
            self._take_initial(pl_module, parent, inheriting)
        except BaseException:  # with half of its steps it would not be taken for a network that has not grown
            original.restore()
            raise

    def _take_initial(
        self, pl_module: LightningModule, parent: dict[str, Any] | None, inheriting: list[SearchCallback]
    ) -> None:
        done = repeat_parents_growth(pl_module, parent, self.state_key, self._record_parents_step) if parent else 0
        # Steps of its own are taken on the parent's weights: only so do all of them preserve what the parent computes.
        inheriting = [
            one for one in inheriting if parent and done < len(self.initial) and one.inherit_early(pl_module, parent)
        ]

        def take(step: GrowthStep, seed: int) -> Growth:
            before = pl_module.state_dict(keep_vars=True)
            growth = self._take(pl_module, step, seed)
            for callback in inheriting:
                callback.on_early_growth(growth, before, pl_module)
            return growth

        take_initial_steps(
            pl_module,
            self.initial,
            done,
            self.max_parameters,
            self._seed,
            take,
            lambda growth: self._note(pl_module, growth, None, "initial", "asked for"),
        )

    def _record_parents_step(self, growth: Growth) -> None:
        self._records.note_step(growth, None, "parent", "the parent has grown so")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restoration.remove()
        self._restoration.remember(pl_module)
        check_training(trainer, pl_module, self.rate)
        check_monitored(self.trigger, self.monitor, self.monitor_train)
        if self._groups is not None:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            self._grouping.restore(self._groups, trainer.optimizers, pl_module, schedulers)
            self._groups = None
        else:  # of a resumed training the checkpoint's names and size need not satisfy what was asked at its beginning
            names = [name for name, _ in pl_module.named_modules()]
            check_layers(growth_sites(pl_module), names, self._records.allowed, self.operations)
            check_room(count_parameters(pl_module), self.max_parameters)

    # -- while it trains -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._held = None
        self._last_metrics = dict(trainer.callback_metrics)
        self._arm(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        last = self._records.grown[-1] if self._records.grown else 0
        if epoch - last >= self.min_epochs_between and not self._is_full(pl_module):
            self._grow_if_due(trainer, pl_module, epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.trigger.needs_entropy:
            self._sampler.before_batch(batch_idx, trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.trigger.needs_entropy:
            self._sampler.after_batch()
            if trainer.is_last_batch:
                values = self._sampler.values(partial(trainer.strategy.reduce, reduce_op="mean"))
                self._records.note_entropies(trainer.current_epoch, values)
        if batch_idx == 0:
            self._examples.keep(batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and self._trainer is trainer:
            # Now, as a checkpoint may be written next, and a run that resumes from it doesn't validate again.
            self._note_metrics(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note_metrics(trainer)
        check_logged(trainer, self.trigger, self.monitor, self.monitor_train)
        pl_module.log("growth_parameters", float(count_parameters(pl_module)))
        pl_module.log("growth_steps", float(len(recipe_of(pl_module).steps)))

    def _note_metrics(self, trainer: Trainer) -> None:
        known = trainer.callback_metrics
        values: list[float | None] = []
        for name in (self.monitor, self.monitor_train):
            value = known.get(name or "")
            # What an earlier epoch's validation logged stays there, the same object, in epochs that don't validate.
            values.append(None if value is None or value is self._last_metrics.get(name or "") else float(value))
            self._last_metrics[name or ""] = value
        self._records.note_metrics(trainer.current_epoch, *values)

    # -- growing -------------------------------------------------------------------------------------------------------

    def _grow_if_due(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        state = GrowthState(
            epoch=epoch,
            max_epochs=trainer.max_epochs if trainer.max_epochs not in (None, -1) else None,
            mode=self.mode,
            grown=tuple(self._records.grown),
            parameters=count_parameters(module),
            seed=self._seed(),
            **self._records.ended(epoch),
        )
        proposal = self._propose(module, state) if trainer.is_global_zero else (Decision(False, ""), [])
        decision, proposed = trainer.strategy.broadcast(proposal)
        if not decision.grow:
            return
        why_not = [f"no layer offers {operation}" for operation, layers in proposed if not layers]
        for operation, layers in proposed:
            if self._grow_layers(trainer, module, operation, layers, decision, why_not):
                self._records.grown.append(epoch)
                self._records.turn += 1
                self._arm(module)
                return
        if not self._reported:
            rank_zero_info(f"epoch {epoch}: {decision.why}; but no layer can grow: {'; '.join(why_not[:3])}")
        self._reported = True

    def _propose(
        self, module: LightningModule, state: GrowthState
    ) -> tuple[Decision, list[tuple[Operation, list[str]]]]:
        """Decide whether to grow, and by which operations on which layers, in order of preference."""
        decision = self.should_grow(state)
        proposed: list[tuple[Operation, list[str]]] = []
        if decision.grow:
            sites, turn = self._sites(module), self._records.turn % len(self.operations)
            for operation in (*self.operations[turn:], *self.operations[:turn]):
                offering = {name: site for name, site in sites.items() if operation in site.operations}
                proposed.append((operation, list(self.choose_layers(offering, state, decision)) if offering else []))
        return decision, proposed

    def _grow_layers(
        self,
        trainer: Trainer,
        module: LightningModule,
        operation: Operation,
        layers: list[str],
        decision: Decision,
        why_not: list[str],
    ) -> int:
        """Change up to :attr:`layers_per_step` of some layers; return how many were changed."""
        done = 0
        while layers and done < self.layers_per_step:
            layer, *layers = layers
            growth, reason = self._attempt(trainer, module, operation, layer)
            if growth is None:
                why_not.append(reason)
                continue
            done += 1
            self._note(module, growth, trainer.current_epoch, "trigger", decision.why)
            update_trainer(trainer, module, growth, self._grouping, self.rate)
            renamed = renamed_layers(growth)
            layers = [renamed.get(name, name) for name in layers]
        return done

    def _attempt(
        self, trainer: Trainer, module: LightningModule, operation: Operation, layer: str
    ) -> tuple[Growth | None, str]:
        """Change one layer in all ranks, as rank 0 does, or return why that isn't possible."""
        count, seed = count_parameters(module), self._seed(trainer.current_epoch, layer)
        room = floor(self.expand_ratio * count)
        if self.max_parameters is not None:
            room = min(room, self.max_parameters - count)

        def grow() -> Growth:
            sample = self._examples.inputs(trainer, module)
            loss = self._examples.loss(trainer, module) if self.new_units == "gradmax" else None
            return self.grow(module, operation, layer, max_added=room, sample=sample, loss=loss, seed=seed)

        return take_in_all_ranks(trainer, module, operation, layer, grow, lambda step: self._take(module, step, seed))

    def _take(
        self,
        module: LightningModule,
        step: GrowthStep,
        seed: int,
        sample: tuple[Any, ...] | None = None,
        loss: Callable[[nn.Module], Tensor] | None = None,
    ) -> Growth:
        new_units = "zero" if self.new_units == "gradmax" and loss is None else self.new_units
        # Compiled code wouldn't call the hooks by which new layers see what they get.
        with eagerly():
            return grow_network(
                module, step, new_units=new_units, spread=self.spread, seed=seed, sample=sample, loss=loss
            )

    def _note(self, module: LightningModule, growth: Growth, epoch: int | None, source: str, why: str) -> None:
        """Record a step in the history and the recipe, and report it."""
        after = count_parameters(module)
        attach_recipe(module, recipe_of(module, growth.before).then(growth.step, after))
        self._records.note_step(growth, epoch, source, why)
        when = "before training" if epoch is None else f"epoch {epoch}"
        settings = ", ".join(f"{name} {_short(value)}" for name, value in growth.step.settings.items())
        rank_zero_info(
            f"{when}: {growth.step.operation} {growth.step.layer} ({settings}), {growth.before:,} -> {after:,} parameters:"
            f" {why}"
        )

    # -- saved and restored --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"records": self._records.state_dict(), "initial": self.initial}
        state["examples"] = self._examples.state_dict()
        state["groups"] = self._grouped()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._records.load_state_dict(state_dict["records"])
        self._examples.load_state_dict(state_dict["examples"])
        self._groups = state_dict.get("groups")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._records, self._grouping, self._examples = GrowthHistory(self.layers), ParameterGrouping(), ExampleBatch()
        self._sampler = EntropySampler(self.entropy, self.entropy_batches)
        self._groups = self._last_groups = None
        self._last_metrics, self._reported = {}, False

    def _grouped(self) -> dict[str, Any] | None:
        """The parameters in the optimizers' groups, after training the last ones."""
        if self._trainer is not None and self._trainer.optimizers:
            self._last_groups = self._grouping.state_dict(self._trainer.optimizers, self._trainer.lightning_module)
        return self._last_groups

    def _end(self) -> None:
        self._grouped()  # a checkpoint may be saved later
        self._restoration.remove()
        self._sampler.disarm()
        self._trainer = self._held = None

    def _arm(self, module: LightningModule) -> None:
        """Have the entropy of the layers that may grow sampled, if a trigger uses it."""
        if self.trigger.needs_entropy:
            modules = {plain_name(name): part for name, part in module.named_modules()}
            sites = [] if self._is_full(module) else self._sites(module)
            self._sampler.arm({name: modules[name] for name in sites})

    def _is_full(self, module: LightningModule) -> bool:
        """Whether nothing can grow any more, so that no decision and no samples are needed."""
        most = self.max_parameters
        return most is not None and count_parameters(module) >= most and _ADDING.issuperset(self.operations)

    def _sites(self, module: LightningModule) -> dict[str, Site]:
        return {name: site for name, site in growth_sites(module).items() if self._records.may_grow(name)}

    def _seed(self, *purpose: object) -> int:
        candidate = self._context.seed if self._context is not None else 0
        return derive_seed(self.seed, candidate, "growth", *purpose)


def _short(value: Any) -> str:
    return f"{len(value)} of them" if isinstance(value, (list, tuple)) and len(value) > 3 else str(value)
