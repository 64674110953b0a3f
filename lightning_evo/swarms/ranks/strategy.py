"""Training of a swarm in several processes: one particle, or a stack of them, in each, with gradients of its own.

:class:`SwarmStrategy` is the strategy, :class:`RankLauncher` starts and ends its processes, and the functions at the end
save and load the particles of all ranks.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.plugins import CheckpointIO, ClusterEnvironment, Precision
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_evo._compat.lightning import ProcessStrategy, ScriptLauncher
from lightning_evo.genome import derive_seed
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.ranks.failure_detector import FailureDetector
from lightning_evo.swarms.ranks.metrics import RankMetrics
from lightning_evo.swarms.ranks.reinitialize import reinitialize, weights_digest
from lightning_evo.swarms.stack.stack import ParticleStack
from lightning_evo.swarms.swarm import describe, first_difference

__all__ = [
    "RankLauncher",
    "SwarmStrategy",
    "load_particle_checkpoints",
    "rank_path",
    "remove_particle_checkpoints",
    "save_particle_checkpoints",
]


class SwarmStrategy(ProcessStrategy):
    """Train one particle per process and device. Processes communicate losses and weights, but no gradients.

    ``Trainer(strategy="swarm", devices=4)`` trains four particles, after ``import lightning_evo.swarms``
    (``lightning-evo`` imports it); an instance works as well. Processes are started as in DDP, by running the
    script or command line again, or by ``torchrun`` or SLURM; ``num_nodes`` is the number of machines, as in DDP. The
    strategy itself never averages: add :class:`~lightning_evo.callbacks.SwarmAveraging`. If the model is a
    :class:`~lightning_evo.ParticleStack`, every device trains all particles of its stack.

    - **Weights.** Ranks whose particles would be identical draw their own weights from (global seed, rank): the model
      is rebuilt from its hyperparameters, as in ``load_from_checkpoint``; if those don't give the same architecture,
      each layer is reinitialized by its ``reset_parameters``. Rank 0 keeps its weights.
    - **Data.** Every rank trains and validates on all of the data. This uses the sampler that Lightning sets in a
      ``DataLoader``; with ``use_distributed_sampler=False`` or an iterable data set, the loader alone determines the
      data.
    - **Metrics.** Each rank's own, including torchmetrics, and the mean over ranks with ``self.log(...,
      sync_dist=True)``. Metrics monitored by callbacks such as ModelCheckpoint or EarlyStopping are means over ranks in
      every rank, because all must make the same decision. ``metrics`` contains those of every rank; loggers get them as
      ``val_acc/rank_1``.
    - **Checkpoints.** Rank 0's is at the requested path, rank 1's beside it as ``rank1.<name>``: each a plain Lightning
      checkpoint of its particle. With ``ckpt_path``, each rank loads its own, or all load the same one if it wasn't
      written by a swarm.
    - **A dead rank** ends the run in all ranks, within seconds, with an error that names it.

    Not supported: ``sync_batchnorm``, ``AsyncCheckpointIO``, notebooks (processes start from a script).

    Args:
        data: ``same``: all ranks see the same batches in the same order (as in Nytorch); ``own``: a separate order in
            each rank. Other random numbers of a loader, such as augmentation, are separate in both cases.
        initialization: ``own``: as above; ``same``: all start from rank 0's weights, for a pretrained model.
        timeout: Maximum time that a collective waits for a rank that is alive but late; dead ranks are detected
            immediately.
        process_group_backend: Default: ``nccl`` on GPUs, ``gloo`` on CPUs.
        accelerator: As in DDPStrategy; the Trainer sets it.
        parallel_devices: As in DDPStrategy; the Trainer sets them.
        cluster_environment: As in DDPStrategy.
        checkpoint_io: As in DDPStrategy.
        precision_plugin: As in DDPStrategy; the Trainer sets it.

    Raises:
        SwarmError: Before training, in every rank: if there is only one particle, or ranks differ in architecture
            (naming the first difference) or in the number of batches.

    Example:
        ``trainer: {strategy: {class_path: lightning_evo.SwarmStrategy, init_args: {data: own}}, devices: 4}``
    """

    def __init__(
        self,
        data: Literal["same", "own"] = "same",
        initialization: Literal["own", "same"] = "own",
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        accelerator: Accelerator | None = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        for name, given, accepted in (
            ("data", data, ("same", "own")),
            ("initialization", initialization, ("own", "same")),
        ):
            if given not in accepted:
                raise SwarmError(f"{name}: {given!r} is not {accepted[0]!r} or {accepted[1]!r}")
        super().__init__(
            accelerator=accelerator,
            parallel_devices=parallel_devices,
            cluster_environment=cluster_environment,
            checkpoint_io=checkpoint_io,
            precision_plugin=precision_plugin,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self.data, self.initialization = data, initialization
        self.metrics: list[Mapping[str, float]] = []
        """The metrics of each rank's last validation or training epoch, by rank; the same in every rank."""
        self._logged: dict[str, float] = {}
        self._failure_detector: FailureDetector | None = None
        self._rank_metrics: RankMetrics | None = None

    @property
    def failure_detector(self) -> FailureDetector:
        """Detects ranks that have died or failed."""
        if self._failure_detector is None:
            self._failure_detector = FailureDetector(self.global_rank, self.world_size)
        return self._failure_detector

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Sampler settings that give every rank all of the data."""
        every: dict[str, Any] = {"num_replicas": 1, "rank": 0}
        return every if self.data == "same" else {**every, "seed": derive_seed(self._seed, "order", self.global_rank)}

    # Processes.

    def make_launcher(self) -> RankLauncher:
        return RankLauncher(self)

    def connect(self, model: LightningModule) -> None:
        super().connect(model)
        if self.world_size == 1 and not isinstance(model, ParticleStack) and self._fitting(model.trainer):
            raise SwarmError(
                "strategy: swarm with trainer.devices: 1 is a swarm of one particle; set devices to 2 or more, or train a "
                "ParticleStack"
            )

    def setup_distributed(self) -> None:
        """Connect the processes, start failure detection, and seed this process by (global seed, rank)."""
        super().setup_distributed()
        detector = self.failure_detector
        if not detector.connected and self.world_size > 1:
            assert self.cluster_environment is not None
            host = self.cluster_environment.main_address
            address: Any = super().broadcast(detector.listen(host) if self.global_rank == 0 else None)
            if self.global_rank > 0:
                detector.connect(address)
        # Randomness from here on (layers made in configure_model, dropout, augmentation) differs between ranks.
        _seed_all(derive_seed(self._seed, "rank", self.global_rank))

    @property
    def _seed(self) -> int:
        """The seed that all ranks share: that of ``seed_everything``, which started ranks inherit, or 0."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    # Setting up.

    def setup(self, trainer: Trainer) -> None:
        """Set up as a single device does; then, before a ``fit``, compare the ranks and give each its own weights."""
        if self.synchronizes_layers:
            raise SwarmError(
                "sync_batchnorm: true would mix the statistics of different particles; under strategy: swarm leave it false"
            )
        if isinstance(self.checkpoint_io, AsyncCheckpointIO):
            raise SwarmError(
                "AsyncCheckpointIO doesn't report when a file is complete, which a swarm's checkpoint needs; use another"
            )
        # DDPStrategy.setup would wrap the model, or copy rank 0's weights to all.
        super(DDPStrategy, self).setup(trainer)
        module = self.lightning_module
        assert module is not None
        self._rank_metrics = RankMetrics(trainer, module, _particles(module))
        if self._fitting(trainer):
            self._compare(module)
            if trainer.ckpt_path is None:
                self._start(module)

    def _compare(self, module: LightningModule) -> None:
        """Raise in every rank if the particles of one have another architecture."""
        described = self.gather_objects(describe(_particles(module)[0]))
        for rank, description in enumerate(described):
            different = first_difference(described[0], description)
            if different is not None:
                raise SwarmError(
                    f"rank {rank} differs from rank 0, where {different[0]}; in rank {rank} {different[1]}. All particles "
                    "of a swarm need the same architecture: build the model in all ranks from the same arguments"
                )

    def _start(self, module: LightningModule) -> None:
        """Give particles that haven't trained yet their initial weights."""
        if self.initialization == "same":
            with torch.no_grad():
                for tensor in [*module.parameters(), *module.buffers()]:
                    sent = tensor.detach().contiguous()  # NCCL takes no other; channels-last weights aren't
                    dist.broadcast(sent, src=0)
                    tensor.copy_(sent)
            return
        particles = _particles(module)
        digests = self.gather_objects([weights_digest(particle) for particle in particles])
        before = {digest for rank in digests[: self.global_rank] for digest in rank}
        for at, particle in enumerate(particles):
            if digests[self.global_rank][at] in before:
                reinitialize(particle, derive_seed(self._seed, "weights", self.global_rank, at))

    @staticmethod
    def _fitting(trainer: Trainer) -> bool:
        return trainer.state.fn == TrainerFn.FITTING

    # Steps.

    def on_train_start(self) -> None:
        """Raise if ranks have different numbers of batches: they would wait for each other forever."""
        assert self.lightning_module is not None
        numbers = self.gather_objects(self.lightning_module.trainer.num_training_batches)
        for rank, number in enumerate(numbers):
            if number != numbers[0]:
                raise SwarmError(
                    f"rank {rank} differs from rank 0: it has {number} training batches per epoch instead of {numbers[0]}; "
                    "give all ranks the same number, for instance by trainer.limit_train_batches"
                )

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        self.failure_detector.check()
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        self.failure_detector.check()
        return super().validation_step(*args, **kwargs)

    def on_validation_end(self) -> None:
        self._collect_metrics()

    def on_train_end(self) -> None:
        self._collect_metrics()

    def _collect_metrics(self) -> None:
        assert self.lightning_module is not None
        assert self._rank_metrics is not None
        trainer = self.lightning_module.trainer
        if trainer.sanity_checking:
            return
        self.metrics = self.gather_objects(self._rank_metrics.own())
        known = {
            f"{name}/rank_{rank}": value for rank, metrics in enumerate(self.metrics) for name, value in metrics.items()
        }
        fresh = {name: value for name, value in known.items() if self._logged.get(name) != value}
        self._logged = known
        if fresh and self._fitting(trainer):
            for logger in trainer.loggers:
                logger.log_metrics(fresh, step=trainer.global_step)

    def teardown(self) -> None:
        if self._rank_metrics is not None:
            self._rank_metrics.close()
            self._rank_metrics = None
        super().teardown()

    # Collectives.

    def gather_objects(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank: anything that can be pickled."""
        self.failure_detector.check()
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        self.failure_detector.check()
        super().barrier(*args, **kwargs)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        self.failure_detector.check()
        return super().broadcast(obj, src)

    def reduce(self, tensor: Any, group: Any | None = None, reduce_op: Any = "mean") -> Any:
        self.failure_detector.check()
        return super().reduce(tensor, group, reduce_op)

    def all_gather(self, tensor: Tensor, group: Any | None = None, sync_grads: bool = False) -> Tensor:
        self.failure_detector.check()
        return super().all_gather(tensor, group, sync_grads)

    # Checkpoints.

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Save all ranks' particles; see :mod:`~lightning_evo.swarms.ranks.strategy`."""
        save_particle_checkpoints(self, checkpoint, os.fspath(filepath), storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | os.PathLike[str], weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load this rank's particle."""
        # Lightning before 2.6 has no such argument.
        options = {} if weights_only is None else {"weights_only": weights_only}
        return load_particle_checkpoints(self, os.fspath(checkpoint_path), **options)

    def remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """Remove all ranks' particles."""
        remove_particle_checkpoints(self, os.fspath(filepath))


def _particles(module: LightningModule) -> list[LightningModule]:
    return list(module.particles) if isinstance(module, ParticleStack) else [module]


def _seed_all(seed: int) -> None:
    """Seed as ``seed_everything`` does, without making it the seed of whatever comes after (PL_GLOBAL_SEED)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class RankLauncher(ScriptLauncher):
    """Starts the other ranks as DDP does, and ends them with an error that names a rank that died."""

    def __init__(self, strategy: SwarmStrategy) -> None:
        assert strategy.cluster_environment is not None
        super().__init__(strategy.cluster_environment, strategy.num_processes, strategy.num_nodes)
        self._strategy = strategy

    def launch(self, function: Callable, *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        detector = self._strategy.failure_detector
        detector.enter()
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self.start_others()
            detector.describe_exit = self._how_it_ended
            if self.procs:
                threading.Thread(target=self._await_connection, name="swarm-children", daemon=True).start()
        self.set_threads()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            # A collective fails before the failure detector knows which process is gone.
            lost = _is_collective(error) and detector.wait(2.0)
            detector.leave(f"{type(error).__name__}: {_first_line(error)}")
            self._end_children()
            if lost and detector.error is not None:
                raise detector.error from error
            raise
        except SystemExit as error:
            # Lightning passes SIGTERM on to all ranks; any other exit concerns only this rank.
            alone = bool(error.code) and not isinstance(error, SIGTERMException)
            detector.leave(f"SystemExit: {error.code}" if alone else None)
            raise
        except KeyboardInterrupt:
            detector.leave()  # Ctrl-C reaches all ranks
            raise
        detector.leave()
        return result

    def _await_connection(self) -> None:
        """Detect ranks that die before they are connected, while rank 0 waits for them."""
        detector = self._strategy.failure_detector
        while not detector.connected and detector.error is None:
            for at, process in enumerate(self.procs, start=1):
                if process.poll() is not None:
                    rank = self._strategy.global_rank + at
                    detector.declare(
                        rank, f"{_ending(process.returncode)} before it had joined; see its own error above"
                    )
            time.sleep(0.1)

    def _how_it_ended(self, rank: int) -> str | None:
        at = rank - self._strategy.global_rank - 1
        if not 0 <= at < len(self.procs):
            return None
        try:
            return _ending(self.procs[at].wait(timeout=1.0))
        except subprocess.TimeoutExpired:
            return None

    def _end_children(self) -> None:
        """Give the other ranks on this machine time to end by themselves, then kill them."""
        deadline = time.monotonic() + self._strategy.failure_detector.grace
        for process in self.procs:
            try:
                process.wait(timeout=max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _is_collective(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and bool(re.search("gloo|nccl|connection|peer", str(error), re.IGNORECASE))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _ending(code: int) -> str:
    return (
        f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with code {code}"
    )


_KEY = "swarm"


_PREVIOUS = ".previous"


_PART = ".part"


def rank_path(path: str, rank: int) -> str:
    """The path of a rank's particle if a swarm is saved at ``path``.

    >>> rank_path("runs/last.ckpt", 0), rank_path("runs/last.ckpt", 2)
    ('runs/last.ckpt', 'runs/rank2.last.ckpt')
    """
    if rank == 0:
        return path
    folder, name = os.path.split(path)
    return os.path.join(folder, f"rank{rank}.{name}")


def save_particle_checkpoints(
    strategy: SwarmStrategy, checkpoint: dict[str, Any], path: str, storage_options: Any = None
) -> None:
    """Write this rank's checkpoint. All ranks call it, and use rank 0's path."""
    # Ranks name files by their own metrics (`{val_acc:.2f}.ckpt`).
    path, token = strategy.broadcast((path, secrets.token_hex(8)))
    rank, size = strategy.global_rank, strategy.world_size
    checkpoint[_KEY] = {"rank": rank, "size": size, "save": token}
    own = rank_path(path, rank)
    if rank > 0:
        strategy.checkpoint_io.save_checkpoint(checkpoint, own + _PART, storage_options=storage_options)
        if get_filesystem(own).exists(own):
            _move(own, own + _PREVIOUS)
        _move(own + _PART, own)
    strategy.barrier("swarm checkpoint: the other ranks' files are written")
    if rank == 0:
        strategy.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)
    strategy.barrier("swarm checkpoint: rank 0's makes them valid")
    if rank > 0:
        _remove(own + _PREVIOUS)


def load_particle_checkpoints(strategy: SwarmStrategy, path: str, **options: Any) -> dict[str, Any]:
    """Read this rank's checkpoint. All ranks call it, and use rank 0's path.

    All ranks read a checkpoint that no swarm wrote.

    Raises:
        SwarmError: In every rank: another number of ranks wrote it, or a rank's file is missing or of another save.
    """
    path = strategy.broadcast(path)
    if os.path.islink(path):
        path = os.path.realpath(path)  # ModelCheckpoint(save_last="link")
    rank = strategy.global_rank
    checkpoint, problem = None, None
    if rank == 0:
        try:
            checkpoint = strategy.checkpoint_io.load_checkpoint(path, **options)
        except Exception as error:  # of any kind: the other ranks wait for the outcome
            problem = error
    saved, trouble = strategy.broadcast((None if checkpoint is None else checkpoint.get(_KEY), repr(problem)))
    if problem is not None:
        raise problem
    if trouble != "None":
        raise SwarmError(f"rank 0 can't read the checkpoint {path}: {trouble}")
    if saved is not None and saved["size"] != strategy.world_size:
        raise SwarmError(
            f"{path} was written by a swarm of {saved['size']} ranks, and this one has {strategy.world_size}; "
            f"set trainer.devices (times num_nodes) to {saved['size']}, or start from a single rank's file without a swarm"
        )
    if rank > 0:
        checkpoint, problem = _load_own(strategy, rank_path(path, rank) if saved else path, saved, options)
    for other, message in enumerate(strategy.gather_objects(None if problem is None else str(problem))):
        if message is not None:
            raise SwarmError(f"rank {other} can't resume from {path}: {message}")
    assert checkpoint is not None
    return checkpoint


def remove_particle_checkpoints(strategy: SwarmStrategy, path: str) -> None:
    """Delete this rank's checkpoint. All ranks call it, and use rank 0's path."""
    strategy.checkpoint_io.remove_checkpoint(rank_path(strategy.broadcast(path), strategy.global_rank))


def _load_own(
    strategy: SwarmStrategy, own: str, saved: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, Exception | None]:
    """A rank's own checkpoint of the same save as rank 0's: the last file or the one before, which becomes the last."""
    found = []
    try:
        for path in (own, own + _PREVIOUS):
            if saved is None or get_filesystem(path).exists(path):
                checkpoint = strategy.checkpoint_io.load_checkpoint(path, **options)
                if saved is None or checkpoint.get(_KEY, {}).get("save") == saved["save"]:
                    if path != own:
                        _move(path, own)
                    elif saved is not None:
                        _remove(own + _PREVIOUS)
                    return checkpoint, None
                found.append(checkpoint.get("global_step"))
    except Exception as error:  # reported to all ranks
        return None, error
    if found:
        return None, SwarmError(f"{own} belongs to another save (global step {found[0]}) than rank 0's; delete both")
    return None, SwarmError(f"the checkpoint of its particle, {own}, doesn't exist")


def _move(source: str, target: str) -> None:
    if os.path.exists(source):
        os.replace(source, target)  # fsspec's own move isn't atomic on a local disk
    else:
        get_filesystem(source).mv(source, target, recursive=True)


def _remove(path: str) -> None:
    files = get_filesystem(path)
    if files.exists(path):
        files.rm(path, recursive=True)
