"""What is being evolved? A LightningCLI config, or any Python function from genome to metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import Callback

from lightning_evo.callbacks.search import SearchContext
from lightning_evo.genome import COMPLETED, Candidate, Genome, Objective, Result, SearchSpace, SpaceError
from lightning_evo.training.blueprint import Blueprint, ConfigError
from lightning_evo.training.candidate import COSTS, FitnessEpoch, train_candidate
from lightning_evo.training.distributed import train_candidate_distributed
from lightning_evo.training.overrides import apply_genome, changes_class
from lightning_evo.training.stacks import Member, train_stack
from lightning_evo.utils.imports import public_name

__all__ = ["ConfigTrainable", "FunctionTrainable", "Task", "Trainable", "switches"]


@dataclass(frozen=True)
class Task:
    """What a worker is to run: a function picklable by reference and its keyword arguments, plain data."""

    function: Callable[..., Result]
    arguments: Mapping[str, Any]


class Trainable(Protocol):
    """What a search needs of the thing it evolves."""

    seed: int | None
    """The seed it asks for, if any."""

    def describe(self) -> dict[str, Any]:
        """Everything about it that decides results, as JSON: two searches with different descriptions differ."""
        ...

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Raise :class:`SpaceError` if some value of a gene can't be built, or an objective can't be measured."""
        ...

    def epochs(self, candidate: Candidate) -> int | None:
        """How many epochs a candidate trains, if known: for the display alone."""
        ...

    def task(
        self,
        candidate: Candidate,
        directory: Path,
        objectives: Sequence[Objective],
        fitness_epoch: FitnessEpoch,
        save_checkpoint: bool,
        devices: int,
        callbacks: Sequence[Callback] = (),
        context: SearchContext | None = None,
    ) -> Task:
        """What to run for one candidate; see :func:`~lightning_evo.training.train_candidate` for the arguments."""
        ...


