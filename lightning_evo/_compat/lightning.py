"""Private names of Lightning, under public ones; and typed access to what its Trainer has without declaring it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.core.mixins import hparams_mixin
from lightning.pytorch.core.optimizer import (
    _configure_optimizers,
    _configure_schedulers_automatic_opt,
    _init_optimizers_and_lr_schedulers,
)
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim import Optimizer

__all__ = [
    "CLASS_PATH_KEY",
    "HPARAMS",
    "INSTANTIATOR_KEY",
    "CLIWithHooks",
    "ProcessStrategy",
    "ScriptLauncher",
    "callbacks_of",
    "data_sources",
    "datamodule_of",
    "dump_checkpoint",
    "forget_given_batch_size",
    "forget_resuming",
    "given_batch_size",
    "hparams_name",
    "init_optimizers",
    "is_compiled_by_lightning",
    "log_every_n_steps",
    "loops_state",
    "no_given_hyperparameters",
    "overfit_batches_of",
    "parse_optimizers",
    "profiler_of",
    "redirect_checkpoints",
    "reload_data",
    "set_callbacks",
    "set_datamodule",
    "set_device",
    "subcommand_arguments",
    "subcommand_parser",
    "synchronize_layers",
    "trainer_of",
    "wrap_again",
]

INSTANTIATOR_KEY = "_instantiator"
"""The hyperparameter that names the function which built the module, where LightningCLI has built it.

Without it, such a module is rebuilt by its class alone, with sections of a config where it wants objects.
"""

CLASS_PATH_KEY = "_class_path"
"""The hyperparameter in which that function finds the module's class; without it, ``load_grown`` asks for the class."""


# Trainer --------------------------------------------------------------------------------------------------------------


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks, in the order in which they are called: ``trainer.callbacks``, which is set undeclared."""
    return cast(Any, trainer).callbacks


def profiler_of(trainer: Trainer) -> Profiler:
    """The Trainer's profiler: ``trainer.profiler``, which is set undeclared."""
    return cast(Any, trainer).profiler


def set_callbacks(trainer: Trainer, callbacks: list[Callback]) -> None:
    """Give a Trainer other callbacks, also in the middle of a hook, which goes on with those it began with."""
    cast(Any, trainer).callbacks = callbacks


def redirect_checkpoints(callback: Callback, directory: Path) -> None:
    """Have a callback with a ``dirpath`` save to a directory of this machine.

    Without it, one whose ``dirpath`` is a URL goes on writing by that file system.
    """
    vars(callback)["dirpath"] = str(directory)
    if hasattr(callback, "_fs"):
        vars(callback)["_fs"] = get_filesystem(directory)


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data module of a training, if it has one: ``trainer.datamodule``, which is set undeclared."""
    return cast(Any, trainer).datamodule


def overfit_batches_of(trainer: Trainer) -> int | float:
    """How many batches (or which share of them) to overfit: ``trainer.overfit_batches``, which is set undeclared."""
    return cast(Any, trainer).overfit_batches


def trainer_of(module: LightningModule) -> Trainer | None:
    """The Trainer that a module belongs to, if any; without it, ``module.trainer`` raises outside a training."""
    return module._trainer


def log_every_n_steps(trainer: Trainer) -> int:
    """The Trainer's setting of that name, which is set undeclared."""
    return cast(Any, trainer).log_every_n_steps


class _Given:
    """The last ``batch_size`` that a training step gave to ``self.log``."""

    size: int | None = None


