"""Bad input: whatever a config, a command line or a file holds, the command ends with code 0, or with one line why not.

Variations are systematic: of a search that runs, each setting of the `evolution:` section (found by asking the parser, those
of algorithms, genes, callbacks and reporters included) takes every value of a table in turn; keys are misspelled, added,
repeated; files are damaged as files can be. Searches stop where they would train their first candidate.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import yaml

from _faults import Case, kind

SECONDS = 10.0

VARIATIONS = 3300
"""At least as many as there are of the section."""

CONFIG: dict[str, Any] = {
    "model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"},
    "data": {"class_path": "lightning.pytorch.demos.boring_classes.BoringDataModule"},
    "trainer": {"max_epochs": 4, "accelerator": "cpu", "logger": False, "limit_train_batches": 1},
}
GENE = {"class_path": "Uniform", "init_args": {"low": 0.1, "high": 0.9}}
PATH = "trainer.gradient_clip_val"
SEARCH: dict[str, Any] = {
    "space": {PATH: GENE},
    "objectives": [{"monitor": "valid_loss", "mode": "min"}],
    "budget": {"candidates": 50},
    "workers": {"slots": 2},
    "directory": "run",
    "seed": 3,
}

VALUES: dict[str, Any] = {
    "null": None,
    "an empty list": [],
    "a list": [1, "two"],
    "an empty mapping": {},
    "a mapping": {"one": 2},
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "negative": -1,
    "a fraction": 0.5,
    "a number above 1": 1.5,
    "huge": 10**30,
    "a huge float": 1e300,
    "nan": float("nan"),
    "infinite": float("inf"),
    "minus infinite": float("-inf"),
    "an empty string": "",
    "a space": " ",
    "a word": "word",
    "a number as text": "7",
    "true as text": "true",
    "a NUL": "a\0b",
    "a long string": "x" * 5000,
    "several lines": "one\ntwo: 3\n",
    "not ASCII": "Zoë 🦋 \u202e",
    "a surrogate": "\ud800",
    "an unknown class": {"class_path": "NoSuchClass"},
    "a class of another kind": {"class_path": "collections.OrderedDict"},
    "a class path that is no text": {"class_path": 7},
    "arguments that are no mapping": {"class_path": "Uniform", "init_args": 7},
    "a path of nothing": "no/such/file.yaml",
    "a directory": ".",
    "a time of day": "12:30:00",
}


FEWER = ("null", "a list", "a mapping", "true", "zero", "negative", "a fraction", "huge", "nan", "infinite")
FEWER += ("an empty string", "a word", "a NUL", "an unknown class")
"""The values that the many settings of algorithms, genes and callbacks take."""


@dataclass(frozen=True)
class Variation:
    """A search that differs in one place from one that runs.

    Args:
        name: What is different.
        change: Changes the config and the ``evolution:`` section, or returns files to write and the command line.
        path: The config path that an error has to name; ``""``: any.
    """

    name: str
    change: Callable[[dict[str, Any], dict[str, Any]], list[str] | None]
    path: str = ""


class Training(BaseException):
    """The search is about to train its first candidate."""


class DryExecutor:
    """An executor that ends the search at the first candidate."""

    slots = 1
    running = ()

    def submit(self, job: Any) -> NoReturn:
        raise Training

    def shutdown(self) -> None:
        """Nothing runs."""


@dataclass
class Outcome:
    """How a command ended.

    Args:
        code: Its exit code; ``None``: it was about to train.
        said: What it wrote to standard error.
        traceback: An exception that came out.
        seconds: The CPU time it took, as the machine may be busy.
    """

    code: Any
    said: str
    traceback: str
    seconds: float

    def fault(self, path: str = "") -> str:
        """Why this isn't how bad input is answered; empty if it is."""
        if self.traceback:
            return f"traceback: {self.traceback}"
        if self.seconds > SECONDS:
            return f"took {self.seconds:.0f} s"
        if self.code in (None, 0):
            return ""
        if self.code != 2:
            return f"exit code {self.code}: {self.said[-200:]}"
        lines = [line for line in self.said.splitlines() if line.strip()]
        if len(lines) != 1:
            return f"{len(lines)} lines: {self.said[:300]!r}"
        if not lines[0].startswith("lightning-evo: error: "):
            return f"says {lines[0][:200]!r}"
        if len(lines[0]) > 1500:
            return f"a line of {len(lines[0])} characters: {lines[0][:200]!r}"
        if re.search(r"\w: *$", lines[0]):
            return f"no reason: {lines[0]!r}"
        last = re.findall(r"\w+", path)[-1] if path else ""
        said = lines[0].removeprefix("lightning-evo: error: ")
        if "search.yaml: " in said:
            return ""  # no YAML, or a key that is none
        where = path.partition("(")[0]
        above = where.rpartition(".")[0] if where.count(".") == 2 else where
        if where not in said and not said.startswith("evolution.budget.candidates: ") and not said.startswith(above):
            return f"doesn't name {path}: {lines[0][:300]!r}"
        if " is not accepted: " in said:
            return ""  # what the gene yields isn't what its path takes
        if last not in said and "class that can be imported" not in said:
            return f"doesn't name {last}: {lines[0][:300]!r}"
        return ""


