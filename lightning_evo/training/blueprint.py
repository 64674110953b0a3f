"""LightningModule, LightningDataModule and Trainer from a config as plain data, made by the LightningCLI itself."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, cast

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo._compat.jsonargparse import ArgumentLink, dump, links_of, read_texts_as
from lightning_evo._compat.lightning import CLIWithHooks, subcommand_arguments, subcommand_parser
from lightning_evo.training.adaptation import Adaptation, without_bars
from lightning_evo.training.overrides import look_up
from lightning_evo.training.plain import plain_config, with_texts
from lightning_evo.training.programs import Program
from lightning_evo.utils.config_files import StrictLoader
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.lazy import load_all
from lightning_evo.utils.text import bounded

__all__ = [
    "Blueprint",
    "ConfigError",
    "Parts",
    "dump_yaml",
    "error_summary",
    "load_yaml",
    "make_trainer",
    "picklable",
    "root_of",
]

Config = dict[str, Any]
"""A LightningCLI config as plain data: ``model``, ``data``, ``trainer``, ``optimizer``, ... without a subcommand."""

# The C loader and dumper are ten times as fast; PyYAML has them wherever libyaml was found.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


read_texts_as(StrictLoader)


class ConfigError(Exception):
    """A config that the parser refuses; the message is the :func:`error_summary` of the parser's."""


def dump_yaml(config: Any) -> str:
    """Plain data as YAML text, keys in their order."""
    try:
        return yaml.dump(config, Dumper=_Dumper, sort_keys=False)
    except UnicodeEncodeError:  # the path of a file whose name isn't UTF-8: libyaml has no escapes for it
        return yaml.dump(config, Dumper=yaml.SafeDumper, sort_keys=False)


def load_yaml(text: str) -> Any:
    """YAML text as plain data."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.scanner.ScannerError as error:
        if "invalid Unicode" not in str(error):
            raise
        return yaml.safe_load(text)


def error_summary(error: BaseException) -> str:
    """Return a parser's nested message in one line: the config path, and what is wrong there.

    >>> nested = ['Parser key "trainer.max_epochs":', "  Errors:", "    - Expected a <class 'int'>", "  Given value: two"]
    >>> error_summary(ValueError(chr(10).join(nested)))
    'trainer.max_epochs: Expected a int. Given value: two'
    """
    path: list[str] = []
    messages: list[str] = []
    mismatches: list[str] = []
    left_out: list[str] = []
    for line in (_with_visible_value(line).removeprefix("- ") for line in _with_indices(str(error).splitlines())):
        if key := re.fullmatch(r'Parser key "(.*)":', line):
            path.append(key[1])
        elif line.startswith("Given value:") and messages and "alue" not in messages[-1] and not _NESTED.search(line):
            messages.append(line)
        elif line and not line.startswith(_NOISE):
            where = (
                left_out if "NoneType" in line else mismatches if line.startswith("Not a valid subclass") else messages
            )
            where.append(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", line))
    text = ". ".join(dict.fromkeys(messages or mismatches or left_out)).replace(
        "dot import path string:", "class that can be imported, not"
    )
    return bounded(": ".join(part for part in (".".join(path), text) if part), _LONGEST)


def _with_indices(lines: list[str]) -> list[str]:
    """Return a parser's nested message, in which the elements of lists are named by their index.

    The parser names only the list. It shows the list's value, though, in which the elements before the refused one are
    parsed already.
    """
    found = list(lines)
    for i, line in enumerate(lines):
        key = re.fullmatch(r'( *)Parser key "(.*)":', line)
        if key is None:
            continue
        given = f"{key[1]}  Given value: ["
        shown = next((below for below in lines[i + 1 :] if below.startswith(given)), None)
        if shown is not None and (index := _first_unparsed(shown.partition(": ")[2])) is not None:
            found[i] = f'{key[1]}Parser key "{key[2]}[{index}]":'
    return found


def _first_unparsed(shown: str) -> int | None:
    """Return the index of a shown list's first element that isn't parsed; ``None`` if there is none."""
    try:
        elements = ast.parse(shown, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if not isinstance(elements, ast.List):
        return None
    return next((i for i, one in enumerate(elements.elts) if not isinstance(one, ast.Call)), None)


def _with_visible_value(line: str) -> str:
    """The line; where a value in it can't be seen, with quotes."""
    return re.sub(r"((?:Given|Got) value:) ?(\s*)$", lambda found: f"{found[1]} {found[2]!r}", line).strip()


