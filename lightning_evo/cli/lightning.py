"""``EvolutionCLI``: a LightningCLI whose config may have an ``evolution:`` section, which turns ``fit`` into a search."""

from __future__ import annotations

import copy
import functools
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_evo._compat.jsonargparse import dump, instantiate
from lightning_evo._compat.lightning import CLIWithHooks, subcommand_arguments, subcommand_parser
from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.archive import ArchiveError
from lightning_evo.callbacks.growth.triggers import GrowthTrigger
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.cli.config_files import STRICT_YAML, bounded_nested_files, place_of_nul, read_strictly
from lightning_evo.cli.console import INTERRUPTED, refuse, report_to_user
from lightning_evo.cli.given_values import check_value, hints_of
from lightning_evo.cli.refusals import find_refused
from lightning_evo.evolution import Evolution, SearchError, SearchInterrupted
from lightning_evo.execution import end_in_import
from lightning_evo.functional.growth.steps import GrowthError
from lightning_evo.genome import Gene, Json
from lightning_evo.genome.shorthand import flattened, is_full_form
from lightning_evo.predictors.curves.learning_curve import CurvePredictor
from lightning_evo.predictors.curves.policies import StoppingPolicy
from lightning_evo.reporting.reporter import Reporter
from lightning_evo.swarms import SwarmError
from lightning_evo.training import Blueprint, ConfigTrainable
from lightning_evo.training.blueprint import error_summary, load_yaml, picklable, root_of
from lightning_evo.training.programs import Made, Program, ProgramError
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.lazy import load_all
from lightning_evo.utils.one_lightning import imported_before

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

_CLI = TypeVar("_CLI", bound=LightningCLI)