def forget_given_batch_size(trainer: Trainer) -> None:
    """Wait for the next ``self.log(..., batch_size=...)`` of a training step.

    Without it, batches that only the module can tell the size of (of graphs, say) are counted by their first tensor.
    """
    results = trainer.fit_loop.epoch_loop._results
    noted = getattr(results, "given_batch_size", None)
    if noted is None:
        noted, log = _Given(), results.log

        def noting(*args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
            if batch_size is not None:
                noted.size = int(batch_size)
            log(*args, batch_size=batch_size, **kwargs)

        vars(results).update(log=noting, given_batch_size=noted)
    noted.size = None


def given_batch_size(trainer: Trainer) -> int | None:
    """Return the last one since :func:`forget_given_batch_size`; ``None`` if there was none."""
    noted = getattr(trainer.fit_loop.epoch_loop._results, "given_batch_size", None)
    return None if noted is None else noted.size


def loops_state(trainer: Trainer) -> dict[str, Any]:
    """The part of a checkpoint that says how far the loops are; without it, a particle's checkpoint can't be resumed."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def set_datamodule(trainer: Trainer, datamodule: LightningDataModule | None) -> None:
    """Give a Trainer that isn't training its data module."""
    cast(Any, trainer).datamodule = datamodule


def dump_checkpoint(trainer: Trainer, weights_only: bool = False) -> dict[str, Any]:
    """What ``trainer.save_checkpoint`` writes; without it, neither one particle nor an average can be saved as a model."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only)


def forget_resuming(trainer: Trainer) -> None:
    """Have the loaders' iterators made anew in the first epoch after a resume.

    Without it, a continued training draws other samples than one that wasn't interrupted.
    """
    trainer.fit_loop._resuming_from_checkpoint = False


def data_sources(trainer: Trainer) -> list[Any]:
    """What the fit loop asks for the training and validation loaders; without it, FastTraining can't give faster ones."""
    return [trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source]


def reload_data(trainer: Trainer) -> None:
    """Have the loaders made anew in mid-training, as Lightning's own ``BatchSizeFinder`` does.

    Without it, a scheduled value of the data module has no effect before the next training.
    """
    trainer.fit_loop._combined_loader = None
    trainer.fit_loop.setup_data()
    trainer.fit_loop.epoch_loop.val_loop._combined_loader = None  # made when it is needed


# Modules and optimizers -----------------------------------------------------------------------------------------------


def init_optimizers(module: LightningModule) -> tuple[list[Optimizer], list[Any]]:
    """The optimizers and scheduler configs that ``configure_optimizers`` describes, whatever form it gives them in.

    Without it, optimizers can't be compared or made anew outside ``trainer.fit``.
    """
    return _init_optimizers_and_lr_schedulers(module)


def parse_optimizers(given: Any) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Optimizers and scheduler configs in what ``configure_optimizers`` returned, whatever form it has.

    Without it, the optimizers of a stack's particles can't be put together.
    """
    optimizers, schedulers, monitor = _configure_optimizers(given)
    return optimizers, _configure_schedulers_automatic_opt(schedulers, monitor)


@contextmanager
def no_given_hyperparameters() -> Iterator[None]:
    """Make modules that are built inside LightningCLI save their own arguments as hyperparameters.

    Without it, a stack's particles would save those of the stack.
    """
    token = hparams_mixin._given_hyperparameters.set(None)
    try:
        yield
    finally:
        hparams_mixin._given_hyperparameters.reset(token)


HPARAMS = ("_hparams", "_hparams_initial", "_hparams_name")
"""The attributes in which a module keeps its hyperparameters: now, at first, and their name.

Without them, hyperparameters that differ between a stack's particles aren't found, and a particle of a config keeps the
stack's.
"""


def set_device(module: LightningModule, like: LightningModule) -> None:
    """Set a module's ``device`` and ``dtype`` to those of another.

    Without it, a particle reports the device that it was built on.
    """
    module._device, module._dtype = like._device, like._dtype


def hparams_name(module: LightningModule) -> str:
    """The argument as which the class takes all hyperparameters together; empty if it doesn't, or saved none.

    Without it, such a module can't be rebuilt from its hyperparameters.
    """
    return getattr(module, "_hparams_name", None) or ""


def is_compiled_by_lightning(module: nn.Module) -> bool:
    """Whether Lightning has unwrapped a module that ``torch.compile`` made, and calls its compiled ``forward``.

    Without it, growth wouldn't know that compiled code has to be dropped.
    """
    return getattr(module, "_compiler_ctx", None) is not None


# Strategies -----------------------------------------------------------------------------------------------------------


class ProcessStrategy(DDPStrategy):
    """DDP's processes without its wrapping of the model, and with a launcher of the subclass's own.

    Without ``_configure_launcher``, ranks would be started without failure detection; without ``_setup_model``, gradients of
    different particles would be averaged.
    """

    def make_launcher(self) -> Any:
        """The launcher of the processes."""
        raise NotImplementedError

    @property
    def synchronizes_layers(self) -> bool:
        """Whether the Trainer has ``sync_batchnorm``; without it, statistics of different particles would be mixed."""
        return self._layer_sync is not None

    def _configure_launcher(self) -> None:
        self._launcher = self.make_launcher()

    def _setup_model(self, model: nn.Module) -> Any:
        return model


class ScriptLauncher(_SubprocessScriptLauncher):
    """DDP's launcher, which runs the script again for the other ranks; without it, a swarm's ranks can't be started."""

    def start_others(self) -> None:
        """Start the processes of this machine's other ranks, as ``self.procs``."""
        self._call_children_scripts()

    def set_threads(self) -> None:
        """Divide the CPU's threads among this machine's ranks, unless the environment sets them.

        Without it, each rank computes with all threads.
        """
        _set_num_threads_if_needed(num_processes=self.num_processes)


def synchronize_layers(strategy: DDPStrategy, module: nn.Module) -> nn.Module:
    """The module with synchronized batch normalization where the Trainer has ``sync_batchnorm``.

    Without it, batch normalizations that growth has added aren't synchronized as the others are.
    """
    layer_sync = strategy._layer_sync
    return module if layer_sync is None else layer_sync.apply(module)


def wrap_again(strategy: DDPStrategy) -> None:
    """Wrap the network by ``DistributedDataParallel`` anew.

    Without it, DDP isn't told again that the graph is static where it is.
    """
    strategy.configure_ddp()
    strategy._pl_static_graph_delay_done = False


# LightningCLI ---------------------------------------------------------------------------------------------------------


class CLIWithHooks(LightningCLI):
    """A LightningCLI some of whose private steps are public methods, to be overridden.

    Without ``_set_seed`` as a step, a search would seed the controller, and candidates be seeded twice. Without
    ``_add_instantiators``, Lightning 2.5 dumps a config before there is one. Without ``_run_subcommand`` and
    ``_prepare_subcommand_kwargs``, a search would call ``before_fit`` in the controller, and no candidate would. Without
    ``_instantiate_trainer``, an override of ``instantiate_trainer`` would decide where candidates write.
    """

    def apply_seed(self) -> None:
        """Seed everything as the config says."""
        super()._set_seed()

    def add_instantiators(self) -> None:
        """Have classes built by functions that keep what they were built from."""
        super()._add_instantiators()

    def run_subcommand(self, subcommand: str) -> None:
        """Call ``before_<subcommand>``, the subcommand's method, and ``after_<subcommand>``."""
        super()._run_subcommand(subcommand)

    def subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """The arguments with which the subcommand's method is called."""
        return super()._prepare_subcommand_kwargs(subcommand)

    def make_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Make the Trainer of its arguments and of callbacks that have sections of their own."""
        return super()._instantiate_trainer(config, callbacks)

    def _set_seed(self) -> None:
        self.apply_seed()

    def _run_subcommand(self, subcommand: str) -> None:
        self.run_subcommand(subcommand)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return self.subcommand_kwargs(subcommand)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        return self.make_trainer(config, callbacks)

    def _add_instantiators(self) -> None:
        self.add_instantiators()


def subcommand_parser(cli: LightningCLI, name: str) -> LightningArgumentParser:
    """The parser of a subcommand such as ``fit``; without it, its section can't be dumped, nor its defaults be known."""
    return cli._parser(name)


def subcommand_arguments(cli: LightningCLI, name: str) -> list[str]:
    """The arguments of the Trainer's method behind a subcommand; without it, they would be part of a candidate's config."""
    methods: Mapping[str, list[str]] = cli._subcommand_method_arguments
    return methods[name]