def outcome(arguments: list[str]) -> Outcome:
    """Run a command in this process, up to its first training."""
    from lightning_evo.cli import EvolutionCLI, main
    from lightning_evo.evolution import evolution

    fit = {"fit": EvolutionCLI.subcommands()["fit"]}
    said, begun = io.StringIO(), time.process_time()
    code, traceback = None, ""
    with (
        mock.patch.object(evolution, "make_executor", return_value=contextlib.nullcontext(DryExecutor())),
        mock.patch.object(evolution, "compare_in_worker", return_value=evolution.StructureComparison()),
        # Making the parsers of the others takes longer than all the rest.
        mock.patch.object(EvolutionCLI, "subcommands", staticmethod(lambda: fit)),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(said),
    ):
        try:
            main(arguments)
            code = 0
        except Training:
            pass
        except SystemExit as stop:
            code = stop.code
        except Exception as error:
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
            traceback = f"{type(error).__name__}: {str(error)[:200]} ({where[-60:]})"
    return Outcome(code, said.getvalue(), traceback, time.process_time() - begun)


# -- variations of the section ------------------------------------------------------------------------------------------


def put(place: tuple[str | int, ...], value: Any) -> Callable[[dict, dict], None]:
    """A change of the section: ``value`` at a place, after what leads to it."""

    def change(config: dict[str, Any], section: dict[str, Any]) -> None:
        at: Any = section
        for part in place[:-1]:
            at = at[part] if isinstance(at, list) else at.setdefault(part, {})
        at[place[-1]] = copy.deepcopy(value)

    return change


def arguments_of(cls: type) -> list[str]:
    """The arguments that a config may give a class, dotted."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "it")
    return [name.removeprefix("it.") for name in parser.get_defaults().as_flat().__dict__ if name.startswith("it.")]


def subclasses(kind: type) -> list[type]:
    """Our public classes of a kind."""
    found = {sub for cls in kind.__subclasses__() for sub in {cls, *subclasses(cls)}}
    ours = {cls for cls in found if cls.__module__.startswith("lightning_evo.") and not cls.__name__.startswith("_")}
    return sorted((cls for cls in ours if not getattr(cls, "__abstractmethods__", None)), key=lambda cls: cls.__name__)


REQUIRED: dict[str, dict[str, Any]] = {
    "Bitstring": {"length": 4},
    "Layers": {"input_shape": [1, 28, 28], "num_classes": 10},
    "Boolean": {},
    "Categorical": {"choices": [0.1, 0.2]},
    "Ordinal": {"choices": [0.1, 0.2]},
    "Integer": {"low": 1, "high": 4},
    "Uniform": {"low": 0.1, "high": 0.9},
    "LogUniform": {"low": 0.1, "high": 0.9},
    "PredictorSearch": {"predictor": "ForestPredictor"},
    "HyperparameterSchedule": {"schedule": {0: {"optimizer.init_args.lr": 0.1}}},
}
"""Arguments without which a class can't be made, or without which nothing else could be refused."""

Places = list[tuple[str, tuple[str | int, ...], Callable[[dict, dict], None] | None]]


