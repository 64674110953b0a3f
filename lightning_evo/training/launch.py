"""The command of a search, and the blueprint of its candidates, for whoever opens one of them later."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

from lightning_evo.training.blueprint import Blueprint
from lightning_evo.training.builder import Builder
from lightning_evo.training.programs import Program
from lightning_evo.utils.imports import import_by_name, public_name
from lightning_evo.utils.ownership import is_own, key_name, mark
from lightning_evo.utils.records import known_fields

__all__ = ["LaunchRecord", "launch_of"]

_BUILDER = "build"
_PROGRAM = "program"
_DEFAULTS = (
    {"class": "lightning.pytorch.trainer.trainer.Trainer"},
    {"class": "lightning.pytorch.cli.LightningArgumentParser"},
)
_STOCK = ("lightning.pytorch.cli.LightningCLI", "lightning_evo.EvolutionCLI", "lightning_evo.cli.EvolutionCLI")


@dataclass(frozen=True)
class LaunchRecord:
    """The start of a search, as its archive holds it.

    Args:
        command: The words of the command line before its options, such as ``python main.py fit``.
        script: Path of the script that ran, where classes are named that are defined in it; else empty.
        cli: Import path of the LightningCLI, or of another kind of blueprint; ``build`` where a function builds candidates,
            ``program`` where somebody else's program makes the LightningCLI.
        arguments: Its arguments as far as they are plain data, and classes as ``{"class": import path}``.
        marks: The name of a user's key -> that this user started the search so.
        attributes: What the LightningCLI's own constructor had set, as far as it is plain data.
    """

    key: ClassVar[str] = "launch"

    command: Sequence[str] = ()
    script: str = ""
    cli: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_configs_of_its_own(self) -> bool:
        """Whether its candidates' configs aren't those of a LightningCLI."""
        return self.cli == _BUILDER or self.cli.endswith("Blueprint")

    @property
    def is_own(self) -> bool:
        """Whether this user's own search has left it."""
        return is_own(self._text, self.marks.get(key_name()))

    @property
    def _text(self) -> str:
        return json.dumps({**asdict(self), "marks": None}, sort_keys=True)

    def marked(self) -> LaunchRecord:
        """The same, with this user's mark."""
        return replace(self, marks={key_name(): mark(self._text)})

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))

    def blueprint(self) -> Blueprint:
        """Return the blueprint of its candidates; imports the classes that it names.

        Raises:
            ImportError: If one can't be imported.
        ProgramError: If the program that makes the LightningCLI can't be run.
        """
        if not self.cli:
            return Blueprint()
        given = {
            name: self._imported(value["class"]) if isinstance(value, Mapping) and set(value) == {"class"} else value
            for name, value in self.arguments.items()
        }
        if self.cli == _BUILDER:
            if "build" not in given:
                raise ImportError("the function that builds candidates has no import path")
            return Builder(function=given["build"])
        if self.cli == _PROGRAM:
            return Blueprint(program=Program(given["program"]), imports=tuple(given.get("imports", ())))
        kind = self._imported(self.cli)
        return kind(**given) if issubclass(kind, Blueprint) else Blueprint(kind, given, self.attributes)

    def model_class(self) -> type | None:
        """The class of its models, where the CLI names one."""
        if self.cli == _PROGRAM:
            kind = self.blueprint().made_by[1].get("model_class")
            return kind if isinstance(kind, type) else None
        named = self.arguments.get("model_class")
        return self._imported(named["class"]) if isinstance(named, Mapping) else None

    def _imported(self, name: str) -> Any:
        module, _, local = name.partition(".")
        if module not in ("__main__", "__mp_main__"):
            return import_by_name(name)
        main = sys.modules["__main__"]
        if not hasattr(main, local.partition(".")[0]):
            if not Path(self.script).is_file():
                raise ImportError(f"{local} is defined in the script {self.script}, which is gone")
            if self.script not in _scripts:
                # As a spawned process imports it: a `__main__` guard keeps the search from running again.
                made = ModuleType(f"__mp_main__{len(_scripts)}")
                vars(made).update(runpy.run_path(self.script, run_name=made.__name__))
                sys.modules[made.__name__] = made  # where pickle looks for its classes
                _scripts[self.script] = vars(made)
            found: Any = _scripts[self.script]
            first, *rest = local.split(".")
            if first not in found:
                raise ImportError(f"{self.script} defines no {first}")
            found = found[first]
        else:
            found, rest = main, local.split(".")
        for part in rest:
            found = getattr(found, part)
        return found


_scripts: dict[str, dict[str, Any]] = {}


def launch_of(trainable: Any) -> LaunchRecord | None:
    """Return how the search in this process was started; ``None`` where ``lightning-evo fit`` builds its candidates as well.

    Args:
        trainable: What it evolves.
    """
    blueprint = getattr(trainable, "blueprint", None)
    if isinstance(blueprint, Builder):
        named = public_name(blueprint.function) if hasattr(blueprint.function, "__qualname__") else ""
        record = LaunchRecord(_command(), "", _BUILDER, {"build": {"class": named}} if named else {})
    elif isinstance(blueprint, Blueprint) and type(blueprint) is not Blueprint:
        given = _plain({each.name: getattr(blueprint, each.name) for each in fields(blueprint)})
        inherited = {each.name for each in fields(Blueprint)} - {"imports"}
        known = {name: value for name, value in given.items() if name not in inherited}
        record = LaunchRecord(_command(), "", public_name(type(blueprint)), known)
    elif isinstance(blueprint, Blueprint) and blueprint.program is not None:
        given = {"program": blueprint.program.name, "imports": list(blueprint.imports)}
        record = LaunchRecord(_command(), "", _PROGRAM, given)
    elif isinstance(blueprint, Blueprint):
        cli, arguments = public_name(blueprint.cli_class), _plain(blueprint.cli_arguments)
        if cli in _STOCK and not {"model_class", "datamodule_class", "parser_class"} & arguments.keys():
            return None
        record = LaunchRecord(_command(), "", cli, arguments, attributes=_plain(blueprint.attributes or {}))
    else:
        return None
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main and "__main__." in json.dumps(record.to_dict()):
        record = replace(record, script=str(Path(main).absolute()))
    return record.marked()


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a CLI that JSON can hold; the rest concerns the Trainer (callbacks as objects)."""
    plain: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            plain[name] = {"class": public_name(value)}
        elif value is not None:
            try:
                plain[name] = json.loads(json.dumps(value))
            except (TypeError, ValueError):
                continue
    return {name: value for name, value in plain.items() if value not in _DEFAULTS}


def _command() -> list[str]:
    """The words of this process's command line before its options."""
    program, *words = sys.argv or [""]
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name:
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif program.endswith(".py"):
        start = ["python", program]
    elif program:
        start = [Path(program).name]
    else:
        return []
    end = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    before = words[:end]
    # Somebody else's CLI is named by an option.
    options = [pair for pair in pairwise(words) if pair[0] in ("--cli", "--import")]
    return [*start, *before, *(word for pair in options for word in pair)]
