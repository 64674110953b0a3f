"""How does ``fit`` become a search? A LightningCLI whose config may have an ``evolution:`` section."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.archive import ArchiveError
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.cli.console import refuse
from lightning_evo.evolution import Evolution, SearchError, SearchInterrupted
from lightning_evo.functional.growth.steps import GrowthError
from lightning_evo.genome import Gene
from lightning_evo.predictors.curves.learning_curve import CurvePredictor
from lightning_evo.predictors.curves.policies import StoppingPolicy
from lightning_evo.reporting.reporter import Reporter
from lightning_evo.swarms import SwarmError
from lightning_evo.training import Blueprint, ConfigTrainable
from lightning_evo.training.blueprint import gist, load_yaml, root_of
from lightning_evo.utils.lazy import load_all

__all__ = ["EvolutionCLI", "run"]

# Short class names in a config resolve only among classes that are imported, strategies only once they are registered.
load_all(
    "lightning_evo.callbacks",
    "lightning_evo.data",
    "lightning_evo.genome",
    "lightning_evo.models",
    "lightning_evo.predictors",
    "lightning_evo.reporting.tensorboard",
    "lightning_evo.reporting.wandb",
    "lightning_evo.swarms",
)

GROUP = "evolution"


class EvolutionCLI(LightningCLI):
    """A LightningCLI that searches when its config has an ``evolution:`` section, and is an ordinary one when not.

    Use it in place of ``LightningCLI``, subclass it likewise: links, defaults and overridden methods apply to every
    candidate. A subclass must be importable by worker processes (not defined in a script's ``__main__``) where
    candidates train on several devices.

    Example:
        ``python my_cli.py fit --config config.yaml --config search.yaml`` with::

            from lightning_evo import EvolutionCLI

            class MyCLI(EvolutionCLI):
                def add_arguments_to_parser(self, parser):
                    parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

            if __name__ == "__main__":
                MyCLI(MyModel, MyData)
    """

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        # Candidates are built by a parser without subcommands, which has no use for the section.
        self._has_section = add_subcommands
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        if self._has_section:
            _add_section(parser)

    @property
    def searching(self) -> bool:
        """Whether this call is a search: ``fit`` with anything in the ``evolution:`` section."""
        if not self._has_section or self.config.get("subcommand") != "fit":
            return False
        asked, defaults = vars(self._section()), vars(self._parser("fit").get_defaults()[GROUP])
        # The one default that is an object comes in two forms; on its own it asks for nothing.
        return any(value != defaults[name] for name, value in asked.items() if name != "final")

    def _section(self) -> Namespace:
        return self.config["fit"][GROUP]

    def _set_seed(self) -> None:
        # A search's candidates are seeded one by one; the number in the config is the run's seed.
        if not self._has_section or not self.searching:
            super()._set_seed()

    def instantiate_classes(self) -> None:
        self.subcommand = self.config.get("subcommand")
        if not self._has_section or not self.searching:
            super().instantiate_classes()
            return
        # Nothing is built in the controller: every candidate is, in its own process.
        self.config_init = self.config
        self.model, self.datamodule = None, None
        self.trainer: Any = self.trainer_class

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:  # devices and strategies that there aren't
            if not self._has_section:
                raise  # a candidate's, which is then a failed one
            refuse(ValueError(f"trainer: {str(error).splitlines()[0]}"))

    def fit(self, model: LightningModule, datamodule: LightningDataModule | None = None, **kwargs: Any) -> None:
        """Search, or fit where there is no ``evolution:`` section."""
        if not self.searching:
            self.trainer.fit(model, datamodule=datamodule, **kwargs)
            return
        try:
            if kwargs.get("ckpt_path") is not None:
                raise SearchError(
                    f"ckpt_path {kwargs['ckpt_path']!r} has no meaning in a search: candidates start anew"
                )
            self.evolution().run()
        except (SearchError, ArchiveError) as error:
            refuse(error)
        except SearchInterrupted as stop:
            print(stop, file=sys.stderr)
            raise SystemExit(130) from None

    def evolution(self) -> Evolution:
        """The search that the config describes.

        Raises:
            SearchError: If it can't be made; the message names the config path.
        """
        parser = self._parser("fit")
        config = load_yaml(parser.dump(self.config["fit"], skip_unset=False, skip_link_targets=True))
        section = config.pop(GROUP)
        for name in ("config", *self._subcommand_method_arguments["fit"]):
            config.pop(name, None)
        arguments = _instantiate(section)
        try:
            return Evolution(**arguments, config=ConfigTrainable(config, self._blueprint()))
        except ValueError as error:
            raise SearchError(f"{GROUP}: {error}") from None

    def _blueprint(self) -> Blueprint:
        # Not every version of Lightning has all of them.
        names = (
            "model_class",
            "datamodule_class",
            "trainer_class",
            "trainer_defaults",
            "seed_everything_default",
            "parser_class",
            "parser_kwargs",
            "subclass_mode_model",
            "subclass_mode_data",
            "auto_configure_optimizers",
        )
        return Blueprint(type(self), {name: getattr(self, name) for name in names if hasattr(self, name)})


def run(arguments: Sequence[str]) -> None:
    """Run :class:`EvolutionCLI` on a command line.

    A config it can't read, a Trainer that can't be made, a swarm that can't train, a network that can't grow: one line on
    standard error, exit code 2.
    """
    quiet = {"exit_on_error": False}
    parser_kwargs = {**quiet, **{name: dict(quiet) for name in EvolutionCLI.subcommands()}}
    # Strategies that start further processes (DDP, swarm) run this command line again.
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            EvolutionCLI(args=list(arguments), parser_kwargs=parser_kwargs)
    except ArgumentError as error:
        print(f"lightning-evo: error: {_helped(gist(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        refuse(refusal)
    finally:
        sys.argv = argv


def _refusal(error: Exception) -> Exception | None:
    """What a constructor, a swarm or growth says against the config, behind what it is wrapped in; else ``None``."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, (SwarmError, GrowthError)):
            return at
        at = at.__cause__ or at.__context__
    root = root_of(error)
    return root if root is not error and isinstance(root, ValueError) else None


def _add_section(parser: ArgumentParser) -> None:
    parser.add_class_arguments(Evolution, GROUP, skip=_NOT_IN_SECTION, instantiate=False)
    # Genes are parsed one by one, later: an error then names the gene's own config path.
    parser.add_argument(f"--{GROUP}.space", type=dict[str, dict] | None, default=None, help="config path -> gene")


def _instantiate(section: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments from the section, each error with its config path."""
    rest = {name: value for name, value in section.items() if name != "space"}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Evolution, GROUP, skip=_NOT_IN_SECTION, instantiate=False)
    made = {}
    for name, value in rest.items():
        # One by one, so that an error in a constructor is known to be this argument's.
        with _named(f"{GROUP}.{name}"):
            made[name] = parser.instantiate(parser.parse_object({GROUP: {name: value}}))[GROUP][name]
    made["space"] = {path: _gene(path, gene) for path, gene in (section["space"] or {}).items()}
    return made


def _gene(path: str, config: Any) -> Gene:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Gene, "gene", required=True)
    with _named(f"{GROUP}.space.{path}"):
        return parser.instantiate(parser.parse_object({"gene": config})).gene


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Give errors inside the config path they belong to."""
    try:
        yield
    except (ArgumentError, ValueError, TypeError) as error:
        text = gist(error)
        text = text if text.startswith(path) else f"{path}: {text.removeprefix('gene').lstrip(':. ')}"
        raise SearchError(_helped(text)) from None


def _helped(message: str) -> str:
    """The message, with the classes there are where one was named that isn't."""
    places = (
        (rf"{GROUP}\.algorithm[\w.]*\.predictor", Predictor),
        (rf"{GROUP}\.algorithm", Algorithm),
        (rf"{GROUP}\.callbacks[\w.]*\.predictor", CurvePredictor),
        (rf"{GROUP}\.callbacks[\w.]*\.policy", StoppingPolicy),
        (rf"{GROUP}\.callbacks", SearchCallback),
        (rf"{GROUP}\.reporters", Reporter),
        (rf"{GROUP}\.space", Gene),
    )
    for place, kind in places:
        if re.match(place, message) and "class that can be imported" in message:
            ours = [cls.__name__ for cls in _subclasses(kind) if cls.__module__.startswith("lightning_evo.")]
            names = sorted(name for name in ours if not name.startswith("_"))
            return f"{message}; there are {', '.join(names)}, and your own by import path"
    return message


def _subclasses(kind: type) -> set[type]:
    below: list[type] = kind.__subclasses__()
    return {found for cls in below for found in {cls, *_subclasses(cls)}}


_NOT_IN_SECTION: set[str | int] = {"space", "config", "function", "executor", "progress"}
