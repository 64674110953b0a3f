"""A function from a genome to model, data and the Trainer's arguments, in place of a LightningCLI and its config."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from lightning_evo.genome import Candidate, Objective, SearchSpace, SpaceError
from lightning_evo.genome.links import expanded
from lightning_evo.training.adaptation import Adaptation
from lightning_evo.training.blueprint import Blueprint, Parts, make_trainer
from lightning_evo.training.trainable import ModuleTrainable, check_costs, check_sources
from lightning_evo.utils.imports import import_by_name, public_name

__all__ = ["Builder", "BuilderTrainable", "blueprint_of"]

Build = Callable[[dict[str, Any]], Any]

_RETURNS = "give a LightningModule, or (model, data), or (model, data, the Trainer's arguments)"


@dataclass(frozen=True)
class Builder(Blueprint):
    """Builds candidates by a function of the user's.

    Its config is plain data: ``genome``, the function's argument; ``trainer``, arguments that take the place of those that
    the function returns; and ``build``, the function's name, for readers.

    Args:
        function: Called with a dict, name -> value. Picklable by reference where it runs in another process.
    """

    function: Build | None = None

    def resolve(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The config: there is nothing to complete."""
        return {**(base or {}), **config}

    def check(self, config: Mapping[str, Any]) -> None:
        """Nothing can be known of a config before the function is called."""

    def parse(self, config: Mapping[str, Any]) -> Namespace:
        """Nothing: there is no parser that knows the types of values."""
        return Namespace()

    def build(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        adaptation: Adaptation | None = None,
        genes: Mapping[str, Any] | None = None,
    ) -> Parts:
        """Call the function, and make a Trainer with what it returns.

        Raises:
            TypeError: If it returns something else; the message says what.
        """
        assert self.function is not None
        model, data, given = _parts(self.function(copy.deepcopy(dict(config["genome"]))))
        given = {**given, **(config.get("trainer") or {})}
        overrides = dict(trainer or {})
        if given.get("logger") is not None:
            overrides.pop("logger", None)  # one that was asked for stays
        own = given.pop("callbacks", None) or []
        # What a module holds, and the function repeats, must not get another candidate's state.
        own = [copy.deepcopy(callback) for callback in (own if isinstance(own, (list, tuple)) else [own])]
        arguments = {**given, **overrides, "callbacks": [*own, *callbacks]}
        return Parts(model, data, make_trainer(Trainer, adaptation, **arguments))


