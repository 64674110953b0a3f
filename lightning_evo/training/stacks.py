"""Several candidates in one training: a stack of particles, each with its own record."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_evo.callbacks import CostMeter, FitnessRecorder
from lightning_evo.callbacks.batches import samples_in
from lightning_evo.callbacks.fitness import MetricNotLogged
from lightning_evo.callbacks.search import StackedModule
from lightning_evo.callbacks.speed import SpeedMeter
from lightning_evo.functional.flop_counter import FlopCounter
from lightning_evo.genome import COMPLETED, Result
from lightning_evo.genome.records import StackRecord
from lightning_evo.swarms import stack_particles
from lightning_evo.swarms.logs import recording
from lightning_evo.training.adaptation import Adaptation
from lightning_evo.training.blueprint import Blueprint, dump_yaml
from lightning_evo.training.candidate import (
    CONFIG_FILE,
    conclude,
    copies_of,
    draw_weights,
    isolated,
    join,
    recorder_of,
    trainer_overrides,
)
from lightning_evo.training.loggers import ended_runs, name_loggers
from lightning_evo.training.overrides import apply_genome
from lightning_evo.training.preparation import prepare_in_turn
from lightning_evo.training.request import TrainingRequest
from lightning_evo.training.working_directory import anchored, launch_directory, working_in
from lightning_evo.utils.files import remove_tree
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["Member", "NotStacked", "train_stack"]


class NotStacked(RuntimeError):
    """Candidates that were to train in one stack didn't; the message says why."""


@dataclass(frozen=True)
class Member:
    """A candidate in a stack.

    Args:
        candidate: Its id.
        config: Its complete config, plain data. Its ``seed_everything`` decides its initial weights.
        directory: Its own directory.
        finished: It has its result already, and trains along because the others of its swarm need it.
        genes: Its genome, config path -> value.
    """

    candidate: int
    config: Mapping[str, Any]
    directory: str
    finished: bool = False
    genes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Particle:
    member: Member
    model: LightningModule
    recorder: FitnessRecorder


def train_stack(
    blueprint: Blueprint,
    members: Sequence[Member],
    request: TrainingRequest,
    write: Callable[[str, str], None],
    whole: bool = False,
) -> Result:
    """Train several candidates at once in this process, as one :class:`~lightning_evo.ParticleStack`.

    Each member's directory then holds what a candidate's does that trained by itself: ``config.yaml``, ``curve.jsonl`` (a
    line per epoch, while it trains), ``checkpoint.ckpt`` (of its own class, as if it had trained alone) and the result.
    Its costs are its own parameters and FLOPs, and its share of the stack's seconds and memory; ``samples_per_second``
    goes with the share of the seconds, ``waiting`` and ``utilisation`` are the stack's.

    All members see the same batches, in an order that ``request.data_seed`` decides, and begin with the weights that
    their own seeds decide: so a member's result doesn't depend on the stack's other members, but for rounding, for what is
    drawn while training (dropout), and for callbacks that average.

    Trainer, data, callbacks and loggers are built once, from the first member's config. Callbacks see the stack: ``val_acc``
    is the members' mean, ``val_acc/particle_0`` the first one's.

    Args:
        blueprint: The LightningCLI that builds each of them.
        members: At least two, whose configs differ in the sections of the module and its optimizers alone.
        request: How to train and measure each of them, in the stack's own directory. ``data_seed`` is needed; it decides
            everything random from the training's beginning on.
        write: Leaves a result, as JSON text, in a directory.
        whole: The members make sense only together: when this is called again, because its process died, all begin anew.
            Otherwise those without a result are then left for somebody else to train one by one.

    Returns:
        Completed without a fitness if every member has its result; otherwise failed, with the reason why those that have
        none must be trained one by one. Never an exception but for a full disk.
    """
    started, directory, data_seed = time.time(), request.directory, request.data_seed
    if not whole and any((Path(member.directory) / CONFIG_FILE).exists() for member in members):
        return Result.failure(NotStacked("the worker process that trained the stack died"), started=started)
    Path(directory).mkdir(parents=True, exist_ok=True)
    base = launch_directory(request)
    particles: list[_Particle] = []
    for member in members:
        if member.finished:
            record_in = str(Path(directory) / f"{member.candidate:06d}")
        else:
            record_in = member.directory
            remove_tree(Path(record_in))
        Path(record_in).mkdir(parents=True, exist_ok=True)
        (Path(record_in) / CONFIG_FILE).write_text(dump_yaml(dict(member.config)), encoding="utf-8")
        keep = request.save_checkpoint and not member.finished
        recorder = recorder_of(replace(request, directory=record_in, save_checkpoint=keep))
        try:
            settled = anchored(blueprint, member.config, base) if request.chdir else member.config
            with working_in(request.working_directory):
                particles.append(
                    _Particle(member, _model(blueprint, replace(member, config=settled), directory), recorder)
                )
        except Exception as error:
            _leave(write, member, Result.failure(error, started=started, ended=time.time()))
    meter, speed = _Shares(), SpeedMeter()
    try:
        if len(particles) < 2:
            raise NotStacked(f"of {len(members)} candidates {len(particles)} could be built")
        config = particles[0].member.config
        adaptation = Adaptation(directory, config)
        own_place = working_in(request.working_directory)
        with isolated({"seed_everything": data_seed}), own_place, ended_runs() as loggers:
            stack = stack_particles([particle.model for particle in particles])
            recorders = _Recorders([particle.recorder for particle in particles])
            first, given = copies_of(request.callbacks)
            named = name_loggers(config, directory)
            if request.chdir:
                named = anchored(blueprint, named, base)
            own = [*given, meter, speed, recorders]
            parts = blueprint.build(named, trainer_overrides(config, directory, 1), own, adaptation)
            loggers += parts.trainer.loggers
            prepare_in_turn(directory, stack, parts.datamodule)
            taking_part = join(parts.trainer, request.context, first)
            # Building drew random numbers too, as many as there are weights.
            seed_everything(data_seed, workers=True, verbose=False)
            parts.trainer.fit(stack, datamodule=parts.datamodule)
        record = StackRecord(members[0].candidate, len(particles), stack.lowering, stack.reason or "")
        extras = [meter.extra, adaptation.extra, *(callback.extra for callback in taking_part)]
        extra = {name: value for each in extras for name, value in each.items()}
    except MetricNotLogged as error:
        # Nobody logs it, alone or not.
        for particle in particles:
            _leave(write, particle.member, Result.failure(error, started=started, ended=time.time()))
        return Result.failure(error, started=started)
    except Exception as error:
        return Result.failure(error, started=started)
    for position, particle in enumerate(particles):
        own_extra = {**extra, record.key: replace(record, position=position).to_dict()}
        cost = meter.share(position, speed.cost)
        result = conclude(particle.recorder, cost, request, started, own_extra)
        _leave(write, particle.member, result)
    return Result(COMPLETED, extra={record.key: record.to_dict()}, started=started, ended=time.time())


