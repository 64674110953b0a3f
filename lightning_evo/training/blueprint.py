"""LightningModule, LightningDataModule and Trainer from a config as plain data, made by the LightningCLI itself."""

from __future__ import annotations

import ast
import copy
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

from lightning_evo._compat.jsonargparse import read_texts_as
from lightning_evo._compat.lightning import CLIWithHooks
from lightning_evo.training.adaptation import Adaptation, without_bars
from lightning_evo.utils.config_files import StrictLoader
from lightning_evo.utils.lazy import load_all
from lightning_evo.utils.text import bounded

__all__ = ["Blueprint", "ConfigError", "Parts", "dump_yaml", "error_summary", "load_yaml", "make_trainer", "root_of"]

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


@dataclass(frozen=True)
class Blueprint:
    """A LightningCLI (its class and arguments), from which candidates are built in any process.

    Links between arguments, types, defaults and the user's own overrides of ``LightningCLI`` methods apply to
    candidates exactly as to an ordinary ``fit``. The parser is made once per process.

    Args:
        cli_class: The LightningCLI subclass; the module it is defined in must be importable by workers.
        cli_arguments: Its keyword arguments other than ``args`` and ``run``, picklable.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> blueprint = Blueprint(cli_arguments={"model_class": BoringModel})
        >>> config = blueprint.resolve({"trainer": {"max_epochs": 3}})
        >>> config["trainer"]["max_epochs"]
        3
    """

    cli_class: type[LightningCLI] = LightningCLI
    cli_arguments: Mapping[str, Any] = field(default_factory=dict)

    def resolve(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Config:
        """Parse ``config`` (over ``base``, if given) and return it complete, as plain data, without link targets.

        Raises:
            ConfigError: If the parser refuses it.
        """
        cli = self._cli()
        parsed = cli.parse(config, base)
        with _quiet_argv():
            dumped = cli.parser.dump(parsed, skip_unset=False, skip_validation=True, skip_link_targets=True)
        return cast(Config, load_yaml(dumped))

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise :class:`ConfigError` if the parser refuses ``config``."""
        self.parse(config)

    def parse(self, config: Mapping[str, Any]) -> Namespace:
        """Return ``config`` as the parser resolves it, links applied.

        Raises:
            ConfigError: If the parser refuses it.
        """
        return self._cli().parse(config)

    def build(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        adaptation: Adaptation | None = None,
    ) -> Parts:
        """Instantiate everything that ``config`` describes.

        Args:
            config: A complete config.
            trainer: Trainer arguments that override the config's; they are not part of the candidate.
            callbacks: More callbacks, after the config's own.
            adaptation: What fits the Trainer to a candidate; without it, progress bars alone are left out, where
                ``trainer`` switches them off.

        Raises:
            ConfigError: If the parser refuses the config.
        """
        with _LOCK:
            return self._cli().build(config, dict(trainer or {}), list(callbacks), adaptation)

    def _cli(self) -> _CandidateCLI:
        key = pickle.dumps(self)
        with _LOCK:
            return self._made(key)

    def _made(self, key: bytes) -> _CandidateCLI:
        if key not in _CLIS:
            # Short class names in a config resolve only among classes that are imported.
            load_all("lightning_evo.callbacks", "lightning_evo.swarms")
            # The mixin comes first, so that the user's overrides still run below it.
            made = type(f"Candidate{self.cli_class.__name__}", (_CandidateCLI, self.cli_class), {})
            arguments = {**self.cli_arguments, "save_config_callback": None}
            parser_kwargs = {**arguments.pop("parser_kwargs", {}), "exit_on_error": False}
            for subcommand in self.cli_class.subcommands():
                parser_kwargs.pop(subcommand, None)
            with _quiet_argv():
                _CLIS[key] = made(**arguments, parser_kwargs=parser_kwargs, run=False, args={})
        return _CLIS[key]


_CLIS: dict[bytes, Any] = {}

# A CLI is one object with state, and `sys.argv` is one for all: candidates in threads are built one after the other.
_LOCK = threading.RLock()


class _CandidateCLI(CLIWithHooks):
    """Mixed in front of the user's LightningCLI: the parser is made at once, objects only by :meth:`build`."""

    _overrides: Mapping[str, Any] | None = None
    _callbacks: Sequence[Callback] = ()

    # -- construction makes the parser and nothing else ----------------------------------------------------------------

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = Namespace()

    def apply_seed(self) -> None:
        """A candidate's seed is set by whoever trains it."""

    def add_instantiators(self) -> None:
        # Lightning 2.5 dumps the config here; there is none yet, and `build` gives each candidate's.
        self.parser.dump = lambda *args, **kwargs: "{}"
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

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        return super().instantiate_trainer(**{**kwargs, **(self._overrides or {})})

    # -- what a blueprint asks -----------------------------------------------------------------------------------------

    def parse(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Namespace:
        with _quiet_argv():
            try:
                if base is None:
                    return self.parser.parse_object(copy.deepcopy(dict(config)))
                below = self.parser.parse_object(copy.deepcopy(dict(base)))
                return self.parser.parse_object(copy.deepcopy(dict(config)), below)
            except ArgumentError as error:
                raise ConfigError(error_summary(error)) from error

    def build(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any],
        callbacks: Sequence[Callback],
        adaptation: Adaptation | None,
    ) -> Parts:
        self.config = self.parse(config)
        # LightningCLI keeps the first config's dump for the checkpoint's hyperparameters: give it this candidate's.
        self.config_dump = load_yaml(
            self.parser.dump(self.config, skip_unset=False, skip_validation=True, skip_link_targets=False)
        )
        own_class, own_defaults = self.trainer_class, self.trainer_defaults
        own = own_defaults.get("callbacks", [])
        try:
            self._overrides = trainer
            # Whichever way callbacks come in, here they are together.
            self.trainer_class = cast(Any, partial(make_trainer, own_class, adaptation))
            # Callbacks given to the CLI's constructor are instances: a candidate must not get another one's state.
            fresh = copy.deepcopy(own if isinstance(own, list) else [own])
            self.trainer_defaults = {**own_defaults, "callbacks": [*fresh, *callbacks]}
            with _quiet_argv():
                try:
                    self.before_instantiate_classes()
                    self.instantiate_classes()
                    self.after_instantiate_classes()
                except ValueError as error:
                    raise root_of(error) from None
            return Parts(self.model, self.datamodule, self.trainer)
        finally:
            self.trainer_class, self.trainer_defaults = own_class, own_defaults
            self._overrides = None
            # Keep no reference: the next candidate needs the memory.
            for name in ("model", "datamodule", "trainer", "config_init"):
                self.__dict__.pop(name, None)


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
