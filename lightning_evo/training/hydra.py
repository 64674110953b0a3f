"""A Hydra project in place of a LightningCLI: what Hydra composes, with a genome's values, is instantiated."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from jsonargparse import Namespace
from lightning.pytorch import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lightning_evo.genome import Candidate, Objective, SearchSpace, SpaceError
from lightning_evo.genome.links import expanded
from lightning_evo.training.adaptation import Adaptation
from lightning_evo.training.blueprint import Blueprint, ConfigError, Parts, make_trainer
from lightning_evo.training.trainable import ModuleTrainable, check_costs, check_sources, switches

__all__ = ["SECTIONS", "HydraBlueprint", "HydraTrainable"]

SECTIONS: dict[str, tuple[str, ...]] = {
    "model": ("model", "module", "lightning_module"),
    "data": ("data", "datamodule", "data_module"),
    "trainer": ("trainer",),
    "callbacks": ("callbacks", "callback"),
    "logger": ("logger", "loggers"),
}
"""Where each part of a training is in a composed config, unless the user says: the first of these keys that is there."""

_REQUIRED = ("model", "trainer")
_TARGET = "_target_"
# Hydra is one for the process, and candidates in threads compose one after the other.
_LOCK = threading.RLock()
_COMPOSED: dict[tuple[Any, ...], DictConfig] = {}
_MAX_COMPOSED = 64
_GROUPS: dict[tuple[Any, ...], dict[str, bool]] = {}


@dataclass(frozen=True)
class HydraBlueprint(Blueprint):
    """Builds candidates from what Hydra composes: a ``_target_`` each for model, data, Trainer, callbacks and loggers.

    A candidate's config is what Hydra composed for its genome, with interpolations as they are written; they are resolved
    when it is built, so that ``${hydra:runtime.output_dir}`` is the candidate's directory.

    Args:
        config_dir: Absolute path of the directory of the configs.
        config_name: The primary config.
        overrides: Of every candidate, in Hydra's syntax: ``trainer=cpu``, ``model.width=8``, ``+extra=1``.
        imports: Modules that are imported before anything is composed: they may register resolvers and structured configs.
        sections: Where a part of a training is, if not at one of :data:`SECTIONS`: ``model``, ``data``, ``trainer``,
            ``callbacks``, ``logger`` -> dotted path.
    """

    config_dir: str = ""
    config_name: str = "config"
    overrides: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("overrides", "imports"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # an archive holds lists

    def compose(self, genome: Mapping[str, Any], links: Sequence[Any] = ()) -> dict[str, Any]:
        """What Hydra composes with a genome's values, as plain data; interpolations stay.

        A gene that names a config group chooses its option; any other replaces the value at its path, which must be there,
        or begin with ``+``.

        Raises:
            ConfigError: If Hydra refuses it.
        """
        with _LOCK, _refusals():
            whole = expanded(genome, links)
            groups = {name: value for name, value in whole.items() if self._is_group(name, value)}
            config = self._composed(tuple(f"{name}={value}" for name, value in groups.items()))
            with open_dict(config):
                del config["hydra"]
            for name, value in whole.items():
                if name not in groups:
                    _put(config, name, value)
            plain = OmegaConf.to_container(config, resolve=False)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    def resolve(self, config: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The config: there is nothing to complete."""
        return {**(base or {}), **config}

    def check(self, config: Mapping[str, Any]) -> None:
        """Resolve every interpolation of what is built, and look for values that are missing.

        Raises:
            ConfigError: If one can't be resolved, or is missing.
        """
        with _LOCK, self._runtime(config, os.getcwd()) as composed, _refusals():
            for name in SECTIONS:
                section = self._section(composed, name)
                if isinstance(section, (DictConfig, ListConfig)):
                    OmegaConf.to_container(section, resolve=True, throw_on_missing=True)

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
        """Instantiate the sections of a composed config, with Hydra's own ``instantiate``."""
        overrides = dict(trainer or {})
        with _LOCK, self._runtime(config, str(overrides.get("default_root_dir") or os.getcwd())) as composed:
            data = self._section(composed, "data")
            datamodule = None if data is None else instantiate(data)
            model = instantiate(self._section(composed, "model"))
            section = copy.copy(self._section(composed, "trainer"))
            own = [*_instances(self._section(composed, "callbacks")), *_instances(section.get("callbacks"))]
            loggers = [*_instances(self._section(composed, "logger")), *_instances(section.get("logger"))]
            if loggers and (config.get("trainer") or {}).get("logger") is not False:
                overrides["logger"] = loggers
            with open_dict(section):
                for name in (*overrides, "callbacks"):
                    section.pop(name, None)
            arguments = {**overrides, "callbacks": [*own, *callbacks]}
            made = make_trainer(partial(instantiate, section), adaptation, **arguments)
        return Parts(model, datamodule, made)

    def find_sections(self, config: Mapping[str, Any]) -> None:
        """Raise :class:`ConfigError` if a config has no model or no Trainer, or not where the user says."""
        with _LOCK, self._runtime(config, os.getcwd()) as composed:
            for name in {*_REQUIRED, *self.sections}:
                self._section(composed, name)

    def section(self, config: Mapping[str, Any], name: str, directory: str = "") -> Any:
        """A section of a composed config as plain data, its interpolations resolved; ``None`` if there is none.

        Raises:
            ConfigError: If an interpolation can't be resolved.
        """
        with _LOCK, self._runtime(config, directory or os.getcwd()) as composed, _refusals():
            found = self._section(composed, name)
            return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found

    def _section(self, config: DictConfig, name: str) -> Any:
        asked = self.sections.get(name)
        for path in (asked,) if asked else SECTIONS[name]:
            if (found := OmegaConf.select(config, path, throw_on_resolution_failure=False)) is not None:
                return found
        if asked or name in _REQUIRED:
            where = repr(asked) if asked else " or ".join(map(repr, SECTIONS[name]))
            raise ConfigError(
                f"{self.config_name}: the composed config has no {where}, which is to hold the {name} (a {_TARGET}); "
                f"there are {', '.join(str(key) for key in config if key != 'hydra')}; say where it is by --{name} PATH"
            )
        return None

    def _is_group(self, name: str, value: Any) -> bool:
        """Whether a gene chooses an option of a config group."""
        if not isinstance(value, str):
            return False
        group = name.lstrip("+").partition("@")[0]
        known = _GROUPS.setdefault(self._key, {})
        if group not in known:
            with self._hydra() as hydra:
                known[group] = bool(hydra.config_loader().get_group_options(group))
        return known[group]

    def _composed(self, groups: tuple[str, ...]) -> DictConfig:
        """What Hydra composes with options of groups, its own section included; made once, a copy for each caller."""
        key = (self._key, groups)
        if key not in _COMPOSED:
            with self._hydra():
                made = compose(self.config_name, [*self.overrides, *groups], return_hydra_config=True)
            while len(_COMPOSED) >= _MAX_COMPOSED:
                del _COMPOSED[next(iter(_COMPOSED))]
            _COMPOSED[key] = made
        return copy.deepcopy(_COMPOSED[key])

    @property
    def _key(self) -> tuple[Any, ...]:
        return (self.config_dir, self.config_name, self.overrides, self.imports)

    @contextmanager
    def _hydra(self) -> Iterator[GlobalHydra]:
        """Hydra, initialized with the configs, for the block; a Hydra application that runs around it keeps its own."""
        for module in self.imports:
            import_module(module)
        with initialize_config_dir(self.config_dir, version_base=None):
            yield GlobalHydra.instance()

    @contextmanager
    def _runtime(self, config: Mapping[str, Any], directory: str) -> Iterator[DictConfig]:
        """A candidate's config, with what ``${hydra:...}`` resolves to for the block."""
        with _LOCK, _refusals():
            whole = self._composed(())
            with open_dict(whole):
                for key in [key for key in whole if key != "hydra"]:
                    del whole[key]
                whole.hydra.runtime.output_dir = directory
                whole.hydra.runtime.cwd = os.getcwd()
                for key, value in config.items():
                    if key != "seed_everything":
                        whole[key] = value
            held = HydraConfig.instance()
            before = held.cfg
            held.set_config(whole)
        try:
            yield whole
        finally:
            held.cfg = before


