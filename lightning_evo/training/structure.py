"""Genes that change the structure of the network or its optimizer, so that no training could continue with another value."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_evo._compat.lightning import init_optimizers
from lightning_evo.genome import COMPLETED, Result
from lightning_evo.training.blueprint import Blueprint, Parts
from lightning_evo.training.candidate import isolated
from lightning_evo.training.overrides import apply_genome
from lightning_evo.training.proxies import BARE_TRAINER
from lightning_evo.utils.records import known_fields

__all__ = ["StructureComparison", "compare_structures"]


@dataclass(frozen=True)
class StructureComparison:
    """What configs that differ by one gene's value were found to differ in, by the gene's path.

    Args:
        structural: What differs between the structures, for genes that change it.
        unbuilt: The first error, for genes some of whose values can't be built.
        uncompared: The first error of ``configure_optimizers``, for genes whose networks alone could be compared. A schedule
            may need the number of batches, for example, and no data is loaded.
    """

    key: ClassVar[str] = "structure"

    structural: Mapping[str, str] = field(default_factory=dict)
    unbuilt: Mapping[str, str] = field(default_factory=dict)
    uncompared: Mapping[str, str] = field(default_factory=dict)

    def notes(self, paths: Iterable[str]) -> list[str]:
        """What the user should know of some genes."""
        genes = ", ".join(f"{path} ({self.uncompared[path]})" for path in paths if path in self.uncompared)
        if not genes:
            return []
        return [f"optimizers could not be compared, so only the networks were, for different values of {genes}"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"structural": self.structural, "unbuilt": self.unbuilt, "uncompared": self.uncompared}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


def compare_structures(blueprint: Blueprint, configs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Result:
    """Build configs in this process, and say for each gene whether what they build differs in structure.

    Structure is: names and shapes of parameters and buffers, classes of modules that have any, and the optimizers' classes,
    parameter groups and schedulers. What can't be built isn't compared; of what can't configure its optimizers, the network
    alone is.

    Args:
        blueprint: The LightningCLI that builds them.
        configs: Gene's path -> configs that differ by its value.

    Returns:
        A completed result, whose ``extra`` has a :class:`StructureComparison`. Never an exception.
    """
    started = time.time()
    structural: dict[str, str] = {}
    unbuilt: dict[str, str] = {}
    uncompared: dict[str, str] = {}
    for path, alternatives in configs.items():
        found: list[dict[str, str]] = []
        for config in alternatives:
            try:
                with isolated({"seed_everything": 0}):
                    parts = blueprint.build(_bare(config), BARE_TRAINER)
                    found.append(_network(parts.model))
                    try:
                        found[-1] |= _optimizers(parts)
                    except Exception as error:  # whatever the user's configure_optimizers raises
                        uncompared.setdefault(path, f"{type(error).__name__}: {error}")
            except Exception as error:
                unbuilt.setdefault(path, f"{type(error).__name__}: {error}")
        if difference := _difference(found):
            structural[path] = difference
    comparison = StructureComparison(structural, unbuilt, uncompared)
    return Result(COMPLETED, extra={comparison.key: comparison.to_dict()}, started=started, ended=time.time())


def _bare(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without callbacks and loggers, which have no part in the structure and might write files."""
    return apply_genome(config, {"trainer.callbacks": None, "trainer.logger": False})


def _network(module: LightningModule) -> dict[str, str]:
    module.configure_model()
    structure = {}
    for name, part in module.named_modules():
        if name and any(True for _ in [*part.parameters(recurse=False), *part.buffers(recurse=False)]):
            structure[name] = type(part).__name__
    for name, value in module.state_dict().items():
        known = isinstance(value, Tensor) and not nn.parameter.is_lazy(value)
        structure[name] = "x".join(map(str, value.shape)) or "a number" if known else "of unknown shape"
    return structure


def _optimizers(parts: Parts) -> dict[str, str]:
    """Classes and groups of optimizers, and their schedulers."""
    parts.model.trainer = parts.trainer
    optimizers, schedulers = init_optimizers(parts.model)
    made = {
        f"optimizer {i}": f"{type(one).__name__} of {[len(group['params']) for group in one.param_groups]} parameters"
        for i, one in enumerate(optimizers)
    }
    return made | {f"scheduler {i}": type(one.scheduler).__name__ for i, one in enumerate(schedulers)}


def _difference(structures: Sequence[Mapping[str, str]]) -> str:
    """What differs first between some structures; empty if nothing does."""
    for other in structures[1:]:
        one = structures[0]
        both = "optimizer 0" in one and "optimizer 0" in other
        for name in {**one, **other}:
            if one.get(name) != other.get(name) and (both or not name.startswith(("optimizer ", "scheduler "))):
                return f"{name} is {one.get(name, 'absent')} or {other.get(name, 'absent')}"
    return ""
