"""LightningCLIs as users have them, importable by tests and workers."""

from __future__ import annotations

import threading
from enum import Enum
from typing import Any

import numpy as np
import torch
from jsonargparse.typing import Path_fr
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from torch import nn

from lightning_evo import EvolutionCLI
from toys import ToyData, ToyNet


class Witness(Callback):
    """Notes what it has been given."""


class HookedCLI(EvolutionCLI):
    """Has every hook, and each finds what it finds in an ordinary fit."""

    def __init__(self, *args, **kwargs):
        self.factor = 3
        self.lock = threading.Lock()  # can't be sent to a worker
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser):
        parser.add_argument("--name", type=str, default="baseline")
        parser.link_arguments("data.num_features", "model.init_args.features", apply_on="instantiate")

    def before_instantiate_classes(self):
        self.heard = [
            f"before_instantiate {self.subcommand} {self.config.fit.name} {self.config[self.subcommand].name}"
        ]

    def instantiate_trainer(self, **kwargs):
        kwargs["default_root_dir"] = "somewhere/else"
        kwargs["max_epochs"] = 1
        return super().instantiate_trainer(**kwargs)

    def after_instantiate_classes(self):
        self.heard.append(f"after_instantiate {type(self.model).__name__} {self.config_init.fit.name}")

    def before_fit(self):
        self.model.heard = self.heard
        self.heard.append(f"before_fit {self.datamodule.batch_size * self.factor}")

    def after_fit(self):
        (metrics,) = self.trainer.test(self.model, datamodule=self.datamodule)
        self.heard.append(f"after_fit {self.trainer.current_epoch} {metrics['test_acc']}")
        print("; ".join(self.heard))


class LockedCLI(HookedCLI):
    """Needs in a worker what can't be sent there."""

    def before_fit(self):
        self.lock.acquire()


class OwnTrainerCLI(LightningCLI):
    """Makes its Trainer by itself."""

    def instantiate_trainer(self, **kwargs):
        return Trainer(accelerator="cpu")


class OverridingCLI(LightningCLI):
    """Sets what a gene was to set."""

    def before_instantiate_classes(self):
        self.config[self.subcommand].model.init_args.width = 16


class SavingConfig(SaveConfigCallback):
    """Saves the config elsewhere as well."""

    def save_config(self, trainer, pl_module, stage):
        print(
            "saved",
            self.config.model.init_args.width,
            "max_epochs" in self.parser.dump(self.config, skip_validation=True),
        )


class LibraryCLI(LightningCLI):
    """A library's, with a section of another name for the module, and the module as a property."""

    def add_core_arguments_to_parser(self, parser):
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "routine", subclass_mode=self.subclass_mode_model)
        parser.add_lightning_class_args(self._datamodule_class, "points", subclass_mode=self.subclass_mode_data)

    def instantiate_classes(self):
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule, self.routine = self._get(self.config_init, "points"), self._get(self.config_init, "routine")
        self._add_configure_optimizers_method_to_model(self.subcommand)
        self.trainer = self.instantiate_trainer()

    @property
    def model(self):
        return self.routine


class OursFirst(EvolutionCLI, LibraryCLI):
    """The order that is natural."""


class TheirsFirst(LibraryCLI, EvolutionCLI):
    """The other order."""


class Kind(Enum):
    """What a parser writes down and reads again."""

    PLAIN = 1


DEFAULT = object()


class Awkward(ToyNet):
    """Arguments with defaults that no config can hold."""

    def __init__(
        self,
        width: int = 4,
        untyped=nn.CrossEntropyLoss(),  # noqa: B008
        typed: nn.Module = nn.ReLU(),  # noqa: B008
        number=np.float64(0.25),  # noqa: B008
        tensor=torch.tensor([0.5]),  # noqa: B008
        function=lambda x: x,
        thing: Any = DEFAULT,
        several=(nn.ReLU(), 1),  # noqa: B008
        mapping={"a": DEFAULT, "b": 1},  # noqa: B006
        kind: Kind = Kind.PLAIN,
        loss=nn.functional.cross_entropy,
        dtype: torch.dtype = torch.float32,
        ids: set[int] = {1, 2},  # noqa: B006
    ) -> None:
        super().__init__(width)
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}


class FileData(ToyData):
    """Data with a file."""

    def __init__(self, labels: Path_fr, batch_size: int = 32) -> None:
        super().__init__(batch_size=batch_size)
        self.labels = labels


class LinkedCLI(EvolutionCLI):
    """Has links of both kinds."""

    def add_arguments_to_parser(self, parser):
        parser.link_arguments("data.batch_size", "model.width")
        parser.link_arguments("data.num_features", "model.features", apply_on="instantiate")


def main():
    """A program that makes a LightningCLI."""
    torch.set_float32_matmul_precision("high")
    LightningCLI(ToyNet, ToyData, seed_everything_default=3, trainer_defaults={"max_epochs": 1, "accelerator": "cpu"})


def main_not_run():
    """One that trains by itself."""
    cli = LightningCLI(ToyNet, ToyData, run=False)
    cli.trainer.fit(cli.model, cli.datamodule)


def main_without():
    """One that makes none."""


def main_with_arguments(path):
    """One that needs an argument."""