class EvolutionCLI(LightningCLI):
    """A LightningCLI that runs a search if its config has an ``evolution:`` section, and is an ordinary one otherwise.

    Use it and subclass it in place of ``LightningCLI``, or beside a subclass of that one (``class MyCLI(EvolutionCLI,
    TheirCLI)``, in either order): links, defaults and overridden methods apply to every candidate, ``before_fit`` and
    ``after_fit`` too. Where candidates train on several devices, worker processes must be able to import the subclass:
    don't define it in a script's ``__main__``.

    Example:
        ``python my_cli.py fit --config config.yaml --config search.yaml`` with::

            from lightning_evo import EvolutionCLI

            class MyCLI(EvolutionCLI):
                def add_arguments_to_parser(self, parser):
                    parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")

            if __name__ == "__main__":
                MyCLI(MyModel, MyData)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(searching_class(cls))

    @property
    def searching(self) -> bool:
        """Whether this call is a search: ``fit`` with a non-empty ``evolution:`` section."""
        return False

    def evolution(self) -> Evolution:
        """Return the search that the config describes.

        Raises:
            SearchError: If the config is invalid; the message names the config path.
        """
        raise SearchError("there is no search: this LightningCLI is a candidate's")


def searching_class(kind: type[_CLI]) -> type[_CLI]:
    """A LightningCLI's class with the search's steps before its own, wherever ``EvolutionCLI`` is among its bases."""
    if issubclass(kind, _SearchingCLI):
        return kind
    named = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (_SearchingCLI, kind), {**named, "user_class": kind})


class _SearchingCLI(CLIWithHooks):
    """Mixed in front of the user's LightningCLI in the process that he started: searches where it would fit."""

    user_class: type[LightningCLI] = EvolutionCLI
    program: Program | None = None
    imports: tuple[str, ...] = ()
    _runs = True
    _keeps_hyperparameters = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        # What the user's constructor has set before it called LightningCLI's: hooks may need it.
        self._own_attributes = {name: value for name, value in vars(self).items() if name not in _ARGUMENTS}
        self._runs = add_subcommands
        if add_subcommands:
            end_in_import()
        with _cause_of_refused_classes():
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        read_strictly(parser)
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        add_section(parser)

    def add_instantiators(self) -> None:
        self._keeps_hyperparameters = True
        if not self._runs or "model" in (subcommand_parser(self, "fit").groups or ()):
            super().add_instantiators()

    @property
    def searching(self) -> bool:
        if not self._runs or self.config.get("subcommand") != "fit":
            return False
        return _asks_for_search(self.config["fit"][GROUP])

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        with bounded_nested_files(), _cause_of_refused_classes():
            super().parse_arguments(parser, args)
        if not self._runs:
            if _asks_for_search(self.config.get(GROUP)):
                parser.error(f"{GROUP}: {type(self).__name__}(run=False) can't search: leave run=False out")
            self.config.pop(GROUP, None)
        elif self.config.get("subcommand") == "fit" and not isinstance(section := self.config["fit"][GROUP], Namespace):
            parser.error(f"{GROUP}: {section!r} is not a mapping; give space, objectives and budget")

    def apply_seed(self) -> None:
        # Candidates are seeded one by one; the seed in the config is the run's.
        if not self.searching:
            super().apply_seed()

    # The controller builds nothing: each candidate is built in its own process, where these steps are the user's.

    def before_instantiate_classes(self) -> None:
        if not self.searching:
            super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        if self.searching:
            return
        try:
            super().instantiate_classes()
        except Exception as error:
            bad_setting = isinstance(root_of(error), (ValueError, TypeError, MisconfigurationException))
            if bad_setting and (refused := self._refused_by_trainer()):
                refuse(ValueError(refused))
            raise

    def after_instantiate_classes(self) -> None:
        if not self.searching:
            super().after_instantiate_classes()

    def _refused_by_trainer(self) -> str | None:
        """Return the error of a callback, logger or other class of the Trainer that refuses its arguments, if any."""
        subcommand = self.config.get("subcommand") if self._runs else None
        if subcommand is None:
            return None
        config = load_yaml(dump(subcommand_parser(self, subcommand), self.config[subcommand]))
        found = (find_refused(f"trainer.{name}", value, Any) for name, value in config["trainer"].items())
        return next((message for message in found if message is not None), None)

    def make_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        try:
            return super().make_trainer(config, callbacks)
        except (MisconfigurationException, ValueError) as error:  # unavailable devices and strategies
            refuse(ValueError(f"trainer: {str(error).splitlines()[0]}"))

    def run_subcommand(self, subcommand: str) -> None:
        if not self.searching:
            super().run_subcommand(subcommand)
            return
        try:
            for name in subcommand_arguments(self, "fit"):
                if name == "ckpt_path" and (given := self.config["fit"].get(name)) is not None:
                    raise SearchError(f"ckpt_path: {given!r} can't be used in a search: candidates start from scratch")
            self.evolution().run()
        except (SearchError, ArchiveError) as error:
            refuse(error)
        except SearchInterrupted as stop:
            report_to_user(stop)
            raise SystemExit(INTERRUPTED) from None

    def evolution(self) -> Evolution:
        parser, parsed = subcommand_parser(self, "fit"), self.config["fit"].clone()
        # The section alone: other sections may hold what no config can.
        section = load_yaml(dump(_section_parser(), Namespace({GROUP: parsed[GROUP]}), validate=True))[GROUP]
        for name in (GROUP, "config", *subcommand_arguments(self, "fit")):
            parsed.pop(name, None)
        try:
            arguments = instantiate_section(section)
            blueprint = self._blueprint()
            return Evolution(**arguments, config=ConfigTrainable(blueprint.resolve_parsed(parser, parsed), blueprint))
        except ValueError as error:
            raise SearchError(f"{GROUP}: {error}") from None

    def _blueprint(self) -> Blueprint:
        if self.program is not None:
            return Blueprint(program=self.program, imports=self.imports)
        # Not every version of Lightning has all of them.
        arguments = {name: getattr(self, name) for name in _ARGUMENTS if hasattr(self, name)}
        if not self._keeps_hyperparameters:
            arguments["load_from_checkpoint_support"] = False
        attributes, left_out = picklable(self._own_attributes)
        return Blueprint(self.user_class, arguments, attributes, left_out=left_out, imports=self.imports)


_TWO_LIGHTNINGS = (
    "pytorch_lightning was imported before lightning_evo, so its classes are not those of lightning.pytorch: "
    "import lightning_evo first, or write `import lightning.pytorch as pl`"
)


@contextmanager
def _cause_of_refused_classes() -> Iterator[None]:
    """Where a class is refused that may be of another Lightning than ours, say so."""
    try:
        yield
    except MisconfigurationException as error:
        if not imported_before():
            raise
        refuse(ValueError(f"{error} {_TWO_LIGHTNINGS}"))
    except (ArgumentError, SystemExit) as error:
        if imported_before() and getattr(error, "code", 2) == 2:
            report_to_user(f"note: {_TWO_LIGHTNINGS}")
        raise


_ARGUMENTS = (
    "model_class",
    "datamodule_class",
    "save_config_callback",
    "save_config_kwargs",
    "trainer_class",
    "trainer_defaults",
    "seed_everything_default",
    "parser_class",
    "parser_kwargs",
    "subclass_mode_model",
    "subclass_mode_data",
    "auto_configure_optimizers",
)
"""Arguments of LightningCLI that it keeps under their names."""


def _asks_for_search(section: Any) -> bool:
    """Whether something in a section asks for a search."""
    if not isinstance(section, Namespace):
        return section is not None
    given, defaults = vars(section), vars(_section_parser().get_defaults()[GROUP])
    # The only default that is an object has two forms; by itself it doesn't request a search, nor does a flag.
    return any(value != defaults.get(name) for name, value in given.items() if name not in ("final", *FLAGS.values()))


