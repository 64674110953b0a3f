"""The subject of a search: a LightningCLI config, or any Python function from genome to metrics."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, Protocol, Self, TypeVar

import numpy
import torch

from lightning_evo.genome import COMPLETED, Candidate, Genome, Objective, Result, SearchSpace, SpaceError
from lightning_evo.genome.links import Link, expanded
from lightning_evo.training.blueprint import Blueprint, ConfigError
from lightning_evo.training.candidate import COSTS, train_candidate, trainer_overrides
from lightning_evo.training.distributed import train_candidate_distributed
from lightning_evo.training.final import finish_candidate
from lightning_evo.training.overrides import apply_genome, changes_class, look_up, value_at
from lightning_evo.training.proxies import measure_candidate
from lightning_evo.training.request import TrainingRequest
from lightning_evo.training.stacks import Member, train_stack
from lightning_evo.training.structure import compare_structures
from lightning_evo.training.working_directory import working_in
from lightning_evo.utils.imports import named, public_name
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "ConfigTrainable",
    "FunctionTrainable",
    "ModuleTrainable",
    "StackMember",
    "Task",
    "Trainable",
    "check_costs",
    "check_sources",
]


@dataclass(frozen=True)
class Task:
    """A call for a worker.

    Args:
        function: Picklable by reference.
        arguments: Its keyword arguments, plain data.
        modules: What it will import, see :attr:`Job.modules <lightning_evo.execution.Job.modules>`: where what is evolved
            is defined.
    """

    function: Callable[..., Result]
    arguments: Mapping[str, Any]
    modules: tuple[str, ...] = ()


class Trainable(Protocol):
    """The interface between a search and the thing it evolves, which declares what it can do.

    Derive from it, and what you leave out is what it can't do: give :attr:`seed`, :meth:`describe`, :meth:`check`,
    :meth:`epochs` and :meth:`task` at least.
    """

    seed: int | None = None
    """The seed it asks for, if any."""
    config: Mapping[str, Any] | None = None
    """The LightningCLI config that genomes are written into; ``None``: there is none."""
    accelerator: str = "auto"
    """On what its candidates run, as the Trainer takes it; decides which slots this machine has."""
    preload: tuple[str, ...] = ()
    """Modules of the user that candidates need: imported once for all local workers, where that can be done."""
    trains_modules: bool = False
    """Whether candidates are LightningModules in Trainers, so that callbacks take part, several can train in one stack
    (:meth:`stack_task`), and their structures can be compared (:meth:`structure_task`)."""
    measures_proxies: bool = False
    """Whether zero-cost proxies of candidates can be measured (:meth:`proxy_task`)."""
    links: tuple[Link, ...] = ()
    """Which values follow others; set by :meth:`linked`."""
    stacked_sections: tuple[str, ...] = ("model", "optimizer", "lr_scheduler")
    """Where a stackable gene may lie: what belongs to one particle. Data and Trainer are the whole stack's."""
    alone: str = ""
    """Why candidates can't train in stacks, though they are modules; empty if they can."""
    has_winner: bool = False
    """Whether the winner is retrained, tested and written where others open it (:meth:`final_config`,
    :meth:`final_task`)."""

    def describe(self) -> dict[str, Any]:
        """Everything about it that decides results, as JSON: two searches with different descriptions differ."""
        ...

    def complete(self, earlier: Mapping[str, Any]) -> Mapping[str, Any]:
        """Complete what :meth:`describe` once gave by what it would give besides now, where that was never asked for."""
        return earlier

    def linked(self, links: Sequence[Link]) -> Self:
        """The same, where values follow others, each link after those that it depends on.

        Raises:
            SpaceError: If it knows of no links.
        """
        raise SpaceError(f"{links[0].place}: {type(self).__name__} knows of no links")

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Raise :class:`SpaceError` if some value of a gene can't be built, or an objective can't be measured."""
        return

    def epochs(self, candidate: Candidate) -> int | None:
        """How many epochs a candidate trains, if known: for the display alone."""
        return None

    def task(self, candidate: Candidate, request: TrainingRequest) -> Task:
        """Return the call for one candidate."""
        ...

    def stack_task(
        self,
        members: Sequence[StackMember],
        request: TrainingRequest,
        write: Callable[[str, str], None],
        whole: bool = False,
    ) -> Task:
        """Return the call for several candidates that train as one stack.

        Args:
            members: The candidates.
            request: How to train each of them; its directory is the stack's.
            write: Leaves a result, as JSON text, in a directory.
            whole: They make sense only together.
        """
        raise _cannot(self, "stack_task")

    def structure_task(self, space: SearchSpace) -> Task:
        """Return the call that finds out which genes change the structure: a completed result whose ``extra``
        has a :class:`~lightning_evo.training.structure.StructureComparison` under its key."""
        raise _cannot(self, "structure_task")

    def proxy_task(
        self, genome: Mapping[str, Any], names: Sequence[str], batch_size: int, seed: int, data_seed: int
    ) -> Task:
        """Return the call that measures zero-cost proxies of a genome; see
        :func:`~lightning_evo.training.proxies.measure_candidate`."""
        raise _cannot(self, "proxy_task")

    def final_config(self, candidate: Candidate, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The winner's config with the overrides of its retraining: plain data that decides what :meth:`final_task` does.

        Raises:
            SpaceError: If an override is refused; the message begins with its path.
        """
        raise _cannot(self, "final_config")

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Raise :class:`SpaceError` if an override of a retraining is refused; the message begins with its path."""
        return

    def final_task(self, config: dict[str, Any], request: TrainingRequest, checkpoint: str | None, test: bool) -> Task:
        """Return the call for the winner.

        Args:
            config: What :meth:`final_config` gave.
            request: How to retrain it.
            checkpoint: Path of the checkpoint to test; ``None``: retrain first.
            test: Whether to test.
        """
        raise _cannot(self, "final_task")


@dataclass(frozen=True)
class StackMember:
    """A candidate that is to train in a stack.

    Args:
        candidate: The candidate.
        directory: Its own directory.
        finished: It has its result already, and only trains along with its swarm.
    """

    candidate: Candidate
    directory: str
    finished: bool = False


def _common(config: Any, stored: Any) -> Any:
    """A config without the keys that another one doesn't have."""
    if isinstance(config, Mapping) and isinstance(stored, Mapping):
        return {key: _common(value, stored[key]) for key, value in config.items() if key in stored}
    if isinstance(config, list) and isinstance(stored, list) and len(config) == len(stored):
        return [_common(*pair) for pair in zip(config, stored, strict=True)]
    return config


