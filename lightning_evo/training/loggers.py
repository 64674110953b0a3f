"""Loggers of candidates: a silent one by default; those of a config tell candidates apart, and end with theirs.

Lightning's loggers count versions (``version_3``) or draw names. Several processes would count to the same number, and
nobody could say afterwards which candidate is which. Most of them end their run with the process, which here goes on with
the next candidate.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger

from lightning_evo.training.overrides import apply_genome
from lightning_evo.utils.imports import import_by_name
from lightning_evo.utils.masking import Mask

__all__ = ["Place", "SilentLogger", "ended_runs", "log_genes", "name_loggers", "place_of"]

NAMED_BY = {
    "MLFlowLogger": "run_name",
    "CSVLogger": "version",
    "TensorBoardLogger": "version",
    "WandbLogger": "name",
}
"""Lightning's loggers -> the argument that names a run among others; the candidate's name is added to what it says."""

CONTINUED_BY = {
    "MLFlowLogger": ("run_id",),
    "WandbLogger": ("id", "version"),
    "CometLogger": ("experiment_key",),
    "NeptuneLogger": ("run",),
}
"""Lightning's loggers -> the arguments that name a run to go on with, which all candidates would share.

W&B takes any name for a new run; elsewhere candidates begin runs of their own.
"""

_prepared: set[tuple[str, str]] = set()


class SilentLogger(Logger):
    """Writes nothing, and has what modules and callbacks ask of a logger, real paths among it.

    Whatever method of a logger is called, nothing happens; so with its :attr:`experiment`.

    Args:
        directory: A candidate's directory.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self._directory = Path(directory).absolute()

    @property
    def name(self) -> str:
        """The name of the run that the candidate belongs to."""
        return place_of(self._directory).run.name

    @property
    def version(self) -> str:
        """The candidate in the run: its id, ``final``, or ``stack-`` and the id of the stack's first member."""
        return place_of(self._directory).candidate

    @property
    def save_dir(self) -> str:
        """The candidate's directory."""
        return str(self._directory)

    @property
    def root_dir(self) -> str:
        """The candidate's directory."""
        return str(self._directory)

    @property
    def log_dir(self) -> str:
        """The candidate's directory."""
        return str(self._directory)

    @property
    def experiment(self) -> Any:
        """Takes any call that a ``SummaryWriter`` or another library's run takes."""
        return _Silence(self.log_dir)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nothing: the learning curve has them."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the archive has them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _Silence(self.log_dir)


class _Silence:
    """Is called, indexed, entered and asked for attributes, and remains what it is."""

    def __init__(self, directory: str) -> None:
        self.log_dir = self.dir = directory

    def get_logdir(self) -> str:
        return self.log_dir

    def __getattr__(self, name: str) -> _Silence:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Silence:
        return self

    def __getitem__(self, key: Any) -> _Silence:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __enter__(self) -> _Silence:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def ended_runs() -> Iterator[list[Logger]]:
    """End, with the block, the runs that loggers began within it, and those that the user's own code did.

    Yields:
        A list to add loggers to.
    """
    before = {library: active() for library, (active, _) in _global_runs().items()}
    loggers: list[Logger] = []
    failed = True
    try:
        yield loggers
        failed = False
    finally:
        for logger in loggers:
            if failed:
                _quietly(logger.finalize, "failed")
            for kind in type(logger).__mro__:
                if kind.__name__ in _ENDED_BY:
                    _quietly(_ENDED_BY[kind.__name__], logger, failed)
        for library, (active, end) in _global_runs().items():
            run = active()
            if run is not None and run is not before.get(library):
                _quietly(end, run, failed)


_ENDED_BY: dict[str, Callable[[Any, bool], object]] = {
    "WandbLogger": lambda logger, failed: logger.experiment.finish(exit_code=int(failed)),
    "CometLogger": lambda logger, _: logger.experiment.end(),
    "NeptuneLogger": lambda logger, _: logger.experiment.stop(),
}
"""Lightning's loggers whose runs outlive ``finalize`` -> what ends them."""


def _global_runs() -> dict[str, tuple[Callable[[], Any], Callable[[Any, bool], object]]]:
    """Of libraries that have been imported: what tells the run that is active in this process, and what ends it."""
    known: dict[str, tuple[Callable[[], Any], Callable[[Any, bool], object]]] = {}
    wandb: Any = sys.modules.get("wandb")
    mlflow: Any = sys.modules.get("mlflow")
    if hasattr(wandb, "run"):
        known["wandb"] = (lambda: wandb.run, lambda run, failed: run.finish(exit_code=int(failed)))
    if hasattr(mlflow, "active_run") and hasattr(mlflow, "end_run"):
        known["mlflow"] = (mlflow.active_run, lambda _, failed: mlflow.end_run("FAILED" if failed else "FINISHED"))
    return known


def _quietly(end: Callable[..., object], *args: Any) -> None:
    """Call what ends a run; what it raises is reported, and isn't a failure of the candidate."""
    try:
        end(*args)
    except Exception as error:
        print(f"a logger's run could not be ended: {type(error).__name__}: {error}")


def name_loggers(config: Mapping[str, Any], directory: str | Path, purpose: str = "") -> dict[str, Any]:
    """The config with loggers that know which candidate they log: those of Lightning, and classes derived from them.

    Where several processes would make MLflow's tables and experiment at once, and all but one fail, they are made here, one
    process after the other.

    Args:
        config: A candidate's complete config, plain data; it isn't changed.
        directory: The candidate's directory: that of candidate 12 of ``runs/net`` is ``runs/net/candidates/000012``, its
            name ``net-000012``; a stack's ``net-stack-000012``; the winner's ``net-final``. Where the config names the
            run ``mine``, it is ``mine-000012``.
        purpose: What is added to the name: what the run is for besides training.
    """
    asked = (config.get("trainer") or {}).get("logger")
    if not isinstance(asked, (Mapping, list)):
        return dict(config)
    place = place_of(Path(directory).absolute())
    name = (place.run.name, f"{place.candidate}-{purpose}" if purpose else place.candidate)
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


@dataclass(frozen=True)
class Place:
    """What a candidate's directory tells.

    Args:
        run: The run's directory.
        candidate: The candidate's id, ``final``, or ``stack-`` and the id of a stack's first member.
    """

    run: Path
    candidate: str


def place_of(directory: Path) -> Place:
    """What an absolute path of a candidate's directory tells."""
    place, run = directory.parent, directory.parent.parent
    if place.name == "candidates":
        return Place(run, directory.name)
    if place.name == "stacks":
        return Place(run, f"stack-{directory.name}")
    return Place(place, directory.name)


def _named(logger: Any, name: tuple[str, str]) -> Any:
    kind = _class_of(logger)
    if kind is None:
        return logger
    kinds, parameters = [each.__name__ for each in kind.__mro__], inspect.signature(kind).parameters
    arguments = dict(logger.get("init_args") or {})
    for of, argument in NAMED_BY.items():
        if of in kinds and argument in parameters:
            said = arguments.get(argument)
            arguments[argument] = "-".join(name) if said in (None, "") else f"{said}-{name[1]}"
    for of, which in CONTINUED_BY.items():
        for argument in which:
            if of in kinds and (said := arguments.get(argument)) is not None:
                arguments[argument] = f"{said}-{name[1]}" if of == "WandbLogger" else None
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
