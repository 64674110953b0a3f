"""N particles that train in one process, on one device: one LightningModule that holds them all."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_evo._compat.lightning import INSTANTIATOR_KEY, hparams_name, loops_state, trainer_of
from lightning_evo._compat.torch import FollowsTensors, apply_to_tensors, tree_map
from lightning_evo.functional.stacking.optional import PARTS
from lightning_evo.functional.stacking.stacking import stacked_call
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.logs import Log, Logged
from lightning_evo.swarms.stack.building import build_particles, check_alike
from lightning_evo.swarms.stack.compatibility import differing_attributes
from lightning_evo.swarms.stack.hooks import (
    FIRST_PARTICLE_METHODS,
    MAY_CHANGE_SETTINGS,
    NEEDS_GRADIENTS,
    PARTICLE_HOOKS,
    SHARED_HOOKS,
    STEPS,
    arguments_of,
)
from lightning_evo.swarms.stack.metrics import log_epoch, log_step
from lightning_evo.swarms.stack.optimizer import StackedOptimizer, StackedScheduler, configured, configured_alike
from lightning_evo.swarms.stack.parameter_views import (
    bind_gradients,
    bind_tensors,
    follow_device,
    memory_of,
    stack_tensors,
)
from lightning_evo.swarms.stack.steps import (
    LogCollector,
    LoweringChoice,
    StackedStep,
    looped_losses,
    looped_step,
    losses_of,
    merged,
    particle_of,
)

__all__ = [
    "ParticleStack",
    "StackParticles",
    "checkpoint_of",
    "copied_particle",
    "hook_additions",
    "hook_checkpoint",
    "stack_particles",
]


Lowering = Literal["auto", "stack", "loop"]


class ParticleStack(FollowsTensors, LightningModule):
    """N particles of one architecture, trained together in one process on one device.

    The particles are ordinary LightningModules, used unchanged: their steps, hooks, ``self.log`` calls, metric objects,
    optimizers and schedulers. Their parameters are stacked, (N, ...), in this module; :attr:`particles` are views of that
    memory. Each trains as it would alone: on the same batches with its own hyperparameters, dropout, batch statistics
    and clipped gradients. All get the same batches, unless ``own_batches``.

    Lightning's callbacks and loggers get each particle's metrics as ``val_acc/particle_0``, ... and, as ``val_acc``, their
    mean (of those that are not NaN). Of metrics logged per step only the mean is logged, every ``log_every_n_steps``.

    Args:
        particles: Modules of the same architecture; or a class or function that builds one.
        size: The number of particles to build.
        vary: Argument of the class or function -> its value for each particle, as ``{"lr": [0.1, 0.01, 0.001]}``.
        lowering: How steps are computed: ``stack``, all at once under ``torch.func.vmap`` with convolutions and
            the like as grouped ones; ``loop``, one particle after the other; or ``auto``: whichever is faster on the first
            training batch, and the loop if vmap can't compute the step. :attr:`reason` explains the choice.
        own_batches: The tensors of each batch have the particles along their first axis: each particle gets its own part.

    Raises:
        SwarmError: Fewer than two particles, different architectures, or modules a stack can't train (manual optimization).

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> stack = ParticleStack(BoringModel, size=3)
    >>> len(stack), stack.stacked.layer.weight.shape
    (3, torch.Size([3, 2, 32]))
    """

    def __init__(
        self,
        particles: Callable[[], LightningModule] | Sequence[LightningModule],
        size: int | None = None,
        vary: Mapping[str, Sequence[Any]] | None = None,
        lowering: Lowering = "auto",
        own_batches: bool = False,
    ) -> None:
        super().__init__()
        self._choice = LoweringChoice(lowering)
        built = build_particles(particles, size, vary)
        check_alike(built)
        self.save_hyperparameters(ignore=["particles"])
        if INSTANTIATOR_KEY in self.hparams:  # from a config, where the particles are plain data that can be saved
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Attribute 'particles' is an instance of")
                self.save_hyperparameters()
        self.own_batches = own_batches
        self.stacked = stack_tensors(built)
        self._losses = torch.full((len(built),), math.nan)
        self._rows: list[dict[str, float]] = [{} for _ in built]
        self._outputs: Any = None
        self._modes: dict[nn.Module, bool] = {}
        self._bind_particles(built)

    # What a stack is.

    def __len__(self) -> int:
        return len(self._particles)

    @property
    def particles(self) -> tuple[LightningModule, ...]:
        """The particles, as modules over the stacked memory: writing to one changes the stack."""
        return self._particles

    def particle(self, index: int) -> LightningModule:
        """A copy of a particle as an ordinary module, without a Trainer."""
        return copied_particle(self._particles[index])

    def particle_checkpoint(self, index: int, weights_only: bool = False) -> dict[str, Any]:
        """A particle as a plain Lightning checkpoint of its class, which stock Lightning opens and resumes.

        Args:
            index: The particle's index.
            weights_only: Leave out the states of optimizer and schedulers.
        """
        return checkpoint_of(self, index, weights_only)

    @property
    def losses(self) -> Tensor:
        """The losses of the last training step, (N,), detached; NaN before the first."""
        return self._losses

    @property
    def metrics(self) -> list[dict[str, float]]:
        """What each particle logged in the last training and evaluation epochs, by the names that its module uses."""
        return [dict(row) for row in self._rows]

    @property
    def lowering(self) -> Lowering:
        """How steps are computed: ``stack`` or ``loop``; ``auto`` before the choice is made."""
        return self._choice.chosen or "auto"

    @property
    def reason(self) -> str:
        """The reason for :attr:`lowering`."""
        return self._choice.reason

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of all particles for the same arguments, each tensor stacked (N, ...)."""
        template = self._particles[0]
        return stacked_call(template, lambda *values: template(*values, **kwargs), self._memory, args)

    # Steps.

    def training_step(self, batch: Any, batch_idx: int = 0) -> dict[str, Tensor]:
        """The sum of all particles' losses, which gives each particle its own gradient."""
        args = self._step_args("training_step", batch, batch_idx)
        self._enter("training_step", None)
        self._choice.measure(
            lambda: self._stacked_losses(args, count=False)[0].sum(),
            lambda: self._looped_losses(args, count=False)[0],
            self._memory,
        )
        result = self._choice.attempt("training_step", lambda: self._stacked_losses(args))
        if result is not None:
            losses, outputs, logged = result
            total, self._losses = losses.sum(), losses.detach()
        else:
            total, outputs, self._losses, logged = self._looped_losses(args)
        if "on_train_batch_end" in self._has:
            self._outputs = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
        self._keep(logged, self._training_log)
        return {"loss": total, "losses": self._losses}

    def _stacked_losses(self, args: tuple[Any, ...], count: bool = True) -> tuple[Tensor, Any, list[Logged]]:
        outputs, logged = self._step("training_step", self._memory, args, self.own_batches, self._collectors[0], count)
        return losses_of(outputs, type(self._particles[0]).__name__, len(self)), outputs, logged

    def _looped_losses(
        self, args: tuple[Any, ...], count: bool = True
    ) -> tuple[Tensor, list[Any], Tensor, list[Logged]]:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None) if trainer_of(self) is not None else None
        scaled: Callable[[Tensor], Tensor] = (lambda loss: loss) if scaler is None else scaler.scale
        return looped_losses(self._particles, self._memory, args, self.own_batches, self._collectors, scaled, count)

    def _evaluate(self, name: str, batch: Any, batch_idx: int = 0, dataloader_idx: int | None = None) -> list[Any]:
        """The evaluation step ``name``: a list of what that of each particle returns."""
        args = self._step_args(name, batch, batch_idx, dataloader_idx)
        self._enter(name, dataloader_idx)
        step, place = self._step, self._collectors[0]
        result = self._choice.attempt(name, lambda: step(name, self._memory, args, self.own_batches, place))
        if result is not None:
            stacked, logged = result
            outputs = [particle_of(stacked, index) for index in range(len(self))]
        else:
            outputs, logged = looped_step(self._particles, name, args, self.own_batches, self._collectors)
        self._keep(logged, self._evaluation_log)
        return outputs

    def _step_args(self, name: str, batch: Any, batch_idx: int, dataloader_idx: int | None = None) -> tuple[Any, ...]:
        if name not in self._takes_index:
            step = getattr(self._particles[0], name)
            self._takes_index[name] = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        args = (batch, batch_idx) if self._takes_index[name] else (batch,)
        return args if dataloader_idx is None else (*args, dataloader_idx)

    # Hooks: what Lightning calls on the stack reaches every particle.

    def _each(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Call a hook on every particle, with its own part of the step's outputs and its own optimizer."""
        if name not in self._has:
            return
        if name in NEEDS_GRADIENTS:
            bind_gradients(self._memory, self._particles)
        self._enter(name, None)
        results = [
            getattr(particle, name)(
                *arguments_of(index, name, args, self._losses, self._outputs, self.own_batches), **kwargs
            )
            for index, particle in enumerate(self._particles)
        ]
        self._keep(merged([collector.take() for collector in self._collectors]), self._log_of(name))
        if name == "on_train_batch_start" and any(result == -1 for result in results):
            raise SwarmError("on_train_batch_start returned -1: one particle can't end the epoch of all; remove that")
        if name in MAY_CHANGE_SETTINGS:
            self._inspect_particles()

    def setup(self, stage: Any) -> None:
        if isinstance(self.trainer.strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)):
            raise SwarmError(
                f"{type(self.trainer.strategy).__name__} shards parameters, which a stack keeps whole; use a single device, "
                "or strategy: swarm with a stack in each process"
            )
        on_cpu = self.trainer.strategy.root_device.type == "cpu"
        if stage == "fit" and self.lowering != "loop" and on_cpu and PARTS.allocator is not None:
            PARTS.allocator()  # or the activations of all particles are mapped and zeroed anew in each step
        self._each("setup", stage)

    def on_train_epoch_end(self) -> None:
        self._each("on_train_epoch_end")
        self._publish(self._training_log)

    def on_validation_epoch_end(self) -> None:
        self._each("on_validation_epoch_end")
        self._publish(self._evaluation_log)

    def on_test_epoch_end(self) -> None:
        self._each("on_test_epoch_end")
        self._publish(self._evaluation_log)

    def on_validation_model_eval(self) -> None:
        self._modes = {module: module.training for module in self._everything()}
        self.eval()

    def on_validation_model_train(self) -> None:
        for module, training in self._modes.items():
            module.training = training

    on_test_model_eval = on_predict_model_eval = on_validation_model_eval
    on_test_model_train = on_validation_model_train

    def on_predict_end(self) -> None:
        self.on_validation_model_train()  # Lightning has no on_predict_model_train
        self._each("on_predict_end")

    def _everything(self) -> Iterator[nn.Module]:
        yield from self.modules()
        for particle in self._particles:
            yield from particle.modules()

    # Logging.

    def _enter(self, hook: str, dataloader_idx: int | None) -> None:
        for log in self._collectors:
            log.hook, log.dataloader_idx, log.batch = hook, dataloader_idx, None

    def _log_of(self, hook: str) -> Log:
        return self._training_log if "train" in hook or "before" in hook or "after" in hook else self._evaluation_log

    def _keep(self, calls: Sequence[Logged], log: Log) -> None:
        for logged in calls:
            log.record(logged)
        if log is self._training_log:
            log_step(self, calls)

    def _publish(self, log: Log) -> None:
        rows = log_epoch(self, log, len(self))
        if not self.trainer.sanity_checking:
            for mine, new in zip(self._rows, rows, strict=True):
                mine.update(new)

    # Optimizers.

    def configure_optimizers(self) -> Any:
        """Every particle's own optimizer and schedulers."""
        self._inspect_particles()
        return configured(self._particles, self._memory)

    def _configure_alike(self, given: Callable[[], Any]) -> Any:
        return configured_alike(given(), self._particles, self._memory)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "configure_optimizers":  # LightningCLI's optimizer section: one for the stacked parameters
            value = partial(self._configure_alike, value)
        super().__setattr__(name, value)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step each particle's scheduler; one that waits for a plateau gets the particle's own metric."""
        assert isinstance(scheduler, StackedScheduler)
        values: list[Any] = scheduler.monitored(self._rows) if metric is not None else [None] * len(self)
        for particle, own, value in zip(self._particles, scheduler.schedulers, values, strict=True):
            particle.lr_scheduler_step(own, value)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            optimizer.unscale(scaler, ~self._losses.isfinite())
        self._each("on_before_optimizer_step", optimizer)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip each particle's gradients by themselves."""
        optimizer.clip(gradient_clip_val, gradient_clip_algorithm)

    # Checkpoints.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = [hook_additions(particle, checkpoint) for particle in self._particles]
        tuned = {} if PARTS.autotuning is None else PARTS.autotuning.state_dict()
        choice = {**self._choice.state_dict(), "lowerings": tuned}
        checkpoint["particle_stack"] = {"choice": choice, "particles": own}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("particle_stack")
        if saved is None:
            return
        self._choice.load_state_dict(saved["choice"])
        if PARTS.autotuning is not None:
            PARTS.autotuning.load_state_dict(saved["choice"]["lowerings"])
        for particle, mine in zip(self._particles, saved["particles"], strict=True):
            particle.on_load_checkpoint({**hook_checkpoint(particle, checkpoint), **mine})

    # Memory: the particles are no submodules, or every tensor would be there twice.

    def _bind_particles(self, particles: Sequence[LightningModule]) -> None:
        self._particles = tuple(particles)
        self._memory = memory_of(self.stacked)
        self._collectors = [LogCollector() for _ in particles]
        self._training_log, self._evaluation_log = Log(), Log()
        for particle, collector in zip(particles, self._collectors, strict=True):
            for module in particle.modules():
                if isinstance(module, LightningModule):
                    module.__dict__.update(log=collector.log, log_dict=collector.log_dict)
        bind_tensors(self._memory, self._particles)
        self._step = StackedStep(self._particles)
        self._inspect_particles()
        first = self._particles[0]
        self._takes_index: dict[str, bool] = {}
        self._has = {
            name
            for name in (*STEPS, *PARTICLE_HOOKS, *SHARED_HOOKS, *FIRST_PARTICLE_METHODS)
            if is_overridden(name, first)
        }
        self.__dict__.update({name: partial(self._evaluate, name) for name in STEPS if name in self._has})
        self.__dict__.update({name: partial(self._each, name) for name in PARTICLE_HOOKS if name in self._has})
        self.__dict__.update({name: getattr(first, name) for name in FIRST_PARTICLE_METHODS if name in self._has})

    def _inspect_particles(self) -> None:
        """Find the attributes in which particles differ, and the parameters that are trained."""
        self._step.differing = differing_attributes(self._particles)
        for name, parameter in self._particles[0].named_parameters():
            self._memory[name].requires_grad_(parameter.requires_grad)

    def on_tensors_replaced(self, function: Callable[[Tensor], Tensor]) -> None:
        """Bind the particles to the moved or converted memory; their metrics move along."""
        self._rebind()
        for metrics in self._step.metrics_of_all():
            apply_to_tensors(metrics, function)
        follow_device(self._particles, self)
        self._losses = function(self._losses)

    def train(self, mode: bool = True) -> ParticleStack:
        """Set the particles' mode, too."""
        super().train(mode)
        for particle in self._particles:
            particle.train(mode)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take over stacked tensors."""
        keys = super().load_state_dict(state_dict, strict, assign)
        if assign:
            self._rebind()
        return keys

    def _rebind(self) -> None:
        self._memory.clear()
        self._memory.update(memory_of(self.stacked))
        bind_tensors(self._memory, self._particles)

    @property
    def trainer(self) -> Trainer:
        """The stack's Trainer, and each particle's."""
        return super().trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        vars(LightningModule)["trainer"].fset(self, trainer)
        for particle in self._particles:
            particle.trainer = trainer

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        bound = {
            *STEPS,
            *PARTICLE_HOOKS,
            *FIRST_PARTICLE_METHODS,
            "_step",
            "_memory",
            "_collectors",
            "_training_log",
            "_evaluation_log",
        }
        return {name: value for name, value in state.items() if name not in bound} | {"_outputs": None, "_modes": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind_particles(self._particles)


def stack_particles(particles: Sequence[LightningModule]) -> ParticleStack:
    """A stack of given particles, for callers that need nothing else of :class:`ParticleStack`."""
    return ParticleStack(particles)


class StackParticles:
    """The particles of a :class:`~lightning_evo.ParticleStack`, as averaging sees them.

    Args:
        stack: The stack.
        trainer: The Trainer that trains it, whose optimizers are the particles'.

    >>> from lightning.pytorch.demos.boring_classes import BoringModel
    >>> particles = StackParticles(ParticleStack(BoringModel, size=3), Trainer(logger=False, barebones=True))
    >>> particles.count, particles.weights()["layer.bias"].shape
    (3, torch.Size([3, 2]))
    """

    def __init__(self, stack: ParticleStack, trainer: Trainer) -> None:
        self.stack, self.trainer = stack, trainer

    @property
    def count(self) -> int:
        """The number of particles."""
        return len(self.stack)

    @property
    def modules(self) -> Sequence[LightningModule]:
        """The particles, as modules over the stacked memory."""
        return self.stack.particles

    def weights(self) -> dict[str, Tensor]:
        """The stacked parameters and the buffers that are saved, detached; writing to them changes the particles."""
        return {name: tensor.detach() for name, tensor in self.stack.stacked.state_dict(keep_vars=True).items()}

    def moments(self) -> dict[str, Tensor]:
        """The optimizers' state, stacked."""
        return {name: tensor for optimizer in self._optimizers for name, tensor in optimizer.moments().items()}

    def reset_moments(self, rows: Sequence[int]) -> None:
        """Clear the optimizers' state of these particles."""
        for optimizer in self._optimizers:
            optimizer.reset(rows)

    def losses(self, outputs: Any) -> Tensor:
        """The losses of the stack's last training step."""
        return self.stack.losses

    @property
    def _optimizers(self) -> list[StackedOptimizer]:
        return [optimizer for optimizer in self.trainer.optimizers if isinstance(optimizer, StackedOptimizer)]


