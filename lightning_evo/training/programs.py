"""Somebody else's LightningCLI, as it is: what a script, a program's ``main`` or a class gives its constructor."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.cli import LightningCLI

from lightning_evo.utils.imports import import_by_name

__all__ = ["Made", "Program", "ProgramError"]


class ProgramError(Exception):
    """A program that makes no LightningCLI, or can't be run; the message says why."""


@dataclass(frozen=True)
class Made:
    """What a program gave a LightningCLI's constructor.

    Args:
        cli_class: The class.
        arguments: The arguments but ``args`` and ``run``.
        attributes: What the class's own constructor had set before.
        args: The command line that the program gave it; ``None``: the process's.
        runs: Whether the LightningCLI was to run a subcommand.
    """

    cli_class: type[LightningCLI]
    arguments: Mapping[str, Any]
    attributes: Mapping[str, Any]
    args: Any = None
    runs: bool = True


@dataclass(frozen=True)
class Program:
    """What makes a LightningCLI: a path ``train.py``, ``package.module:main``, a module, or an installed command's name.

    What is named after the colon is called without arguments: a function, or a subclass of LightningCLI. Without a colon
    a module is run as ``python -m`` would. The program ends where it makes its LightningCLI: nothing is parsed, built or
    trained. Whatever it does before (environment, registries, precision) so happens in every process that trains.

    Args:
        name: The program.
        arguments: Its command line.
    """

    name: str
    arguments: tuple[str, ...] = field(default=(), compare=False)

    @property
    def made(self) -> Made:
        """What it makes; it is run once in each process.

        Raises:
            ProgramError: If it makes no LightningCLI.
        """
        if self.name not in _made:
            _made[self.name] = self._run()
        return _made[self.name]

    def _run(self) -> Made:
        argv, sys.argv = sys.argv, [self.name.partition(":")[0], *self.arguments]
        try:
            with _reporting():
                self._callable()()
        except _Reached as reached:
            return reached.made
        except SystemExit as stop:
            raise ProgramError(f"{self.name}: ended (exit code {stop.code}) before it made a LightningCLI") from None
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself
                raise ProgramError(f"{self.name}: is called without arguments, but {error}") from None
            raise
        finally:
            sys.argv = argv
        raise ProgramError(f"{self.name}: made no LightningCLI, but the search needs the one that it trains with")

    def _callable(self) -> Callable[[], Any]:
        module, colon, attribute = self.name.partition(":")
        if module.endswith(".py"):
            path = Path(module).expanduser()
            if not path.is_file():
                raise ProgramError(f"{self.name}: there is no such file")
            folder = str(path.resolve().parent)
            if folder not in sys.path:
                sys.path.insert(0, folder)
            if not colon:
                return partial(_run_as_main, path.stem, path)
            module = path.stem
        if colon:
            try:
                found = import_by_name(f"{module}:{attribute}")
            except ImportError as error:
                raise ProgramError(f"{self.name}: {error}") from None
            if not callable(found):
                raise ProgramError(f"{self.name}: {found!r} is neither a function nor a class")
            return cast(Callable[[], Any], found)
        for command in entry_points(group="console_scripts", name=module):
            return cast(Callable[[], Any], command.load())
        spec = _find(module)
        if spec is not None and spec.submodule_search_locations is not None:
            module += ".__main__"
            spec = _find(module)
        if spec is None or spec.origin is None:
            raise ProgramError(f"{self.name}: is no script (.py), module, module:function or installed command")
        return partial(_run_as_main, module, Path(spec.origin))

    @property
    def module(self) -> str:
        """The module that it is run as, which must not be imported instead; empty if there is none."""
        name, colon, _ = self.name.partition(":")
        return "" if colon else Path(name).stem if name.endswith(".py") else name


def _find(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


_made: dict[str, Made] = {}


class _Reached(BaseException):
    """A LightningCLI is being made: the program has said what we want to know."""

    def __init__(self, made: Made) -> None:
        self.made = made


@contextmanager
def _reporting() -> Iterator[None]:
    """Have whatever makes a LightningCLI raise what it was to be made of."""
    original = LightningCLI.__init__
    signature = inspect.signature(original)

    def report(self: LightningCLI, *args: Any, **kwargs: Any) -> None:
        given = dict(signature.bind(self, *args, **kwargs).arguments)
        del given["self"]
        args, runs = given.pop("args", None), given.pop("run", True)
        raise _Reached(Made(type(self), given, dict(vars(self)), args, runs))

    setattr(LightningCLI, "__init__", report)  # noqa: B010 - a method, to type checkers
    try:
        yield
    finally:
        setattr(LightningCLI, "__init__", original)  # noqa: B010


def _run_as_main(name: str, path: Path) -> None:
    """Run a script as ``python`` does, and leave what it defines as the module that it is when it is imported.

    Classes of the program's main module can't be found by other processes, those of a module can: where a script is run
    again, it is the same module.
    """
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    module.__package__ = name.rpartition(".")[0]
    main, sys.modules["__main__"] = sys.modules["__main__"], module
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    finally:
        sys.modules["__main__"] = main
        module.__name__ = name
        for value in vars(module).values():
            if getattr(value, "__module__", None) == "__main__" and isinstance(value, (type, types.FunctionType)):
                value.__module__ = name