def _updated(stored: Any, defaults: Any, config: Any) -> Any:
    """A stored config with the keys that only ``defaults`` has, without those of ``None`` that ``config`` doesn't have."""
    if all(isinstance(each, Mapping) for each in (stored, defaults, config)):
        known = {
            key: _updated(value, defaults.get(key), config.get(key))
            for key, value in stored.items()
            if value is not None or key in config
        }
        return known | {key: defaults[key] for key in config if key in defaults and key not in stored}
    if all(isinstance(each, list) and len(each) == len(stored) for each in (stored, defaults, config)):
        return [_updated(*each) for each in zip(stored, defaults, config, strict=True)]
    return stored


def _plain(config: Any, path: str = "") -> Any:
    """A config as plain data, with classes and functions by their import paths."""
    if isinstance(config, Mapping):
        return {key: _plain(value, f"{path}.{key}".lstrip(".")) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_plain(value, f"{path}[{i}]") for i, value in enumerate(config)]
    if isinstance(config, PurePath):
        return str(config)
    if isinstance(config, Enum):
        return config.name
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    try:
        named_config = named(config)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if named_config is config:
        raise ConfigError(
            f"{path}: {config!r} is an object; each candidate needs its own: give class_path and init_args, or build "
            "everything in a function (Evolution(build=...))"
        )
    return named_config


def _with_links(trainable: _T, links: Sequence[Link]) -> _T:
    linked = copy.copy(trainable)  # another search may be over the same
    linked.links = tuple(links)
    return linked


def _cannot(trainable: Trainable, method: str) -> NotImplementedError:
    return NotImplementedError(f"{type(trainable).__name__} has no {method}, which what it declares asks for")


_T = TypeVar("_T", bound=Trainable)


