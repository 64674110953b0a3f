"""Somebody else's program: a library's LightningCLI with sections of its own names, links and hooks; it knows no search."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from toys import ToyData, ToyNet


class TheirCLI(LightningCLI):
    """Calls the module's section ``routine``."""

    def __init__(self, greeting, *args, **kwargs):
        self.greeting = greeting
        super().__init__(*args, **kwargs)

    def add_core_arguments_to_parser(self, parser):
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.add_lightning_class_args(self._model_class, "routine")
        parser.add_lightning_class_args(self._datamodule_class, "points")

    def add_arguments_to_parser(self, parser):
        parser.link_arguments("points.batch_size", "routine.width")

    def instantiate_classes(self):
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule, self.routine = self._get(self.config_init, "points"), self._get(self.config_init, "routine")
        self.trainer = self.instantiate_trainer()

    def after_instantiate_classes(self):
        print(self.greeting, self.config.fit.seed_everything)

    @property
    def model(self):
        return self.routine


def main():
    """Its command."""
    TheirCLI(
        "hello", ToyNet, ToyData, seed_everything_default=3, trainer_defaults={"max_epochs": 1, "accelerator": "cpu"}
    )