@functools.cache
def places() -> Places:
    """Every setting: its config path, where it is in the section, and what has to be there first."""
    import lightning_evo.cli.lightning  # noqa: F401 - imports what a config may name
    from lightning_evo.algorithms import Algorithm
    from lightning_evo.callbacks.search import SearchCallback
    from lightning_evo.evolution import Budget, Final, Workers
    from lightning_evo.genome import Gene, Objective
    from lightning_evo.reporting.reporter import Reporter

    found: Places = [("evolution", (), None)]
    section = ["space", "algorithm", "objectives", "budget", "workers", "directory", "database", "seed"]
    seen: set[tuple[type, str]] = set()

    def new(of: type, keys: list[str]) -> list[str]:
        """What wasn't there in another class."""
        fresh = [key for key in keys if (of, key) not in seen]
        seen.update((of, key) for key in keys)
        return fresh

    section += ["fitness_epoch", "keep_checkpoints", "final", "callbacks", "reporters"]
    found += [(f"evolution.{name}", (name,), None) for name in section]
    for name, cls in (("budget", Budget), ("workers", Workers), ("final", Final)):
        found += [(f"evolution.{name}.{key}", (name, key), None) for key in arguments_of(cls)]
    found += [("evolution.objectives", ("objectives", 0), None)]
    found += [(f"evolution.objectives({key})", ("objectives", 0, key), None) for key in arguments_of(Objective)]
    found += [(f"evolution.space.{PATH}", ("space", PATH), None)]
    found += [(f"evolution.space.{PATH}", ("space", PATH, key), None) for key in ("class_path", "init_args")]
    listed = (("callbacks", SearchCallback), ("reporters", Reporter))
    for gene in subclasses(Gene):
        base = {"class_path": gene.__name__, "init_args": REQUIRED.get(gene.__name__, {})}
        first = put(("space", PATH), base)
        for key in (key for key in arguments_of(gene) if key != "when" or new(Gene, [key])):
            found.append((f"evolution.space.{PATH}({gene.__name__}.{key})", ("space", PATH, "init_args", key), first))
    for algorithm in subclasses(Algorithm):
        base = {"class_path": algorithm.__name__, "init_args": REQUIRED.get(algorithm.__name__, {})}
        for key in new(Algorithm, arguments_of(algorithm)):
            place: tuple[str | int, ...] = ("algorithm", "init_args", *key.split("."))
            found.append((f"evolution.algorithm({algorithm.__name__}.{key})", place, put(("algorithm",), base)))
    for name, one in listed:
        for cls in subclasses(one):
            if cls.__module__.startswith("lightning_evo.reporting.progress"):
                continue
            base = {"class_path": cls.__name__, "init_args": REQUIRED.get(cls.__name__, {})}
            for key in new(one, arguments_of(cls)):
                place = (name, 0, "init_args", *key.split("."))
                found.append((f"evolution.{name}({cls.__name__}.{key})", place, put((name,), [base])))
    return found


@functools.cache
def variations() -> tuple[Variation, ...]:
    """All of the section, in an order in which any first part is a fair sample."""
    made = list(_variations())
    random.Random(0).shuffle(made)
    return tuple(made)


def _variations() -> Iterator[Variation]:
    for path, place, first in places():
        for name in FEWER if "(" in path else VALUES:
            yield Variation(f"{path}: {name}", _after(first, place, VALUES[name]), path)
    for path, place in (
        ("evolution", ()),
        *((f"evolution.{name}", (name,)) for name in ("budget", "workers", "final")),
    ):
        for name in ("unknown", "slotz", "7", "", " ", "class_path", "init_args", "x" * 300, "a.b", "a\0b"):
            yield Variation(f"{path}: key {name[:20]!r}", put((*place, name), 1), path)
    for key in (
        7,
        None,
        True,
        1.5,
        "",
        " ",
        "a\0b",
        "x" * 5000,
        ".",
        "trainer",
        "trainer..max_epochs",
        "no.such",
        "a/b",
    ):
        yield Variation(f"evolution.space: key {str(key)[:20]!r}", put(("space", key), GENE), "evolution.space")


def _after(first: Callable | None, place: tuple, value: Any) -> Callable[[dict, dict], list[str] | None]:
    def change(config: dict[str, Any], section: dict[str, Any]) -> None:
        if first is not None:
            first(config, section)
        if place:
            put(place, value)(config, section)
        else:
            config["evolution"] = value

    return change


def write(folder: Path, variation: Variation) -> list[str]:
    """Write a variation's files; returns the command line."""
    config, section = copy.deepcopy(CONFIG), copy.deepcopy(SEARCH)
    section["directory"] = str(folder / "run")
    config["evolution"] = section
    variation.change(config, section)
    (folder / "search.yaml").write_text(dumped(config), encoding="utf-8")
    return ["fit", "--config", str(folder / "search.yaml")]


def dumped(config: Any) -> str:
    """As YAML."""
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False)


@kind("bad input: a setting of the section", cases=VARIATIONS)
def vary_setting(case: Case) -> None:
    """One setting takes one bad value."""
    if case.number >= len(variations()):
        case.skip("there are no more")
    variation = variations()[case.number]
    with contextlib.chdir(case.folder):
        ended = outcome(write(case.folder, variation))
    fault = ended.fault(variation.path)
    case.check(not fault, f"{variation.name}: {fault}")