def _model(blueprint: Blueprint, member: Member, directory: str) -> LightningModule:
    """A member's own module, with the weights it would have if it trained alone."""
    # Its Trainer is thrown away; callbacks and loggers might write files.
    bare = apply_genome(member.config, {"trainer.callbacks": None, "trainer.logger": False})
    genes = {path: value for path, value in member.genes.items() if not path.startswith("trainer.callbacks")}
    with isolated(member.config):
        model = blueprint.build(bare, trainer_overrides(bare, directory, 1), genes=genes).model
        draw_weights(model)
    return model


def _leave(write: Callable[[str, str], None], member: Member, result: Result) -> None:
    if member.finished:
        return
    write(member.directory, result.to_json())


class _Recorders(Checkpoint):
    """Has each particle's metrics, and the checkpoint of its evaluation that counts, kept in its candidate's directory."""

    def __init__(self, recorders: Sequence[FitnessRecorder]) -> None:
        self.recorders = recorders

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._each(trainer, pl_module, partial(FitnessRecorder.read, after_epoch=False))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._each(trainer, pl_module, partial(FitnessRecorder.read, after_epoch=True))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._each(trainer, pl_module, FitnessRecorder.end)

    def _each(self, trainer: Trainer, pl_module: LightningModule, do: Callable[..., None]) -> None:
        assert isinstance(pl_module, StackedModule)
        for i, (recorder, metrics) in enumerate(zip(self.recorders, pl_module.metrics, strict=True)):

            def save(path: Path, i: int = i) -> None:
                trainer.strategy.checkpoint_io.save_checkpoint(pl_module.particle_checkpoint(i), path)

            do(recorder, trainer, metrics, save)


class _Shares(CostMeter):
    """Measures what each of the stack's particles costs: what it would need by itself, and its share of the time."""

    _particles: Sequence[LightningModule] = ()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._counted:
            return
        self._counted = True
        assert isinstance(pl_module, StackedModule)
        self._particles = pl_module.particles
        # The first step of a stack contains its choice of how to compute; a copy of one particle shows what one needs.
        alone = pl_module.particle(0)
        alone.trainer = trainer
        counter = FlopCounter()
        place = (batch_idx,) if is_param_in_hook_signature(alone.training_step, "batch_idx", min_args=2) else ()
        with isolated_random_state(), recording(alone), counter:
            with trainer.precision_plugin.train_step_context():
                outputs: Any = alone.training_step(copy.deepcopy(batch), *place)
            loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
            loss.backward()
        self.cost["flops"] = counter.total / samples_in(trainer, batch, batch_idx)
        self.uncounted = dict(counter.uncounted)

    def share(self, position: int, speed: Mapping[str, float]) -> dict[str, float]:
        """The costs of one particle, given how fast the stack trained."""
        count = len(self._particles)
        cost = self.cost | dict(speed)
        for name in cost.keys() & {"seconds", "peak_memory"}:
            cost[name] /= count
        # Every sample trained all of them: in its share of the seconds a particle saw as many as the stack in all.
        for name in cost.keys() & {"samples_per_second"}:
            cost[name] *= count
        return {**cost, "params": sum(parameter.numel() for parameter in self._particles[position].parameters())}