class ModuleTrainable(Trainable):
    """What LightningModules are built from, by a blueprint and a config for each candidate."""

    trains_modules = True
    measures_proxies = True
    has_winner = True
    blueprint: Blueprint

    def resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        """The config of one candidate, plain data: what the blueprint builds it from."""
        raise _cannot(self, "resolve")

    def linked(self, links: Sequence[Link]) -> Self:
        """The same, where values follow others."""
        return _with_links(self, links)

    def task(self, candidate: Candidate, request: TrainingRequest) -> Task:
        """Train the candidate from its resolved config."""
        config = self._seeded(candidate)
        arguments = {"blueprint": self.blueprint, "config": config, "request": request}
        return Task(
            train_candidate_distributed if request.devices > 1 else train_candidate, arguments, self.modules(config)
        )

    def stack_task(
        self,
        members: Sequence[StackMember],
        request: TrainingRequest,
        write: Callable[[str, str], None],
        whole: bool = False,
    ) -> Task:
        """Train several candidates as one stack; see :func:`~lightning_evo.training.stacks.train_stack`."""
        made = tuple(
            Member(
                one.candidate.id, self._seeded(one.candidate), one.directory, one.finished, dict(one.candidate.genome)
            )
            for one in members
        )
        arguments = {"blueprint": self.blueprint, "members": made, "request": request, "write": write, "whole": whole}
        return Task(train_stack, arguments, self.modules([member.config for member in made]))

    def structure_task(self, space: SearchSpace) -> Task:
        """Build networks that differ by one gene's extremes, and compare them."""
        configs = self.variants(space)
        return Task(compare_structures, {"blueprint": self.blueprint, "configs": configs}, self.modules(configs))

    def variants(self, space: SearchSpace) -> dict[str, list[dict[str, Any]]]:
        """For each gene the configs to compare: complete, plain data, one for each of its extremes."""
        return {
            path: [self.resolve({**switches(space, path), path: value}) for value in gene.extremes()]
            for path, gene in space.items()
        }

    def proxy_task(
        self, genome: Mapping[str, Any], names: Sequence[str], batch_size: int, seed: int, data_seed: int
    ) -> Task:
        """Build the network and measure its proxies."""
        arguments = {
            "blueprint": self.blueprint,
            "config": {"seed_everything": seed, **self.resolve(genome)},
            "names": names,
            "batch_size": batch_size,
            "data_seed": data_seed,
        }
        return Task(measure_candidate, arguments, self.modules(arguments["config"]))

    def final_task(self, config: dict[str, Any], request: TrainingRequest, checkpoint: str | None, test: bool) -> Task:
        """Retrain if asked, test, and pack; see :func:`~lightning_evo.training.final.finish_candidate`."""
        arguments = {"blueprint": self.blueprint, "config": config, "request": request}
        return Task(finish_candidate, {**arguments, "checkpoint": checkpoint, "test": test}, self.modules(config))

    def modules(self, config: Any) -> tuple[str, ...]:
        """The modules that building from a config, or a list of them, imports."""
        return tuple(dict.fromkeys(path.rpartition(".")[0] for path in _class_paths(config) if "." in path))

    def _seeded(self, candidate: Candidate) -> dict[str, Any]:
        return {"seed_everything": candidate.seed, **self.resolve(candidate.genome)}


