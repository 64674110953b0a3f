"""Private names of Lightning, under public ones; and typed access to what its Trainer has without declaring it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.optim import Optimizer

__all__ = [
    "CLASS_PATH_KEY",
    "INSTANTIATOR_KEY",
    "CLIWithHooks",
    "callbacks_of",
    "data_sources",
    "datamodule_of",
    "dump_checkpoint",
    "forget_resuming",
    "hparams_name",
    "init_optimizers",
    "is_compiled_by_lightning",
    "overfit_batches_of",
    "reload_data",
    "set_datamodule",
    "subcommand_arguments",
    "subcommand_parser",
    "synchronize_layers",
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


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data module of a training, if it has one: ``trainer.datamodule``, which is set undeclared."""
    return cast(Any, trainer).datamodule


def overfit_batches_of(trainer: Trainer) -> int | float:
    """How many batches (or which share of them) to overfit: ``trainer.overfit_batches``, which is set undeclared."""
    return cast(Any, trainer).overfit_batches


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


def synchronize_layers(strategy: DDPStrategy, module: nn.Module) -> nn.Module:
    """The module with synchronised batch normalisation where the Trainer has ``sync_batchnorm``.

    Without it, batch normalisations that growth has added aren't synchronised as the others are.
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
    """A LightningCLI two of whose private steps are public methods, to be overridden.

    Without ``_set_seed`` as a step, a search would seed the controller, and candidates be seeded twice. Without
    ``_add_instantiators``, Lightning 2.5 dumps a config before there is one.
    """

    def apply_seed(self) -> None:
        """Seed everything as the config says."""
        super()._set_seed()

    def add_instantiators(self) -> None:
        """Have classes built by functions that keep what they were built from."""
        super()._add_instantiators()

    def _set_seed(self) -> None:
        self.apply_seed()

    def _add_instantiators(self) -> None:
        self.add_instantiators()


def subcommand_parser(cli: LightningCLI, name: str) -> LightningArgumentParser:
    """The parser of a subcommand such as ``fit``; without it, its section can't be dumped, nor its defaults be known."""
    return cli._parser(name)


def subcommand_arguments(cli: LightningCLI, name: str) -> list[str]:
    """The arguments of the Trainer's method behind a subcommand; without it, they would be part of a candidate's config."""
    methods: Mapping[str, list[str]] = cli._subcommand_method_arguments
    return methods[name]