def copied_particle(tied: LightningModule) -> LightningModule:
    """A copy of a stack's particle, with memory of its own and no Trainer."""
    taken: LightningModule = copy.deepcopy(tied)
    for tensor in (*taken.parameters(), *taken.buffers()):
        tensor.data = tensor.data.clone()  # a copied view keeps the memory of all particles
        tensor.grad = None
    for module in taken.modules():
        if isinstance(module, LightningModule):
            module.__dict__.pop("log", None)
            module.__dict__.pop("log_dict", None)
        if isinstance(module, Metric):
            module.reset()
    taken.trainer = None
    return taken


def checkpoint_of(stack: ParticleStack, index: int, weights_only: bool) -> dict[str, Any]:
    """The checkpoint that a Trainer which had trained only this particle would save now."""
    particle = stack.particles[index]
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {name: tensor.detach().clone() for name, tensor in particle.state_dict().items()},
    }
    trainer = trainer_of(stack)
    if trainer is not None:
        checkpoint["epoch"], checkpoint["global_step"] = trainer.current_epoch, trainer.global_step
        checkpoint["loops"] = copy.deepcopy(loops_state(trainer))
        if not weights_only:
            checkpoint["callbacks"] = {}
            checkpoint["optimizer_states"] = [
                _own(optimizer.optimizers[index].state_dict())
                for optimizer in trainer.optimizers
                if isinstance(optimizer, StackedOptimizer)
            ]
            checkpoint["lr_schedulers"] = [
                _own(cast(StackedScheduler, config.scheduler).schedulers[index].state_dict())
                for config in trainer.lr_scheduler_configs
            ]
            precision = trainer.precision_plugin
            state = precision.state_dict()
            if state:
                checkpoint[type(precision).__qualname__] = state
    if particle.hparams:
        if name := hparams_name(particle):
            checkpoint[particle.CHECKPOINT_HYPER_PARAMS_NAME] = name
        checkpoint[particle.CHECKPOINT_HYPER_PARAMS_KEY] = dict(particle.hparams)
    particle.on_save_checkpoint(checkpoint)
    return checkpoint


def hook_checkpoint(particle: LightningModule, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a stack's checkpoint that a particle's own checkpoint hooks may read."""
    shared = {
        name: checkpoint[name] for name in ("epoch", "global_step", "pytorch-lightning_version") if name in checkpoint
    }
    return {**shared, "state_dict": particle.state_dict()}


def hook_additions(particle: LightningModule, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that a particle's ``on_save_checkpoint`` adds to its checkpoint."""
    before = hook_checkpoint(particle, checkpoint)
    after = dict(before)
    particle.on_save_checkpoint(after)
    return {name: value for name, value in after.items() if name not in before}


def _own(state: Any) -> Any:
    """A copy of a state dict that copies only the views of stacked memory; ``deepcopy`` would copy the memory of all."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _own(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_own(value) for value in state]
    return copy.deepcopy(state)
