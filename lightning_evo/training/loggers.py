"""Loggers of a config that tell candidates apart: a run's name where the config gives none, and the genes.

Lightning's loggers count versions (``version_3``) or draw names. Several processes would count to the same number, and
nobody could say afterwards which candidate is which.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from lightning_evo.training.overrides import apply_genome
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.masking import Mask

__all__ = ["log_genes", "name_loggers"]

NAMED_BY = {
    "MLFlowLogger": "run_name",
    "CSVLogger": "version",
    "TensorBoardLogger": "version",
    "WandbLogger": "name",
}
"""Lightning's loggers -> the argument that names a run among others; it names none where it is ``None``."""

_prepared: set[tuple[str, str]] = set()


def name_loggers(config: Mapping[str, Any], directory: str | Path) -> dict[str, Any]:
    """The config with loggers that know which candidate they log: those of Lightning, and classes derived from them.

    Where several processes would make MLflow's tables and experiment at once, and all but one fail, they are made here, one
    process after the other.

    Args:
        config: A candidate's complete config, plain data; it isn't changed.
        directory: The candidate's directory: that of candidate 12 of ``runs/net`` is ``runs/net/candidates/000012``, its
            name ``net-000012``; a stack's ``net-stack-000012``; the winner's ``net-final``.
    """
    asked = (config.get("trainer") or {}).get("logger")
    if not isinstance(asked, (Mapping, list)):
        return dict(config)
    name = _name_of(Path(directory).absolute())
    named = [_named(each, name) for each in asked] if isinstance(asked, list) else _named(asked, name)
    return apply_genome(config, {"trainer.logger": named})


def log_genes(to: Iterable[Logger], genes: Mapping[str, Any]) -> None:
    """Log a candidate's genes as hyperparameters under their config paths, beside those that its module saves.

    Values that look like secrets are masked.

    Args:
        to: The Trainer's loggers.
        genes: Config path -> value; nothing is logged where there are none.
    """
    if genes:
        for logger in to:
            logger.log_hyperparams(Mask().data(dict(genes)))


def _name_of(directory: Path) -> str:
    place, run = directory.parent, directory.parent.parent
    if place.name == "candidates":
        return f"{run.name}-{directory.name}"
    if place.name == "stacks":
        return f"{run.name}-stack-{directory.name}"
    return f"{place.name}-{directory.name}"


def _named(logger: Any, name: str) -> Any:
    kind = _class_of(logger)
    if kind is None:
        return logger
    kinds, parameters = [each.__name__ for each in kind.__mro__], inspect.signature(kind).parameters
    arguments = dict(logger.get("init_args") or {})
    for of, argument in NAMED_BY.items():
        if of in kinds and argument in parameters and arguments.get(argument) is None:
            arguments[argument] = name
    if "MLFlowLogger" in kinds:
        defaults = {each.name: each.default for each in parameters.values() if each.default is not each.empty}
        _prepare_mlflow(defaults | arguments)
    return {**logger, "init_args": arguments}


def _class_of(logger: Any) -> type | None:
    """A logger's class; ``None`` where only the parser can know it, which then also says what is wrong."""
    if not isinstance(logger, Mapping) or not isinstance(path := logger.get("class_path"), str):
        return None
    try:
        return import_by_name(path if "." in path else f"{loggers.__name__}.{path}")
    except ImportError:
        return None


def _prepare_mlflow(arguments: Mapping[str, Any]) -> None:
    """Have the tables of the tracking store, and the experiment in it, made by one process at a time."""
    uri = arguments.get("tracking_uri") or f"file:{arguments.get('save_dir')}"
    experiment = arguments.get("experiment_name")
    if experiment is None or arguments.get("run_id") is not None or (uri, experiment) in _prepared:
        return
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        return  # the logger itself says so
    # One lock for each store, whichever search uses it; where it is may depend on the working directory.
    of_store = hashlib.sha256(f"{uri} {os.getcwd()}".encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"lightning-evo-mlflow-{os.getuid()}-{of_store}.lock"):
        client = MlflowClient(uri)
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment, artifact_location=arguments.get("artifact_location"))
    _prepared.add((uri, experiment))