FLAGS = {"--trust": "trust", "--retry-failed": "retry_failed"}
"""Short for settings of the section that concern one start of the search: option -> setting that it makes true."""


def with_flags(arguments: Sequence[str]) -> list[str]:
    """A command line in which the section's flags are written out.

    >>> with_flags(["fit", "--trust"])
    ['fit', '--evolution.trust=true']
    """
    return [f"--{GROUP}.{FLAGS[argument]}=true" if argument in FLAGS else argument for argument in arguments]


def run(arguments: Sequence[str]) -> None:
    """Run :class:`EvolutionCLI` on a command line, or with ``--cli`` somebody else's LightningCLI as one.

    Invalid configs, unavailable devices, and errors of swarms and growth end with one line on standard error and exit
    code 2.
    """
    given, imports = _taken("--import", arguments)
    given, programs = _taken("--cli", given)
    if "fit" in given:
        given = with_flags(given)
    program = Program(programs[-1], tuple(given)) if programs else None
    # Strategies that start further processes (DDP, swarm) run this command line again.
    argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")
            for name in imports:
                import_by_name(name)
            made = Made(EvolutionCLI, {}, {}) if program is None else program.made
            _run_cli(made, given, program, tuple(imports))
    except ArgumentError as error:
        message = with_choices(error_summary(error))
        refuse(ValueError(message if program is not None else _with_program(message)))
    except (ImportError, ProgramError) as error:
        if isinstance(error, ImportError) and not imports:
            raise
        refuse(ValueError(f"{'--cli' if isinstance(error, ProgramError) else '--import'} {error}"))
    except Exception as error:
        user_error = _user_error(error)
        if user_error is None:
            raise
        refuse(user_error)
    finally:
        sys.argv = argv


def _run_cli(made: Made, args: list[str], program: Program | None, imports: tuple[str, ...]) -> None:
    """Make a LightningCLI of what a program gave its constructor, with the search's steps before its own."""
    kind: type[LightningCLI] = searching_class(made.cli_class)
    theirs = dict(made.arguments.get("parser_kwargs") or {})
    quiet = {"exit_on_error": False}
    for name in made.cli_class.subcommands():
        theirs[name] = {**theirs.get(name, {}), **quiet}
    arguments = {**made.arguments, "parser_kwargs": {**theirs, **quiet}}
    if isinstance(made.args, list) and not set(args) <= set(made.args):
        # What the program always gives comes first.
        args = [*made.args, *(args[1:] if args[:1] == made.args[:1] else args)]
    elif made.args is not None and not isinstance(made.args, list):
        raise ProgramError(f"gives its LightningCLI {made.args!r} as arguments; a search needs the command line's")
    if not made.runs:
        report_to_user(
            "note: the program's LightningCLI has run=False: what it does with it then is no part of a search"
        )
    cli = kind.__new__(kind)
    vars(cli).update(made.attributes)
    if program is not None or imports:
        vars(cli).update(program=program, imports=imports)
    LightningCLI.__init__(cli, **{**arguments, "args": args, "run": True})


def _taken(option: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line without one option, and that option's values."""
    rest: list[str] = []
    values: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == option:
            value = next(waiting, "")
            if not value or value.startswith("-"):
                refuse(ValueError(f"{option}: names nothing; give it as {option} package.module"))
            values.append(value)
        elif argument.startswith(f"{option}="):
            values.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest, values


def _user_error(error: Exception) -> Exception | None:
    """The error of a constructor, a swarm or growth that caused this one; ``None`` for any other error."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, (SwarmError, GrowthError)):
            return at
        at = at.__cause__ or at.__context__
    root = root_of(error)
    return root if root is not error and isinstance(root, ValueError) else None


@functools.cache
def _section_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    add_section(parser)
    return parser


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
            made[name] = instantiate(parser, parser.parse_object({GROUP: {name: copy.deepcopy(value)}}, env=False))[
                GROUP
            ][name]
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
        parsed = parser.parse_object({"gene": config}, env=False)
        value = parsed.as_dict()["gene"]
        check_value(place, value, Gene)
    with _config_path(place, value, Gene):
        return cast(Gene, instantiate(parser, parsed).gene)


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


def _with_program(message: str) -> str:
    """The message; where a config seems to belong to a LightningCLI of the user's own, with how to name it."""
    theirs = "if the config belongs to a program with a LightningCLI of its own, name that: --cli package.module:main"
    if found := re.match(
        r"(model|data): (?:Option|Validation failed: Key) '(\w+)' is not (?:accepted|expected)", message
    ):
        return f"{found[1]}: names no class_path, but has {found[2]!r}; {theirs} (or --cli train.py)"
    if re.match(r"Subcommand '\w+' does not accept option '[^']+'", message):
        return f"{message}; {theirs} (or --cli train.py)"
    return message


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