class BuilderTrainable(ModuleTrainable):
    """A function from a genome to a model, data and the Trainer's arguments.

    Candidates train in a Trainer as those of a config do: with learning curves, costs, callbacks of the search, and a
    winner that is retrained, tested and exported.

    Args:
        build: Called in the worker with a dict, name -> value; everything that it draws is seeded. It returns a
            LightningModule, or with it data (a LightningDataModule, a DataLoader, or the loaders for training, validation
            and testing), and with these the Trainer's arguments by name. It must make all of them anew, and be picklable by
            reference (defined at a module's top level) where it runs in another process.
        accelerator: On what it trains, as the Trainer takes it: ``cpu`` has one slot per core, also where there are GPUs.
            Default: what the function returns; a slot per GPU where there are any.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
        >>> def build(genome):
        ...     return BoringModel(), BoringDataModule(), {"max_epochs": genome["epochs"]}
        >>> BuilderTrainable(build).resolve({"epochs": 3})["genome"]
        {'epochs': 3}
    """

    def __init__(self, build: Build, accelerator: str = "auto") -> None:
        if not callable(build):
            raise TypeError(f"build: {build!r} is not a function of a genome")
        self.blueprint = Builder(function=build)
        self.accelerator = accelerator
        self._known: tuple[str, ...] = ()
        self.preload = self.modules(None)

    @property
    def function(self) -> Build:
        """The function."""
        assert isinstance(self.blueprint, Builder)
        assert self.blueprint.function is not None
        return self.blueprint.function

    def describe(self) -> dict[str, Any]:
        """The function's import path, and the arguments that a ``functools.partial`` gives it."""
        given = self.function
        if not isinstance(given, partial):
            return {"build": _name_of(given)}
        return {"build": _name_of(given), "arguments": {"args": _plain(given.args), **_plain(given.keywords)}}

    def resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        """What stands for a config: the genome, and the function's name."""
        settings = {"trainer": {"accelerator": self.accelerator}} if self.accelerator != "auto" else {}
        return {"build": _name_of(self.function), "genome": expanded(genome, self.links), **settings}

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Raise :class:`SpaceError` if a link follows nothing, or an objective can't be measured."""
        check_costs(objectives)
        check_sources(self.links, space)
        self._known = (*space, *(link.target for link in self.links))

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Refuse what is neither a gene nor the Trainer's."""
        for path in overrides:
            if path not in self._known and not path.startswith(_TRAINER):
                known = ", ".join(self._known)
                raise SpaceError(f"{path}: is neither a gene ({known}) nor an argument of the Trainer ({_TRAINER}NAME)")

    def final_config(self, candidate: Candidate, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The candidate's, with overrides of genes and of the Trainer's arguments."""
        config = self._seeded(candidate)
        trainer = {path.removeprefix(_TRAINER): value for path, value in overrides.items() if path.startswith(_TRAINER)}
        genes = {path: value for path, value in overrides.items() if not path.startswith(_TRAINER)}
        config["genome"] = expanded(
            {**config["genome"], **genes}, [one for one in self.links if one.target not in genes]
        )
        return {**config, "trainer": {**config.get("trainer", {}), **trainer}} if trainer else config

    def modules(self, config: Any) -> tuple[str, ...]:
        """The function's module."""
        return (_function_of(self.function).__module__,)


def blueprint_of(config: Mapping[str, Any]) -> Blueprint:
    """What builds a candidate from its ``config.yaml`` alone: LightningCLI, or the function that the config names.

    Raises:
        ImportError: If there is no such function.
    """
    if isinstance(config.get("genome"), Mapping) and isinstance(config.get("build"), str):
        return Builder(function=import_by_name(config["build"]))
    return Blueprint()


_TRAINER = "trainer."


def _function_of(given: Any) -> Any:
    """The function itself, or the class of an object that is called."""
    while isinstance(given, partial):
        given = given.func
    return given if hasattr(given, "__qualname__") else type(given)


def _name_of(given: Any) -> str:
    return public_name(_function_of(given))


def _plain(value: Any) -> Any:
    """Arguments as JSON; of an object, its class."""
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(held) for held in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else public_name(type(value))


class _Loaders(LightningDataModule):
    """Loaders as a data module: for training, validation and testing."""

    def __init__(self, loaders: Sequence[Any]) -> None:
        super().__init__()
        names = ("train_dataloader", "val_dataloader", "test_dataloader")
        for name, loader in zip(names, loaders, strict=False):
            setattr(self, name, lambda loader=loader: loader)


def _parts(returned: Any) -> tuple[LightningModule, LightningDataModule | None, dict[str, Any]]:
    """What the function returned, in its three parts."""
    parts = returned if isinstance(returned, (tuple, list)) else (returned,)
    model, data, trainer = (*parts, *(None,) * (3 - len(parts))) if 1 <= len(parts) <= 3 else (None, None, None)
    if not isinstance(model, LightningModule):
        shown = f"({', '.join(type(part).__name__ for part in parts)})" if len(parts) > 1 else type(returned).__name__
        raise TypeError(f"build returned {shown}; {_RETURNS}")
    if isinstance(trainer, Trainer) or not isinstance(trainer, (Mapping, type(None))):
        raise TypeError(
            f"build returned a {type(trainer).__name__} as the third; give the Trainer's arguments in a dict"
        )
    return model, _data(data), dict(trainer or {})


def _data(given: Any) -> LightningDataModule | None:
    if given is None or isinstance(given, LightningDataModule):
        return given
    if isinstance(given, (str, bytes, Mapping, type)) or not hasattr(given, "__iter__"):
        raise TypeError(
            f"build returned a {type(given).__name__} as data; give a LightningDataModule, a DataLoader, or the loaders for "
            "training, validation and testing"
        )
    loaders = given if isinstance(given, (tuple, list)) else (given,)
    if not 1 <= len(loaders) <= 3:
        raise TypeError(f"build returned {len(loaders)} loaders; give those for training, validation and testing")
    return _Loaders(loaders)
