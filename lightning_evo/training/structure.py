"""Genes that change the structure of the network or its optimizer, so that no training could continue with another value."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_evo._compat.lightning import init_optimizers
from lightning_evo.genome import COMPLETED, Result
from lightning_evo.training.blueprint import Blueprint, Parts
from lightning_evo.training.candidate import isolated
from lightning_evo.training.overrides import apply_genome
from lightning_evo.training.proxies import BARE_TRAINER

__all__ = ["compare_structures"]


def compare_structures(blueprint: Blueprint, configs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Result:
    """Build configs in this process, and say for each gene whether what they build differs in structure.

    Structure is: names and shapes of parameters and buffers, classes of modules that have any, and the optimizers' classes,
    parameter groups and schedulers. What can't be built, or asks for data to configure its optimizers, isn't compared in
    that respect.

    Args:
        blueprint: The LightningCLI that builds them.
        configs: Gene's path -> configs that differ by its value.

    Returns:
        A completed result: ``extra["structural"]`` maps paths to what differs, ``extra["unbuilt"]`` to the first error.
        Never an exception.
    """
    started = time.time()
    structural: dict[str, str] = {}
    unbuilt: dict[str, str] = {}
    for path, alternatives in configs.items():
        found: list[dict[str, str]] = []
        for config in alternatives:
            try:
                with isolated({"seed_everything": 0}):
                    parts = blueprint.build(_bare(config), BARE_TRAINER)
                    found.append({**_network(parts.model), **_optimizers(parts)})
            except Exception as error:
                unbuilt.setdefault(path, f"{type(error).__name__}: {error}")
        if difference := _difference(found):
            structural[path] = difference
    extra = {"structural": structural, "unbuilt": unbuilt}
    return Result(COMPLETED, extra=extra, started=started, ended=time.time())


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
    """Classes and groups of optimizers, and their schedulers; nothing where only a training could tell."""
    parts.model.trainer = parts.trainer
    try:
        optimizers, schedulers = init_optimizers(parts.model)
    except Exception:
        # A schedule may need the number of batches, which needs data: it isn't this function's to load.
        return {}
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
