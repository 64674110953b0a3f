"""The callback by which a training stops and continues as if it had never stopped."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor

from lightning_evo._compat.lightning import callbacks_of, forget_resuming
from lightning_evo.callbacks.fitness import CHECKPOINT_FILE
from lightning_evo.callbacks.records import ContinuationRecord
from lightning_evo.callbacks.search import Inherited, SearchCallback, SearchContext
from lightning_evo.functional.optimizers import OptimizerSettings, change_settings, optimizer_settings
from lightning_evo.genome import Segment
from lightning_evo.utils.checkpoints import check_whole

__all__ = ["Continuation", "loaders", "schedulers", "steps_per_epoch"]


class Continuation(SearchCallback):
    """Split a training into parts that together equal one uninterrupted training, bit for bit on the CPU.

    Lightning's checkpoints contain weights, optimizers, schedulers and loops. This callback adds what is missing: the
    random state of Python, NumPy, PyTorch and the device, of every process; the generators of data loaders and
    samplers; and the most recently logged metrics, which a plateau scheduler may need. It writes the checkpoint when
    the last epoch is completely finished, after the plateau schedulers have stepped, which is later than
    ``ModelCheckpoint`` does.

    The seed of a later part matters only for values derived from the seed itself: the order of a sampler in several
    processes (DDP), a random split of the data. Use the first part's seed for every part, as a search does.

    ``Trainer(max_epochs=...)`` is always the length of the *whole* training, which schedules depend on; ``end`` is
    where this part ends. The next part is an ordinary ``fit(..., ckpt_path=...)``.

    If the config has changed in the meantime, it takes precedence: hyperparameters of optimizers and schedulers that
    differ from those of the earlier part are set (see :func:`~lightning_evo.functional.optimizers.change_settings`);
    unchanged values are restored.

    It must be the first of ``Trainer(callbacks=[...])``: random draws and changes by other callbacks at the start of an
    epoch, or at the end of training, must come after it.

    Args:
        end: Epochs of the whole training after which this part ends and its state is written. Default: all.
        directory: Directory for the state; default: the trainer's root directory.
        filename: File name of the state (default ``state.ckpt``).

    Attributes:
        changed: Names of the hyperparameters that have changed in the config since the earlier part.

    Raises:
        ValueError: At the start of training, if ``end`` exceeds ``max_epochs``, or if ``max_steps`` is set: parts are
            counted in epochs.

    Example:
        >>> Continuation(end=5).end
        5
    """

    comes_first = True

    def __init__(self, end: int | None = None, directory: str | None = None, filename: str = "state.ckpt") -> None:
        if end is not None and end < 1:
            raise ValueError(f"end: {end!r} is not at least 1")
        self.end, self.directory, self.filename = end, directory, filename
        self.changed: list[str] = []
        self.settings: OptimizerSettings | None = None
        """The optimizers' settings now in force."""
        self._segment: Segment | None = None
        self._parent: Inherited | None = None
        self._started_at: int | None = None
        self._ended_at: int | None = None
        self._trainer: Trainer | None = None
        self._snapshot: dict[str, Any] | None = None  # the state when training ended
        self._restored: dict[str, Any] | None = None  # an earlier part's, until it is in force
        self._whole: int | None = None  # the trainer's max_epochs, while it is lowered to end the part

    # -- in a search ---------------------------------------------------------------------------------------------------

    def join_search(self, context: SearchContext) -> None:
        """Train the candidate's segment; its directory then holds the state at its end as ``checkpoint.ckpt``."""
        if context.segment is not None:
            self._segment, self._parent = context.segment, context.parent
            self.end, self.directory, self.filename = context.segment.end, context.directory, CHECKPOINT_FILE

    @property
    def resume_from(self) -> str | None:
        """The checkpoint to hand to ``fit`` as ``ckpt_path``; ``None``: train from scratch.

        Where the one asked for has vanished, an ancestor's, from which the way to :attr:`end` is longer, or none.
        """
        if self._segment is None or self._segment.start == 0 or self._parent is None:
            return None
        path = self._parent.checkpoint
        return path if path and Path(path).is_file() else None

    @property
    def extra(self) -> Mapping[str, Any]:
        if self._segment is None:
            return {}
        parent, path = self._parent, self.resume_from
        why = "" if parent is None else parent.why or ("" if path else "its checkpoint is gone")
        record = ContinuationRecord(
            parent=parent.candidate if parent is not None and path else None,
            asked=None if parent is None else parent.asked,
            why=why,
            start=self._started_at,
            end=self._ended_at,
            changed=self.changed,
        )
        return {record.key: record.to_dict()}

    def on_settings_change(self, settings: OptimizerSettings) -> None:
        self.settings = settings

    @property
    def checkpoint_path(self) -> Path | None:
        """Where the state at the end of this part is, once it is written."""
        path = None if self.directory is None else Path(self.directory) / self.filename
        return path if path is not None and path.is_file() else None

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._trainer, self._snapshot, self._restored, self.changed = trainer, None, None, []
        if self.directory is None:
            self.directory = trainer.default_root_dir
        if trainer.max_steps != -1:
            raise ValueError(
                f"trainer.max_steps {trainer.max_steps}: parts of a training are counted in epochs; set max_epochs instead"
            )
        whole = trainer.max_epochs
        if self.end is not None and whole is not None and whole != -1 and self.end > whole:
            raise ValueError(f"end {self.end} exceeds trainer.max_epochs {whole}, the length of the whole training")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._segment is None:
            return
        if self._parent is not None:
            # Lightning has just read it: what is whole now was so before.
            check_whole(self._parent.checkpoint, self._parent.digest)
        for callback in callbacks_of(trainer):
            # A candidate's curve and cost are those of its own segment.
            if getattr(callback, "restarts_in_segments", False):
                checkpoint.get("callbacks", {}).pop(callback.state_key, None)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Made, and not yet restored.
        self.settings = optimizer_settings(trainer.optimizers, schedulers(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started_at = trainer.current_epoch
        if self._restored is not None:
            for name, value in self._restored["metrics"].items():
                trainer.callback_metrics.setdefault(name, value)
            self._let_config_win(trainer, self._restored)
        self._end_if_reached(trainer, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        if not any(hasattr(loader, "load_state_dict") for loader in loaders(trainer.train_dataloader)):
            # Have the loaders' iterators made anew, now, as in a training that was not interrupted: those made when
            # training started drew from another random state. (Lightning 2.5 does so anyway.)
            forget_resuming(trainer)
        _set_generators(trainer, restored["generators"])
        states = restored["random"]
        if len(states) != trainer.world_size:
            rank_zero_warn(
                f"the random state of {len(states)} processes can't be given to {trainer.world_size}: this training goes "
                "on with another one"
            )
            return
        _set_random_state(states[trainer.global_rank])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_if_reached(trainer, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._whole is not None:
            trainer.fit_loop.max_epochs, self._whole = self._whole, None
        self._ended_at = trainer.current_epoch
        self._snapshot = self._state(trainer, gather=True)
        assert self.directory is not None
        trainer.save_checkpoint(Path(self.directory) / self.filename)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        if self._snapshot is not None:
            return self._snapshot
        return {} if self._trainer is None else self._state(self._trainer, gather=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None

    # -- inside --------------------------------------------------------------------------------------------------------

    def _end_if_reached(self, trainer: Trainer, trained: int) -> None:
        if self.end is not None and trained >= self.end and self._whole is None:
            # Not by `should_stop`, which waits for `min_epochs` and is still set in a later `fit`.
            self._whole, trainer.fit_loop.max_epochs = trainer.fit_loop.max_epochs, self.end

    def _let_config_win(self, trainer: Trainer, restored: Mapping[str, Any]) -> None:
        assert self.settings is not None
        before = restored["steps_per_epoch"]
        ratio = steps_per_epoch(trainer) / before if before else 1.0
        configs = trainer.lr_scheduler_configs
        self.changed = change_settings(
            trainer.optimizers,
            schedulers(trainer),
            OptimizerSettings(**restored["settings"]),
            self.settings,
            [ratio if config.interval == "step" else 1.0 for config in configs],
        )

    def _state(self, trainer: Trainer, gather: bool) -> dict[str, Any]:
        """What Lightning's checkpoint leaves out.

        Args:
            trainer: In training.
            gather: Ask all processes for their random state; they must all call this. Else only this one's is known.
        """
        own = _random_state(trainer.strategy.root_device)
        states: list[Any] = [own]
        if gather and trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        return {
            "random": states,
            "generators": [generator.get_state() for generator in _generators(trainer)],
            "metrics": {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()},
            "settings": None if self.settings is None else self.settings.to_dict(),
            "steps_per_epoch": steps_per_epoch(trainer),
        }


def schedulers(trainer: Trainer) -> list[Any]:
    """The schedulers at work."""
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimizer steps of an epoch; 0 if unknown."""
    batches = trainer.num_training_batches
    return math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else 0


def _random_state(device: torch.device) -> dict[str, Any]:
    """The global random states, as what a checkpoint can hold and ``torch.load(weights_only=True)`` reads."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = cast(
        tuple[str, Any, int, int, float], numpy.random.get_state(legacy=True)
    )
    state: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(keys.astype(numpy.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu" and (backend := _backend(device.type)) is not None:
        state["device"] = [device.type, backend.get_rng_state().cpu()]
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if "device" in state:
        kind, device_state = state["device"]
        if (backend := _backend(kind)) is not None and backend.is_available():
            backend.set_rng_state(device_state.cpu())


def _backend(kind: str) -> Any:
    """``torch.cuda``, ``torch.mps`` or the like; ``None`` for a device without a random state that can be set."""
    backend = getattr(torch, kind, None)
    return backend if hasattr(backend, "set_rng_state") else None


def loaders(iterables: Any) -> list[Any]:
    """The loaders in a ``trainer.train_dataloader``, which may be several, or none yet."""
    return [] if iterables is None else CombinedLoader(iterables).flattened


def _generators(trainer: Trainer) -> list[torch.Generator]:
    """The generators that data loaders and samplers draw from, where they have their own."""
    found: dict[int, torch.Generator] = {}
    for loader in [*loaders(trainer.train_dataloader), *loaders(trainer.val_dataloaders)]:
        batches = getattr(loader, "batch_sampler", None)
        for holder in (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                found[id(generator)] = generator
    return list(found.values())


def _set_generators(trainer: Trainer, states: list[Tensor]) -> None:
    generators = _generators(trainer)
    if len(generators) != len(states):
        rank_zero_warn(
            f"the data loaders have {len(generators)} generators of their own, and had {len(states)}: their order is not "
            "the one of an uninterrupted training"
        )
        return
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state.cpu())
