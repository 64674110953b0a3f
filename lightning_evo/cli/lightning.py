"""``EvolutionCLI``: a LightningCLI whose config may have an ``evolution:`` section, which turns ``fit`` into a search."""

from __future__ import annotations

import copy
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch import __version__ as lightning_version
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_evo._compat.lightning import CLIWithHooks, subcommand_arguments, subcommand_parser
from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.archive import ArchiveError
from lightning_evo.callbacks.growth.triggers import GrowthTrigger
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.cli.config_files import STRICT_YAML, ConfigFile, bounded_nested_files, place_of_nul
from lightning_evo.cli.console import INTERRUPTED, refuse, report_to_user
from lightning_evo.cli.given_values import check_value, hints_of
from lightning_evo.cli.refusals import find_refused
from lightning_evo.evolution import Evolution, SearchError, SearchInterrupted
from lightning_evo.functional.growth.steps import GrowthError
from lightning_evo.genome import Gene, Json
from lightning_evo.genome.shorthand import flattened, is_full_form
from lightning_evo.predictors.curves.learning_curve import CurvePredictor
from lightning_evo.predictors.curves.policies import StoppingPolicy
from lightning_evo.reporting.reporter import Reporter
from lightning_evo.swarms import SwarmError
from lightning_evo.training import Blueprint, ConfigTrainable
from lightning_evo.training.blueprint import error_summary, load_yaml, root_of
from lightning_evo.utils.lazy import load_all

__all__ = ["EvolutionCLI", "add_section", "instantiate_section", "run", "with_choices"]

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


class EvolutionCLI(CLIWithHooks):
    """A LightningCLI that runs a search if its config has an ``evolution:`` section, and is an ordinary one otherwise.

    Use it and subclass it in place of ``LightningCLI``: links, defaults and overridden methods apply to every candidate.
    Where candidates train on several devices, worker processes must be able to import the subclass: don't define it in a
    script's ``__main__``.

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
        # Candidates are built by a parser without subcommands, which needs no such section.
        self._has_section = add_subcommands
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        if not self._has_section:
            return super().init_parser(**kwargs)
        defaults = {"parser_mode": STRICT_YAML, "dump_header": [f"lightning.pytorch=={lightning_version}"]}
        parser = self.parser_class(**{**defaults, **kwargs})
        parser.add_argument("-c", "--config", action=ConfigFile, help="Path of a configuration file, JSON or YAML.")
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        if self._has_section:
            add_section(parser)

    @property
    def searching(self) -> bool:
        """Whether this call is a search: ``fit`` with a non-empty ``evolution:`` section."""
        if not self._has_section or self.config.get("subcommand") != "fit":
            return False
        given, defaults = vars(self._section()), vars(subcommand_parser(self, "fit").get_defaults()[GROUP])
        # The only default that is an object has two forms; by itself it doesn't request a search, nor does trust.
        return any(value != defaults[name] for name, value in given.items() if name not in ("final", "trust"))

    def _section(self) -> Namespace:
        return self.config["fit"][GROUP]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        with bounded_nested_files():
            super().parse_arguments(parser, args)
        if self._has_section and self.config.get("subcommand") == "fit" and not isinstance(self._section(), Namespace):
            parser.error(f"{GROUP}: {self._section()!r} is not a mapping; give space, objectives and budget")

    def apply_seed(self) -> None:
        # Candidates are seeded one by one; the seed in the config is the run's.
        if not self._has_section or not self.searching:
            super().apply_seed()

    def instantiate_classes(self) -> None:
        self.subcommand = self.config.get("subcommand")
        if not self._has_section or not self.searching:
            try:
                super().instantiate_classes()
            except Exception as error:
                bad_setting = isinstance(root_of(error), (ValueError, TypeError, MisconfigurationException))
                if bad_setting and (refused := self._refused_by_trainer()):
                    refuse(ValueError(refused))
                raise
            return
        # The controller builds nothing: each candidate is built in its own process.
        self.config_init = self.config
        self.model, self.datamodule = None, None
        self.trainer: Any = self.trainer_class

    def _refused_by_trainer(self) -> str | None:
        """Return the error of a callback, logger or other class of the Trainer that refuses its arguments, if any."""
        if not self._has_section or self.subcommand is None:
            return None
        parser = subcommand_parser(self, self.subcommand)
        config = load_yaml(parser.dump(self.config[self.subcommand], skip_unset=False, skip_link_targets=True))
        found = (find_refused(f"trainer.{name}", value, Any) for name, value in config["trainer"].items())
        return next((message for message in found if message is not None), None)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError) as error:  # unavailable devices and strategies
            if not self._has_section:
                raise  # in a worker: the candidate fails
            refuse(ValueError(f"trainer: {str(error).splitlines()[0]}"))

    def fit(self, model: LightningModule, datamodule: LightningDataModule | None = None, **kwargs: Any) -> None:
        """Search, or fit where there is no ``evolution:`` section."""
        if not self.searching:
            self.trainer.fit(model, datamodule=datamodule, **kwargs)
            return
        try:
            if kwargs.get("ckpt_path") is not None:
                raise SearchError(
                    f"ckpt_path: {kwargs['ckpt_path']!r} can't be used in a search: candidates start from scratch"
                )
            self.evolution().run()
        except (SearchError, ArchiveError) as error:
            refuse(error)
        except SearchInterrupted as stop:
            report_to_user(stop)
            raise SystemExit(INTERRUPTED) from None

    def evolution(self) -> Evolution:
        """Return the search that the config describes.

        Raises:
            SearchError: If the config is invalid; the message names the config path.
        """
        parser = subcommand_parser(self, "fit")
        config = load_yaml(parser.dump(self.config["fit"], skip_unset=False, skip_link_targets=True))
        section = config.pop(GROUP)
        for name in ("config", *subcommand_arguments(self, "fit")):
            config.pop(name, None)
        arguments = instantiate_section(section)
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

    Invalid configs, unavailable devices, and errors of swarms and growth end with one line on standard error and exit
    code 2.
    """
    if "fit" in arguments:
        arguments = [f"--{GROUP}.trust=true" if argument == "--trust" else argument for argument in arguments]
    quiet = {"exit_on_error": False}
    parser_kwargs = {**quiet, **{name: dict(quiet) for name in EvolutionCLI.subcommands()}}
    # Strategies that start further processes (DDP, swarm) run this command line again.
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            EvolutionCLI(args=list(arguments), parser_kwargs=parser_kwargs)
    except ArgumentError as error:
        refuse(ValueError(with_choices(error_summary(error))))
    except Exception as error:
        user_error = _user_error(error)
        if user_error is None:
            raise
        refuse(user_error)
    finally:
        sys.argv = argv


