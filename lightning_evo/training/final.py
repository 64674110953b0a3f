"""The winner: retrained if asked, and tested once on data the search never saw."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_evo.callbacks.fitness import CHECKPOINT_FILE
from lightning_evo.genome import COMPLETED, Result
from lightning_evo.training.adaptation import Adaptation
from lightning_evo.training.blueprint import Blueprint, Parts, dump_yaml
from lightning_evo.training.candidate import isolated, loading, train_candidate, trainer_overrides
from lightning_evo.training.distributed import train_candidate_distributed
from lightning_evo.training.loggers import ended_runs, name_loggers
from lightning_evo.training.packing import pack, restore_structure
from lightning_evo.training.preparation import prepare_in_turn
from lightning_evo.training.request import TrainingRequest
from lightning_evo.training.tested import recorded_test, remember_test
from lightning_evo.training.working_directory import anchored, launch_directory, working_in
from lightning_evo.utils.checkpoints import check_whole
from lightning_evo.utils.files import copy_atomically
from lightning_evo.utils.records import known_fields

__all__ = ["WinnerRecord", "finish_candidate"]


@dataclass(frozen=True)
class WinnerRecord:
    """The outcome of a winner's retraining and test.

    Args:
        tested: Whether it was tested.
        why_not: Why it wasn't.
        retrained: Whether it was trained again.
        packed: What is worth knowing of the exported files.
    """

    key: ClassVar[str] = "winner"

    tested: bool
    why_not: str = ""
    retrained: bool = False
    packed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


def _taken_over(checkpoint: Path, request: TrainingRequest) -> str:
    """A copy of a checkpoint in the directory where the winner is tested: nothing damages it between two looks at it.

    Raises:
        DamagedCheckpoint: If it isn't what its candidate left.
    """
    copy = copy_atomically(checkpoint, Path(request.directory) / CHECKPOINT_FILE)
    check_whole(copy, request.digest)
    return str(copy)


def finish_candidate(
    blueprint: Blueprint, config: Mapping[str, Any], request: TrainingRequest, checkpoint: str | None, test: bool
) -> Result:
    """Retrain (if ``checkpoint`` is ``None``) and test a candidate, and pack what stock Lightning opens.

    Args:
        blueprint: The LightningCLI that builds it.
        config: Its complete config.
        request: How to retrain it; the package goes to its directory. Testing uses one device.
        checkpoint: Path of the checkpoint to test.
        test: Whether to test, if that wasn't done before.

    Returns:
        Completed, with ``metrics`` of the test (and of the retraining), and a :class:`WinnerRecord` in ``extra``; or failed.
    """
    started, directory = time.time(), request.directory
    trained: Result | None = None
    if checkpoint is None:
        train = train_candidate_distributed if request.devices > 1 else train_candidate
        trained = train(blueprint, config, request)
        if trained.status != COMPLETED:
            return trained
        assert trained.checkpoint is not None
        checkpoint = str(Path(directory) / trained.checkpoint)
    else:
        try:
            checkpoint = _taken_over(Path(checkpoint), request)
        except Exception as error:
            return Result.failure(error, started=started, ended=time.time())
    trusted = trained is not None or request.trusted
    metrics = dict(trained.metrics) if trained else {}
    why_not = "" if test else "not asked for"
    try:
        known = recorded_test(directory, config) if test else None
        if known is not None:
            metrics |= known
        elif test:
            base = launch_directory(request)
            with isolated(config), working_in(request.working_directory), ended_runs() as loggers:
                named = name_loggers(config, directory, "test" if trained else "")
                if request.chdir:
                    named = anchored(blueprint, named, base)
                overrides = trainer_overrides(config, directory, 1)
                parts = blueprint.build(named, overrides, adaptation=Adaptation(directory, config))
                why_not = _untestable(parts)
                if not why_not:
                    loggers += parts.trainer.loggers
                    prepare_in_turn(directory, parts.model, parts.datamodule)
                    with parts.testing():
                        restore_structure(parts.model, Path(checkpoint), trusted)
                        run = partial(parts.trainer.test, datamodule=parts.datamodule, ckpt_path=checkpoint)
                        run(parts.model, verbose=False, **loading(trusted))
                    tested = {name: float(value) for name, value in parts.trainer.callback_metrics.items()}
                    # At once, and outside the directory: whatever happens from here on, it is not tested again.
                    remember_test(directory, config, tested)
                    metrics |= tested
        packed = pack(dump_yaml(dict(config)), Path(checkpoint), Path(directory), trusted)
    except Exception as error:
        return Result.failure(error, started=started, ended=time.time())
    record = WinnerRecord(not why_not, why_not, trained is not None, packed.message)
    return Result(
        COMPLETED,
        fitness=trained.fitness if trained else None,
        metrics=metrics,
        cost=trained.cost if trained else {},
        checkpoint=checkpoint,
        started=started,
        ended=time.time(),
        extra={record.key: record.to_dict()},
    )


def _untestable(parts: Parts) -> str:
    """Why there is nothing to test; empty if there is."""
    if not is_overridden("test_step", parts.model, LightningModule):
        return f"{type(parts.model).__name__} has no test_step"
    source = parts.datamodule if parts.datamodule is not None else parts.model
    if not is_overridden("test_dataloader", source):
        return f"{type(source).__name__} has no test_dataloader"
    return ""