class ConfigTrainable:
    """A LightningCLI config whose paths vary.

    Args:
        config: The config that holds where no gene says otherwise; completed by the parser. A ``seed_everything`` in
            it is the run's seed, from which every candidate's own derives.
        blueprint: The LightningCLI that builds candidates.

    Raises:
        ConfigError: If the parser refuses the config.
    """

    def __init__(self, config: Mapping[str, Any], blueprint: Blueprint | None = None) -> None:
        self.blueprint = blueprint or Blueprint()
        self.config = self.blueprint.resolve(config)
        seed = self.config.pop("seed_everything", None)
        self.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
        self._variants: dict[str, dict[str, Any]] = {}

    def describe(self) -> dict[str, Any]:
        """The resolved config, and the LightningCLI that reads it where it isn't ours."""
        return {"config": self.config, "cli": public_name(self.blueprint.cli_class)}

    def resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        """The config of one candidate: plain data, complete but for the defaults of classes a gene chose."""
        chosen = {path: value for path, value in genome.items() if changes_class(path)}
        key = repr(sorted(chosen.items()))
        if key not in self._variants:
            variant = self.config
            for path in sorted(chosen, key=lambda path: path.count(".")):
                variant = self._with_class(variant, path, chosen[path])
            self._variants[key] = variant
        return apply_genome(self._variants[key], {p: v for p, v in genome.items() if p not in chosen})

    def _with_class(self, config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
        """``config`` with another class, which keeps the arguments that were said (not the old class's defaults)."""
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
        for objective in objectives:
            cost = objective.monitor.removeprefix("cost/")
            if cost != objective.monitor and cost not in COSTS:
                known = ", ".join(f"cost/{name}" for name in COSTS)
                raise SpaceError(f"evolution.objectives: {objective.monitor!r} is not measured; there are {known}")
        for path, gene in space.items():
            for value in gene.extremes():
                switched = {**switches(space, path), path: value}
                try:
                    self.blueprint.check(self.resolve(switched))
                except KeyError as error:
                    raise SpaceError(f"evolution.space.{path}: {error.args[0]}") from None
                except ConfigError as error:
                    message = f"evolution.space.{path}: the value {value!r} is refused: {error}"
                    raise SpaceError(f"{message}{_siblings(self.config, path)}") from None

    def epochs(self, candidate: Candidate) -> int | None:
        """The Trainer's ``max_epochs``."""
        epochs = self.resolve(candidate.genome).get("trainer", {}).get("max_epochs")
        return epochs if isinstance(epochs, int) and epochs > 0 else None

    def task(
        self,
        candidate: Candidate,
        directory: Path,
        objectives: Sequence[Objective],
        fitness_epoch: FitnessEpoch,
        save_checkpoint: bool,
        devices: int,
        callbacks: Sequence[Callback] = (),
        context: SearchContext | None = None,
        data_seed: int | None = None,
    ) -> Task:
        """Train the candidate from its resolved config.

        Args:
            data_seed: Decides the order of the data where candidates are to see the same as those in stacks.
        """
        arguments = {
            "blueprint": self.blueprint,
            "config": self._seeded(candidate),
            "directory": str(directory),
            "objectives": tuple(objectives),
            "fitness_epoch": fitness_epoch,
            "save_checkpoint": save_checkpoint,
            "devices": devices,
            "callbacks": tuple(callbacks),
            "context": context,
            "data_seed": data_seed,
        }
        return Task(train_candidate_distributed if devices > 1 else train_candidate, arguments)

    def stack_task(
        self,
        candidates: Mapping[Path, Candidate],
        directory: Path,
        objectives: Sequence[Objective],
        fitness_epoch: FitnessEpoch,
        save_checkpoint: bool,
        callbacks: Sequence[Callback],
        context: SearchContext,
        data_seed: int,
        write: Callable[[str, str], None],
        finished: Collection[int] = (),
        whole: bool = False,
    ) -> Task:
        """Train several candidates as one stack; see :func:`~lightning_evo.training.stacks.train_stack`.

        Args:
            candidates: Each one's directory -> the candidate.
            directory: The stack's.
            objectives: What is optimised.
            fitness_epoch: As in the search.
            save_checkpoint: Keep their checkpoints.
            callbacks: The search's own.
            context: What they may know of the search.
            data_seed: Decides the order of the data.
            write: Leaves a result, as JSON text, in a directory.
            finished: Ids of those that only train along.
            whole: They make sense only together.
        """
        members = tuple(
            Member(candidate.id, self._seeded(candidate), str(own), candidate.id in finished)
            for own, candidate in candidates.items()
        )
        arguments = {
            "blueprint": self.blueprint,
            "members": members,
            "directory": str(directory),
            "objectives": tuple(objectives),
            "fitness_epoch": fitness_epoch,
            "save_checkpoint": save_checkpoint,
            "callbacks": tuple(callbacks),
            "context": context,
            "data_seed": data_seed,
            "write": write,
            "whole": whole,
        }
        return Task(train_stack, arguments)

    def _seeded(self, candidate: Candidate) -> dict[str, Any]:
        return {"seed_everything": candidate.seed, **self.resolve(candidate.genome)}


class FunctionTrainable:
    """A Python function that evaluates a genome.

    Args:
        function: Called as ``function(genome, seed=..., directory=...)`` with a mapping config path -> value, the
            candidate's seed and its own directory; returns metrics by name, the objectives among them. Must be
            picklable by reference (defined at a module's top level) where it runs in another process.
    """

    def __init__(self, function: Callable[..., Mapping[str, float]]) -> None:
        self.function = function
        self.seed: int | None = None

    def describe(self) -> dict[str, Any]:
        """The function's import path."""
        return {"function": public_name(self.function)}

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Nothing can be known before the function is called."""

    def epochs(self, candidate: Candidate) -> int | None:
        """Unknown."""
        return None

    def task(
        self,
        candidate: Candidate,
        directory: Path,
        objectives: Sequence[Objective],
        fitness_epoch: FitnessEpoch,
        save_checkpoint: bool,
        devices: int,
        callbacks: Sequence[Callback] = (),
        context: SearchContext | None = None,
    ) -> Task:
        """Call the function."""
        arguments = {
            "function": self.function,
            "genome": candidate.genome,
            "seed": candidate.seed,
            "directory": str(directory),
            "objectives": tuple(objectives),
        }
        return Task(_evaluate, arguments)


def _evaluate(
    function: Callable[..., Mapping[str, float]],
    genome: Genome,
    seed: int,
    directory: str,
    objectives: Sequence[Objective],
) -> Result:
    started = time.time()
    try:
        metrics = {name: float(value) for name, value in function(genome, seed=seed, directory=directory).items()}
        missing = [objective.monitor for objective in objectives if objective.monitor not in metrics]
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


def switches(space: SearchSpace, path: str) -> dict[str, Any]:
    """Values of the genes without which the gene at ``path`` has no place: its conditions, and sections it lies in."""
    values: dict[str, Any] = {}
    for section in space:
        if path.startswith(f"{section}."):
            values |= {**switches(space, section), section: space[section].extremes()[0]}
    for parent, accepted in space[path].when.items():
        values |= {**switches(space, parent), parent: accepted[0]}
    return values


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


def _at(config: Mapping[str, Any], path: str) -> Any:
    at: Any = config
    for part in path.split("."):
        at = at.get(part) if isinstance(at, Mapping) else None
    return at