class ConfigTrainable(ModuleTrainable):
    """A LightningCLI config whose paths vary.

    Args:
        config: The config that holds where no gene says otherwise; completed by the parser. Classes and functions may be
            given as objects. A ``seed_everything`` in it is the run's seed, from which every candidate's own derives.
        blueprint: The LightningCLI that builds candidates.

    Raises:
        ConfigError: If the parser refuses the config.
    """

    def __init__(self, config: Mapping[str, Any], blueprint: Blueprint | None = None) -> None:
        self.blueprint = blueprint or Blueprint()
        self.config: dict[str, Any] = self.blueprint.resolve(_plain(config))
        seed = self.config.pop("seed_everything", None)
        self.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
        self._variants: dict[str, dict[str, Any]] = {}
        self.stacked_sections = self.blueprint.module_sections
        own = self.blueprint.overridden("before_fit", "fit", "after_fit")
        self.alone = f"{self.blueprint.made_by[0].__name__}.{own[0]} is called for each of them" if own else ""
        self.accelerator = (self.config.get("trainer") or {}).get("accelerator") or "auto"
        cli_class, arguments, _ = self.blueprint.made_by
        self._cli = public_name(cli_class)
        fixed = {name: arguments.get(f"{name}_class") for name in ("model", "datamodule")}
        self._classes = {name: public_name(kind) for name, kind in fixed.items() if kind is not None}
        cli_module = cli_class.__module__
        # The user's own module may do anything when imported.
        self.preload = (*((cli_module,) if cli_module.startswith("lightning") else ()), *self.modules(self.config))

    def describe(self) -> dict[str, Any]:
        """The resolved config, and the LightningCLI that reads it, with the classes that are fixed in it."""
        return {"config": self.config, "cli": self._cli, **({"classes": self._classes} if self._classes else {})}

    def complete(self, earlier: Mapping[str, Any]) -> Mapping[str, Any]:
        """Complete an earlier config by the arguments that its classes, the Trainer too, have taken only since.

        They are there at their defaults. An argument that is gone, and was ``None``, is left out.
        """
        if self._classes and "classes" not in earlier:
            earlier = {**earlier, "classes": self._classes}  # searches didn't say so before
        stored = earlier.get("config")
        if not isinstance(stored, Mapping):
            return earlier
        try:
            defaults = self.blueprint.resolve(_common(self.config, stored))
        except ConfigError:
            return earlier  # what is required now wasn't there then
        return {**earlier, "config": _updated(stored, defaults, self.config)}

    def resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        """The config of one candidate: plain data, complete but for the defaults of classes a gene chose."""
        # What follows a gene is a gene's value too: a class, for example, whose arguments are others.
        return self._follow(self._resolve(expanded(genome, self.links)), self.links)

    def _follow(self, config: dict[str, Any], links: Sequence[Link]) -> dict[str, Any]:
        """``config`` with the values at the links' targets; a link whose source isn't there has no effect."""
        for link in links:
            try:
                value = value_at(config, link.source)
            except KeyError:
                continue
            if _at(config, link.target) != value:
                put = self._with_class if changes_class(link.target) else _with_value
                config = put(config, link.target, value)
        return config

    def _resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {path: value for path, value in genome.items() if changes_class(path)}
        key = repr(sorted(chosen.items()))
        if key not in self._variants:
            variant = self.config
            for path in sorted(chosen, key=lambda path: path.count(".")):
                variant = self._with_class(variant, path, chosen[path])
            self._variants[key] = variant
        return apply_genome(self._variants[key], {p: v for p, v in genome.items() if p not in chosen})

    def _with_class(self, config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
        """``config`` with another class, which keeps the arguments that were given (not the old class's defaults)."""
        place = path.removesuffix(".class_path")
        section = _at(config, place)
        if not isinstance(section, Mapping) or section.get("class_path") == value:
            return apply_genome(config, {path: value})
        said = self._said(config, place, section)
        # The parser knows which of them the new class takes as well.
        taken = _at(self.blueprint.resolve(apply_genome({}, {path: value}), config), place).get("init_args") or {}
        kept = {name: argument for name, argument in said.items() if name in taken}
        return self.blueprint.resolve(apply_genome(config, {place: {"class_path": value, "init_args": kept}}))

    def _said(self, config: dict[str, Any], place: str, section: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a section's arguments that differ from its class's defaults."""
        arguments = dict(section.get("init_args") or {})
        try:
            bare = self.blueprint.resolve(apply_genome(config, {place: {"class_path": section["class_path"]}}))
        except ConfigError:
            return arguments  # a class with required arguments: its defaults can't be told apart
        defaults = _at(bare, place).get("init_args") or {}
        return {k: v for k, v in arguments.items() if k not in defaults or v != defaults[k]}

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Dry-run every gene's extremes through the parser, each with the genes that switch it on."""
        check_costs(objectives)
        if (self.config.get("trainer") or {}).get("barebones"):
            raise SpaceError("trainer.barebones: True logs nothing that a search could optimize; set it to false")
        self._check_links(space)
        for path, gene in space.items():
            held: list[tuple[Any, Any]] = []
            for value in gene.extremes():
                switched = {**switches(space, path), path: value}
                try:
                    config = self.resolve(switched)
                    held.append((value, look_up(self.blueprint.parse(config), path, _MISSING)))
                    self._check_undecided(path, value, config)
                except (ConfigError, KeyError) as error:
                    self._blame(switched)
                    if isinstance(error, KeyError):
                        raise SpaceError(f"evolution.space.{path}: {error.args[0]}") from None
                    message = f"evolution.space.{path}: {value!r} is not accepted: {error}"
                    raise SpaceError(f"{message}{_siblings(self.config, path)}") from None
            self._check_effect(path, held)

    def _check_undecided(self, path: str, value: Any, config: Mapping[str, Any]) -> None:
        """Refuse a gene of an argument of the Trainer that the search decides."""
        section, _, name = path.partition(".")
        decided = trainer_overrides(config, "", 1) if section == "trainer" else {}
        if name in decided and decided[name] != value:
            raise SpaceError(f"evolution.space.{path}: the gene has no effect: the search decides the Trainer's {name}")

    def _check_effect(self, path: str, held: Sequence[tuple[Any, Any]]) -> None:
        """Refuse a gene whose values make no difference to what is parsed.

        Args:
            path: The gene's path.
            held: Its extremes, each with what the parsed config then has there.
        """
        link = self.blueprint.link_to(path)
        because = (
            "" if link is None else f"; the CLI links {' and '.join(link.sources)} to {link.target}: put the gene there"
        )
        if link is not None and not link.on_parsing:
            raise SpaceError(f"evolution.space.{path}: the gene has no effect{because}")
        for i, (value, found) in enumerate(held):
            others = [other for other, same in held[:i] if other != value and same == found]
            alone = link is not None and len(held) == 1 and value != found
            if found is not _MISSING and (others or alone):
                said = next((one for one in (value, *others) if one != found), value)
                what = f"the gene has no effect: it says {said!r}, but {found!r} is what holds"
                raise SpaceError(f"evolution.space.{path}: {what}{because}")

    def _check_links(self, space: SearchSpace) -> None:
        for i, link in enumerate(self.links):
            if (cli := self.blueprint.link_to(link.target)) is not None:
                sources = " and ".join(cli.sources)
                raise SpaceError(f"{link.place}: {link.target} follows {sources} already, by a link of the CLI's class")
            if not any(link.source.startswith(f"{gene}.") or gene == link.source for gene in space):
                try:
                    held = self._follow(self.config, self.links[:i])
                except (ConfigError, KeyError):
                    break  # an earlier one is to blame
                try:
                    value_at(held, link.source)
                except KeyError as error:
                    raise SpaceError(f"{link.place}: {link.source}: {error.args[0]}") from None
        if all(link.source not in space for link in self.links):
            self._blame_link({})

    def _blame(self, genome: Mapping[str, Any]) -> None:
        """:meth:`_blame_link`, where the parser takes the genome without links."""
        try:
            self.blueprint.parse(self._resolve(genome))
        except (ConfigError, KeyError):
            return
        self._blame_link(genome)

    def _blame_link(self, genome: Mapping[str, Any]) -> None:
        """Raise :class:`SpaceError` if it is a link that makes of a genome what the parser refuses."""
        for i, link in enumerate(self.links):
            held = self.links[: i + 1]
            try:
                self.blueprint.parse(self._follow(self._resolve(expanded(genome, held)), held))
            except (ConfigError, KeyError) as error:
                said = f"{link.place}: {link.target} can't follow {link.source}: {error.args[0]}"
                raise SpaceError(f"{said}{_siblings(self.config, link.target)}") from None

    def epochs(self, candidate: Candidate) -> int | None:
        """The Trainer's ``max_epochs``."""
        epochs = self.resolve(candidate.genome).get("trainer", {}).get("max_epochs")
        return epochs if isinstance(epochs, int) and epochs > 0 else None

    def modules(self, config: Any) -> tuple[str, ...]:
        """The modules of the classes that a config names, but for a program that must be run instead of imported."""
        program = self.blueprint.program
        return tuple(name for name in super().modules(config) if program is None or name != program.module)

    def final_config(self, candidate: Candidate, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The candidate's config with the overrides; what follows an overridden value follows it there too."""
        if not overrides:
            return self._seeded(candidate)
        links = [link for link in self.links if link.target not in overrides]
        return self._follow(apply_genome(self._seeded(candidate), overrides), links)

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Dry-run each override through the parser."""
        for path, value in overrides.items():
            try:
                self.blueprint.parse(apply_genome(self.config, {path: value}))
            except (ConfigError, KeyError) as error:
                raise SpaceError(f"{path}: {value!r} is not accepted: {error.args[0]}") from None


class FunctionTrainable(Trainable):
    """A Python function that evaluates a genome.

    The global random states of Python, NumPy and torch are seeded with the candidate's seed before each call, but not where
    an executor calls it in threads, which share them.

    Args:
        function: Called as ``function(genome, seed=..., directory=...)`` with a mapping config path -> value, the
            candidate's seed and its own directory; returns metrics by name, the objectives among them. Must be
            picklable by reference (defined at a module's top level) where it runs in another process.
        accelerator: On what it runs, as the Trainer takes it: ``cpu`` has one slot per core, also where there are GPUs.
            Default: ``auto``, a slot per GPU where there are any.
    """

    def __init__(self, function: Callable[..., Mapping[str, float]], accelerator: str = "auto") -> None:
        self.function = function
        self.accelerator = accelerator
        self.seed = None
        self.preload = (function.__module__,) if isinstance(getattr(function, "__module__", None), str) else ()

    def describe(self) -> dict[str, Any]:
        """The function's import path."""
        return {"function": public_name(self.function)}

    def linked(self, links: Sequence[Link]) -> Self:
        """The same, where the function is given the values that follow a gene's beside it."""
        return _with_links(self, links)

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Raise :class:`SpaceError` if a link follows nothing."""
        check_sources(self.links, space)

    def task(self, candidate: Candidate, request: TrainingRequest) -> Task:
        """Call the function."""
        arguments = {
            "function": self.function,
            "genome": Genome(expanded(candidate.genome, self.links)) if self.links else candidate.genome,
            "seed": candidate.seed,
            "directory": request.directory,
            "objectives": tuple(request.objectives),
            **({"chdir": True} if request.chdir else {}),
        }
        return Task(_evaluate, arguments, (self.function.__module__,))


def check_costs(objectives: Sequence[Objective]) -> None:
    """Refuse objectives that are costs nobody measures."""
    for objective in objectives:
        cost = objective.monitor.removeprefix("cost/")
        if cost != objective.monitor and cost not in COSTS:
            known = ", ".join(f"cost/{name}" for name in COSTS)
            raise SpaceError(f"evolution.objectives: {objective.monitor!r} is not measured; there are {known}")


def check_sources(links: Sequence[Link], space: SearchSpace) -> None:
    """Refuse links that follow neither a gene nor what follows one: a function has nothing else."""
    for i, link in enumerate(links):
        if link.source not in (*space, *(earlier.target for earlier in links[:i])):
            raise SpaceError(f"{link.place}: {link.source!r} is not a gene of the space, which has {', '.join(space)}")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random states for the block, and put them back, where no other candidate runs in this process.

    Threads share them: each would draw from what another has seeded, and two that read torch's at once can lock each other
    out for ever (it is locked while Python's garbage collector may run and change threads).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with isolated_random_state(devices=()):
        random.seed(seed)
        numpy.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield


def _evaluate(
    function: Callable[..., Mapping[str, float]],
    genome: Genome,
    seed: int,
    directory: str,
    objectives: Sequence[Objective],
    chdir: bool = False,
) -> Result:
    started = time.time()
    try:
        with _seeded(seed), working_in(directory if chdir else None):
            returned = function(genome, seed=seed, directory=directory)
        metrics = {name: float(value) for name, value in returned.items()}
        monitors = [objective.monitor for objective in objectives]
        # First, so that they are among those that are kept of very many.
        metrics = {name: metrics[name] for name in dict.fromkeys((*monitors, *metrics)) if name in metrics}
        missing = [name for name in monitors if name not in metrics]
        if missing:
            raise KeyError(f"{', '.join(missing)}: not among the metrics returned: {', '.join(metrics) or 'none'}")
        fitness = tuple(metrics[objective.monitor] for objective in objectives)
        if not all(math.isfinite(number) for number in fitness):
            raise ArithmeticError(f"fitness {fitness} is not finite")
    except Exception as error:
        return Result.failure(error, started=started, ended=time.time())
    ended = time.time()
    cost = {"seconds": ended - started}
    return Result(COMPLETED, fitness=fitness, metrics=metrics, cost=cost, started=started, ended=ended)


def _class_paths(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(path := config.get("class_path"), str):
            yield path
        for value in config.values():
            yield from _class_paths(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _class_paths(value)


def switches(space: SearchSpace, path: str) -> dict[str, Any]:
    """Values of the genes without which the gene at ``path`` has no place: its conditions, and sections it lies in."""
    values: dict[str, Any] = {}
    for section in space:
        if path.startswith(f"{section}."):
            values |= {**switches(space, section), section: space[section].extremes()[0]}
    for parent, accepted in space[path].when.items():
        values |= {**switches(space, parent), parent: accepted[0]}
    return values


_MISSING = object()


def _siblings(config: Mapping[str, Any], path: str) -> str:
    """What the config has at the place where ``path`` names something it doesn't have; empty if it does."""
    at: Any = config
    for part in path.split("."):
        if not isinstance(at, Mapping):
            return ""
        if part not in at:
            return f"; there are {', '.join(at)}"
        at = at[part]
    return ""


def _with_value(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    return apply_genome(config, {path: value})


def _at(config: Mapping[str, Any], path: str) -> Any:
    at: Any = config
    for part in path.split("."):
        at = at.get(part) if isinstance(at, Mapping) else None
    return at