_LONGEST = 1000
_NESTED = re.compile(r"Namespace\(|[{\[]")
_UNFIT = ("Does not validate", "Not a valid subclass", "Expected a", "a class path", "a dict with")
_FORMS = ("Subclass types expect", "a class path (str)", "a dict with")
_NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Problem with given class_path", *_FORMS)


@dataclass(frozen=True)
class Parts:
    """The objects that a config builds."""

    model: LightningModule
    datamodule: LightningDataModule | None
    trainer: Trainer
    cli: _CandidateCLI | None = None

    def fit(self, **arguments: Any) -> None:
        """Train as LightningCLI's ``fit`` does: what the CLI's class does before, instead of and after it included.

        Args:
            arguments: More of ``trainer.fit``.
        """
        if self.cli is None:
            self.trainer.fit(self.model, datamodule=self.datamodule, **arguments)
        else:
            self.cli.train(arguments)

    @contextmanager
    def testing(self) -> Iterator[None]:
        """Around a test: what the CLI's class does before and after it."""
        before = getattr(self.cli, "before_test", None) or getattr(self.cli, "before_fit", None)
        if before is not None:
            before()
        yield
        if (after := getattr(self.cli, "after_test", None)) is not None:
            after()


@dataclass(frozen=True)
class Blueprint:
    """A LightningCLI (its class and arguments), from which candidates are built in any process.

    Links between arguments, types, defaults and the user's own overrides of ``LightningCLI`` methods apply to
    candidates exactly as to an ordinary ``fit``. The parser is made once per process.

    Args:
        cli_class: The LightningCLI subclass; the module it is defined in must be importable by workers.
        cli_arguments: Its keyword arguments other than ``args`` and ``run``, picklable.
        attributes: What the class's own constructor had set before it called LightningCLI's, picklable; the arguments are
            then LightningCLI's. Default: the class is made by its own constructor.
        left_out: Further attributes, that can't be pickled -> why.
        program: Instead of these four: what makes the LightningCLI, in every process anew.
        imports: Modules to import first, whose classes configs may name without their module.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> blueprint = Blueprint(cli_arguments={"model_class": BoringModel})
        >>> config = blueprint.resolve({"trainer": {"max_epochs": 3}})
        >>> config["trainer"]["max_epochs"]
        3
    """

    cli_class: type[LightningCLI] = LightningCLI
    cli_arguments: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    program: Program | None = None
    imports: tuple[str, ...] = ()

    def resolve(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Config:
        """Parse ``config`` (over ``base``, if given) and return it complete, as plain data, without link targets.

        What no config can hold, such as a module that is an argument's default, is left out: the default holds.

        Raises:
            ConfigError: If the parser refuses it.
        """
        return self._cli().resolve(config, base)

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise :class:`ConfigError` if the parser refuses ``config``."""
        self.parse(config)

    def resolve_parsed(self, parser: LightningArgumentParser, parsed: Namespace) -> Config:
        """What a parser has parsed, complete and as plain data; see :meth:`resolve`."""
        return plain_config(
            parsed,
            lambda config: cast(Config, load_yaml(dump(parser, config))),
            lambda config: parser.parse_object(copy.deepcopy(config), env=False, defaults=True),
        )

    def parse(self, config: Mapping[str, Any]) -> Namespace:
        """What the parser makes of ``config``, links applied.

        Raises:
            ConfigError: If the parser refuses it.
        """
        return self._cli().parse(config)

    def link_to(self, path: str) -> ArgumentLink | None:
        """The link that decides what is at a config path, if there is one."""
        links = links_of(self._cli().fit_parser)
        inside = (link for link in links if f"{path}.".startswith(f"{link.target}."))
        return next(inside, None)

    @property
    def module_sections(self) -> tuple[str, ...]:
        """The sections of the config that make the LightningModule, its optimizers and their schedulers."""
        return tuple(self._cli().module_sections)

    def overridden(self, *methods: str) -> list[str]:
        """Those of some methods of LightningCLI that its class overrides, or has where LightningCLI has none."""
        kind = self.made_by[0]
        return [
            name
            for name in methods
            if (own := getattr(kind, name, None)) is not None and own is not getattr(LightningCLI, name, None)
        ]

    @property
    def made_by(self) -> tuple[type[LightningCLI], Mapping[str, Any], Mapping[str, Any] | None]:
        """The LightningCLI's class, arguments and attributes, whoever names them."""
        for name in self.imports:
            import_by_name(name)
        if self.program is None:
            return self.cli_class, self.cli_arguments, self.attributes
        made = self.program.made
        return made.cli_class, made.arguments, made.attributes

    def build(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        adaptation: Adaptation | None = None,
        genes: Mapping[str, Any] | None = None,
    ) -> Parts:
        """Instantiate everything that ``config`` describes.

        Args:
            config: A complete config.
            trainer: Trainer arguments that override the config's; they are not part of the candidate.
            callbacks: More callbacks, after the config's own.
            adaptation: What fits the Trainer to a candidate; without it, progress bars alone are left out, where
                ``trainer`` switches them off.
            genes: Config paths that must hold what ``config`` says, whatever the CLI's class does to its config.

        Raises:
            ConfigError: If the parser refuses the config, or the CLI's class changes a gene.
        """
        with _LOCK:
            return self._cli().build(config, dict(trainer or {}), list(callbacks), adaptation, genes or {})

    def _cli(self) -> _CandidateCLI:
        key = pickle.dumps(self)
        with _LOCK:
            return self._made(key)

    def _made(self, key: bytes) -> _CandidateCLI:
        if key not in _CLIS:
            # Short class names in a config resolve only among classes that are imported.
            load_all("lightning_evo.callbacks", "lightning_evo.swarms")
            cli_class, cli_arguments, attributes = self.made_by
            fit = cli_class.subcommands()["fit"]
            # The mixin comes first, so that the user's overrides still run below it. Nothing but `fit` is asked for.
            own = {"subcommands": staticmethod(lambda: {"fit": fit}), "__doc__": cli_class.__doc__}
            made: Any = type(f"Candidate{cli_class.__name__}", (_CandidateCLI, cli_class), own)
            arguments = {**cli_arguments, "save_config_callback": None}
            given = arguments.pop("parser_kwargs", None) or {}
            parser_kwargs = {name: value for name, value in given.items() if name not in cli_class.subcommands()}
            # The config is complete: neither the environment nor a file adds to it.
            for name in ("default_env", "default_config_files"):
                parser_kwargs.pop(name, None)
            arguments |= {"parser_kwargs": {**parser_kwargs, "exit_on_error": False}, "run": True, "args": {}}
            saves = cli_arguments.get("save_config_callback")
            with _quiet_argv():
                cli: _CandidateCLI = made.__new__(made)
                cli.__dict__.update(attributes or {}, _saves=saves)
                cli.__dict__.update(_own_attributes=dict(attributes or {}), _left_out=dict(self.left_out))
                if attributes is None:
                    made.__init__(cli, **arguments)
                else:
                    LightningCLI.__init__(cli, **arguments)
            _CLIS[key] = cli
        return _CLIS[key]


_CLIS: dict[bytes, Any] = {}

# A CLI is one object with state, and `sys.argv` is one for all: candidates in threads are built one after the other.
_LOCK = threading.RLock()

FIT = "fit"


class _CandidateCLI(CLIWithHooks):
    """Mixed in front of the user's LightningCLI: made as one that is to ``fit``, it stops when it has its parser.

    :meth:`build` goes on where it stopped, on a copy of it for each candidate, and :meth:`train` to the end: so the user's
    overrides find ``self.config``, ``self.model``, ``self.trainer`` and all else as in an ordinary ``fit``.
    """

    _own_attributes: Mapping[str, Any]
    _left_out: Mapping[str, str]
    _saves: type[SaveConfigCallback] | None
    _overrides: Mapping[str, Any] | None = None
    _arguments: Mapping[str, Any] = {}
    _made_trainer: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)  # whatever the user's class does there

    def __getattr__(self, name: str) -> Any:
        reason = vars(self).get("_left_out", {}).get(name)
        more = "" if reason is None else f" in a worker process, as it can't be sent there: {reason}"
        raise AttributeError(f"{type(self).__name__.removeprefix('Candidate')} has no {name!r}{more}")

    # -- construction makes the parser and nothing else ----------------------------------------------------------------

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = Namespace(subcommand=FIT, fit=Namespace())

    def apply_seed(self) -> None:
        """A candidate's seed is set by whoever trains it."""

    def add_instantiators(self) -> None:
        if "model" not in (self.fit_parser.groups or ()):
            return  # a section of another name: LightningCLI would have its module save no hyperparameters
        # Lightning 2.5 dumps the config here; there is none yet, and `build` gives each candidate's.
        self.parser.dump = lambda *args, **kwargs: "{fit: {}}"
        try:
            super().add_instantiators()
        finally:
            del self.parser.dump

    def before_instantiate_classes(self) -> None:
        if self._overrides is not None:
            super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        if self._overrides is not None:
            super().instantiate_classes()

    def after_instantiate_classes(self) -> None:
        if self._overrides is not None:
            super().after_instantiate_classes()

    def run_subcommand(self, subcommand: str) -> None:
        if self._overrides is not None:
            super().run_subcommand(subcommand)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = super().init_parser(**kwargs)
        self.module_sections: list[str] = []
        for name in ("add_lightning_class_args", "add_optimizer_args", "add_lr_scheduler_args"):
            vars(parser)[name] = partial(self._add_noted, getattr(parser, name))
        return parser

    def _add_noted(self, add: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Add a section to the parser, and note it if it makes the module, its optimizers or their schedulers."""
        given = inspect.signature(add).bind(*args, **kwargs)
        given.apply_defaults()
        kind = given.arguments.get("lightning_class")
        if kind is not None and not isinstance(kind, type):
            kind = inspect.signature(kind).return_annotation
        if kind is None or (isinstance(kind, type) and issubclass(kind, LightningModule)):
            self.module_sections.append(given.arguments["nested_key"])
        return add(*args, **kwargs)

    # -- what a candidate's training overrides -------------------------------------------------------------------------

    def make_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        self._made_trainer = True
        # The last word: what the user's `instantiate_trainer` sets would otherwise be the same place for all candidates.
        config.update(self._overrides or {})
        if (saves := self._config_saver()) is not None:
            callbacks = [*callbacks, saves]
        return super().make_trainer(config, callbacks)

    def _config_saver(self) -> Callback | None:
        """The user's own way of saving the config, where it is more than the file that a candidate's directory has."""
        if self._saves is None or not is_overridden("save_config", self._saves, SaveConfigCallback):
            return None
        options = {**self.save_config_kwargs, "save_to_log_dir": False}
        return self._saves(self.fit_parser, self.config[FIT], **options)

    def subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return {**super().subcommand_kwargs(subcommand), **self._arguments}

    def after_fit(self) -> None:
        inherited = getattr(super(), "after_fit", None)
        if inherited is None:
            return
        with _left_untested(self.trainer, f"{type(self).__name__.removeprefix('Candidate')}.after_fit"):
            inherited()

    # -- what a blueprint asks -----------------------------------------------------------------------------------------

    @property
    def fit_parser(self) -> LightningArgumentParser:
        """The parser of the subcommand."""
        return subcommand_parser(self, FIT)

    def parse(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Namespace:
        with _quiet_argv():
            for name in subcommand_arguments(self, FIT):
                if name in config:
                    raise ConfigError(f"{name}: is an argument of the Trainer's fit, not part of a candidate's config")
            try:
                below = None
                if base is not None:
                    below = self.fit_parser.parse_object(copy.deepcopy(dict(base)), env=False)
                return self.fit_parser.parse_object(copy.deepcopy(dict(config)), below, env=False)
            except ArgumentError as error:
                raise ConfigError(error_summary(error)) from error

    def resolve(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Config:
        try:
            return plain_config(self.parse(config, base), self._complete, self.parse)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _complete(self, parsed: Namespace) -> Config:
        with _quiet_argv():
            dumped = cast(Config, load_yaml(dump(self.fit_parser, parsed)))
        for name in ("config", *subcommand_arguments(self, FIT)):
            dumped.pop(name, None)
        return dumped

    def build(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any],
        callbacks: Sequence[Callback],
        adaptation: Adaptation | None,
        genes: Mapping[str, Any],
    ) -> Parts:
        cli = copy.copy(self)
        cli.__dict__.update(copy.deepcopy(dict(self._own_attributes)))
        cli.config = Namespace(subcommand=FIT, fit=self.parse(config))
        # Whichever way callbacks come in, here they are together.
        cli.trainer_class = cast(Any, partial(make_trainer, self.trainer_class, adaptation))
        own_defaults = self.trainer_defaults
        own = own_defaults.get("callbacks", [])
        # Callbacks given to the CLI's constructor are instances: a candidate must not get another one's state.
        fresh = copy.deepcopy(own if isinstance(own, list) else [own])
        cli.trainer_defaults = {**own_defaults, "callbacks": [*fresh, *callbacks]}
        cli._overrides = trainer
        with _quiet_argv():
            try:
                said = {path: look_up(cli.config[FIT], path) for path in genes}
                cli.before_instantiate_classes()
                for path, value in said.items():
                    if (changed := look_up(cli.config[FIT], path)) != value:
                        where = f"{type(self).__name__.removeprefix('Candidate')}.before_instantiate_classes"
                        raise ConfigError(
                            f"{path}: the gene has no effect: it says {value!r}, {where} sets {changed!r}"
                        )
                # LightningCLI keeps the first config's dump for the checkpoint's hyperparameters: give it this candidate's.
                self.config_dump = cli.config_dump = self._hyperparameters(cli.config[FIT])
                cli.instantiate_classes()
                cli.after_instantiate_classes()
            except ValueError as error:
                raise root_of(error) from None
        if not cli._made_trainer:
            where = f"{type(self).__name__.removeprefix('Candidate')}.instantiate_trainer"
            raise ConfigError(
                f"{where} makes a Trainer by itself; a search needs it to call super().instantiate_trainer(**kwargs)"
            )
        return Parts(cli.model, getattr(cli, "datamodule", None), cli.trainer, cli)

    def _hyperparameters(self, parsed: Namespace) -> Config:
        try:
            return cast(Config, load_yaml(dump(self.fit_parser, parsed, skip_link_targets=False)))
        except yaml.YAMLError:  # a default that YAML has no form for; an ordinary fit would end here
            return cast(Config, load_yaml(dump(self.fit_parser, with_texts(parsed), skip_link_targets=False)))

    def train(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self.run_subcommand(FIT)


def picklable(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Those attributes that can be sent to another process, and why the others can't."""
    sent: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in attributes.items():
        try:
            pickle.dumps(value)
            sent[name] = value
        except Exception as error:  # whatever a value's own methods raise
            left_out[name] = f"{type(error).__name__}: {error}"
    return sent, left_out


@contextmanager
def _left_untested(trainer: Trainer, where: str) -> Iterator[None]:
    """Have ``trainer.test`` do nothing within the block, and say so: only a search's winner is tested, once."""

    def test(*args: Any, **kwargs: Any) -> list[Any]:
        print(f"{where}: trainer.test is left out, as a search tests its winner alone, at the end")
        return [_Untested()]

    vars(trainer)["test"] = test
    try:
        yield
    finally:
        vars(trainer).pop("test", None)


class _Untested(dict[str, float]):
    """The metrics of a test that wasn't made."""

    def __missing__(self, name: str) -> float:
        return math.nan


def make_trainer(make: Callable[..., Trainer], adaptation: Adaptation | None, **arguments: Any) -> Trainer:
    """The Trainer of the arguments, as far as they fit together."""
    if adaptation is None:
        without_bars(arguments)
        return make(**arguments)
    adaptation.before(arguments)
    trainer = make(**arguments)
    adaptation.after(trainer)
    return trainer


def root_of(error: BaseException) -> BaseException:
    """Return what a constructor raised, where the parser reports only that the value fits none of a union's types."""
    # The cause is what the union's first type says. Another of them may be the one that was meant, and say more.
    told = re.findall(r"^\s*- (.*)$", str(error), re.M) if str(error).startswith("Does not validate") else []
    while str(error).startswith("Does not validate") and error.__cause__ is not None:
        error = error.__cause__
    telling = [line for line in told if not line.startswith(_UNFIT)]
    return ValueError(telling[0]) if telling and str(error).startswith(_UNFIT) else error


@contextmanager
def _quiet_argv() -> Iterator[None]:
    """Hide the process's own command line, which LightningCLI warns of when it is given a config as an object."""
    with _LOCK:
        argv, sys.argv = sys.argv, sys.argv[:1]
        try:
            yield
        finally:
            sys.argv = argv