def _user_error(error: Exception) -> Exception | None:
    """The error of a constructor, a swarm or growth that caused this one; ``None`` for any other error."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, (SwarmError, GrowthError)):
            return at
        at = at.__cause__ or at.__context__
    root = root_of(error)
    return root if root is not error and isinstance(root, ValueError) else None


def add_section(parser: ArgumentParser) -> None:
    """Add the arguments of ``evolution:`` to a parser."""
    parser.add_class_arguments(Evolution, GROUP, skip=_NOT_IN_SECTION, instantiate=False)
    # Genes are parsed later, one by one, so that an error names the gene's own config path.
    parser.add_argument(f"--{GROUP}.space", type=dict[str, Json] | None, default=None, help="config path -> gene")


def instantiate_section(section: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :class:`Evolution` from the section as plain data.

    Raises:
        SearchError: If one is refused; the message names its config path.
    """
    rest = {name: value for name, value in section.items() if name != "space"}
    parser = ArgumentParser(exit_on_error=False, parser_mode=STRICT_YAML)
    parser.add_class_arguments(Evolution, GROUP, skip=_NOT_IN_SECTION, instantiate=False)
    made = {}
    hints = hints_of(Evolution)
    for name, value in rest.items():
        path = f"{GROUP}.{name}"
        with _config_path(path):
            check_value(path, value, *hints[name])
            if place := place_of_nul(value, path):
                raise ValueError(f"{place}: holds a NUL character, which neither files nor names can")
        # One by one, so that an error in a constructor can be assigned to its argument. Parsing changes what it is given.
        with _config_path(path, value, hints[name][0]):
            made[name] = parser.instantiate(parser.parse_object({GROUP: {name: copy.deepcopy(value)}}))[GROUP][name]
    try:
        space = flattened(section["space"] or {})
    except ValueError as error:
        raise SearchError(f"{GROUP}.space.{error}") from None
    made["space"] = {path: _gene(path, gene) if is_full_form(gene) else gene for path, gene in space.items()}
    return made


def _gene(path: str, config: Any) -> Gene:
    parser = ArgumentParser(exit_on_error=False, parser_mode=STRICT_YAML)
    parser.add_subclass_arguments(Gene, "gene", required=True)
    place = f"{GROUP}.space.{path}"
    with _config_path(place, parsed_as="gene"):
        parsed = parser.parse_object({"gene": config})
        value = parsed.as_dict()["gene"]
        check_value(place, value, Gene)
    with _config_path(place, value, Gene):
        return parser.instantiate(parsed).gene


@contextmanager
def _config_path(path: str, value: Any = None, hint: Any = None, parsed_as: str = "") -> Iterator[None]:
    """Turn errors of the block into a ``SearchError`` with their config path.

    Args:
        path: The config path.
        value: What constructors are called with, as plain data, if the block calls any.
        hint: Its type hint.
        parsed_as: The name that the parser has for the path.
    """
    try:
        yield
    except (ArgumentError, ValueError, TypeError) as error:
        text = error_summary(error)
        if not text.startswith(path):
            below = text.removeprefix(parsed_as)
            text = find_refused(path, value, hint) or path + (below if below[:1] in ":.[" else f": {below}")
        raise SearchError(with_choices(text)) from None


def with_choices(message: str) -> str:
    """A parser's message; where it is about an unknown class, with the available classes."""
    below = r"[\w.\[\]]*"
    places = (
        (rf"{GROUP}\.algorithm{below}\.predictor", Predictor),
        (rf"{GROUP}\.algorithm", Algorithm),
        (rf"{GROUP}\.callbacks{below}\.predictor", CurvePredictor),
        (rf"{GROUP}\.callbacks{below}\.policy", StoppingPolicy),
        (rf"{GROUP}\.callbacks{below}\.triggers", GrowthTrigger),
        (rf"{GROUP}\.callbacks", SearchCallback),
        (rf"{GROUP}\.reporters", Reporter),
        (rf"{GROUP}\.space", Gene),
    )
    for place, kind in places:
        if re.match(place, message) and "class that can be imported" in message:
            ours = [cls.__name__ for cls in _subclasses(kind) if cls.__module__.startswith("lightning_evo.")]
            names = sorted(name for name in ours if not name.startswith("_"))
            return f"{message}; choose from {', '.join(names)}, or give the import path of your own"
    return message


def _subclasses(kind: type) -> set[type]:
    below: list[type] = kind.__subclasses__()
    return {found for cls in below for found in {cls, *_subclasses(cls)}}


_NOT_IN_SECTION: set[str | int] = {"space", "config", "function", "build", "executor", "progress"}