class HydraTrainable(ModuleTrainable):
    """A Hydra project, whose composed config varies.

    Candidates train as those of a LightningCLI config do: with learning curves, costs, callbacks of the search, stacks, and
    a winner that is retrained, tested and exported. Hydra's own output and multirun directories aren't touched.

    Args:
        blueprint: What composes and builds.

    Raises:
        ConfigError: If Hydra refuses the config.
    """

    def __init__(self, blueprint: HydraBlueprint) -> None:
        self.blueprint = blueprint
        composed = blueprint.compose({})
        blueprint.find_sections(composed)
        seed = composed.get("seed")
        self.seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
        trainer = blueprint.section(composed, "trainer") or {}
        self.accelerator = str(trainer.get("accelerator") or "auto")
        self._composed = composed
        self.preload = self.modules(composed)

    @property
    def hydra(self) -> HydraBlueprint:
        """The blueprint."""
        assert isinstance(self.blueprint, HydraBlueprint)
        return self.blueprint

    def describe(self) -> dict[str, Any]:
        """What Hydra composes without a genome, as it is written."""
        composed = {key: value for key, value in self._composed.items() if key != "seed"}
        return {"hydra": composed, "sections": dict(self.hydra.sections)}

    def resolve(self, genome: Mapping[str, Any]) -> dict[str, Any]:
        """What Hydra composes for a genome, with the Trainer's section resolved, which the search reads."""
        config = self.hydra.compose(genome, self.links)
        trainer = dict(self.hydra.section(config, "trainer") or {})
        # Where a candidate writes isn't its own to choose.
        return {**config, "trainer": {name: value for name, value in trainer.items() if name != "default_root_dir"}}

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """Compose every gene's extremes, each with the genes that switch it on, and resolve what is built."""
        check_costs(objectives)
        check_sources(self.links, space)
        for path, gene in space.items():
            for value in gene.extremes():
                try:
                    self.blueprint.check(self.resolve({**switches(space, path), path: value}))
                except ConfigError as error:
                    raise SpaceError(f"evolution.space.{path}: {value!r} is not accepted: {error}") from None

    def check_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Compose each override."""
        for path, value in overrides.items():
            try:
                self.blueprint.check(self.resolve({path: value}))
            except ConfigError as error:
                raise SpaceError(f"{path}: {value!r} is not accepted: {error}") from None

    def epochs(self, candidate: Candidate) -> int | None:
        """The Trainer's ``max_epochs``."""
        epochs = self.resolve(candidate.genome)["trainer"].get("max_epochs")
        return epochs if isinstance(epochs, int) and epochs > 0 else None

    def final_config(self, candidate: Candidate, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The candidate's config with the overrides."""
        return {"seed_everything": candidate.seed, **self.resolve({**candidate.genome, **overrides})}

    def modules(self, config: Any) -> tuple[str, ...]:
        """The modules that building from a config, or a list of them, imports."""
        targets = dict.fromkeys(path.rpartition(".")[0] for path in _targets(config) if "." in path)
        return (*self.hydra.imports, *targets)


def _put(config: DictConfig, name: str, value: Any) -> None:
    path = name.lstrip("+")
    missing = object()
    if path == name and OmegaConf.select(config, path, default=missing, throw_on_resolution_failure=False) is missing:
        parent, _, key = path.rpartition(".")
        beside = OmegaConf.select(config, parent, throw_on_resolution_failure=False) if parent else config
        if isinstance(beside, DictConfig) and OmegaConf.is_missing(beside, key):
            OmegaConf.update(config, path, value, merge=False)  # `???`: it is to be given
            return
        have = f"; there are {', '.join(map(str, beside))}" if isinstance(beside, DictConfig) and len(beside) else ""
        raise ConfigError(f"the composed config has no {path}{have}; a new key is written +{path}")
    OmegaConf.update(config, path, value, merge=False, force_add=True)


def _instances(section: Any) -> list[Any]:
    """What a section of callbacks or loggers makes: one with a ``_target_``, a list, or a mapping of names to such."""
    if not isinstance(section, (DictConfig, ListConfig)):
        return []
    if isinstance(section, DictConfig) and _TARGET in section:
        return [instantiate(section)]
    each = section.values() if isinstance(section, DictConfig) else section
    return [instantiate(one) for one in each if isinstance(one, DictConfig) and _TARGET in one]


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(target := config.get(_TARGET), str):
            yield target
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _targets(value)


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what Hydra and OmegaConf refuse into a :class:`ConfigError` of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        options = [line for line in lines[1:] if ":" not in line and "'" not in line]
        choices = f"; choose from {', '.join(options)}" if options and "ould not find" in lines[0] else ""
        raise ConfigError(f"{lines[0]}{choices}") from error
