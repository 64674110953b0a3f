"""Metrics of the ranks of a swarm: each rank has its own, and the mean over ranks of what callbacks monitor."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from lightning_evo._compat.lightning import callbacks_of
from lightning_evo._compat.torchmetrics import PlainMetric, share_forward_value

__all__ = ["RankMetrics"]


class RankMetrics:
    """Adapts a module's logging to a swarm of ranks, until it is closed.

    Metrics of torchmetrics gather their states from all processes by themselves, which would mix the particles' results:
    here they don't. But if the ranks of a ModelCheckpoint or EarlyStopping saw different values, they would keep and delete
    different files, or wait for each other forever: what callbacks monitor is the mean over ranks.

    Args:
        trainer: Its callbacks' attributes ``monitor`` name what is monitored; its strategy reduces.
        module: The module that logs.
        particles: The modules that hold the metrics: the module itself, or the particles that it stacks.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, particles: Sequence[LightningModule]) -> None:
        self._trainer, self._module = trainer, module
        self._suffix = f"/rank_{trainer.global_rank}"
        callbacks = callbacks_of(trainer)
        self._monitored = {name for one in callbacks if isinstance(name := getattr(one, "monitor", None), str)}
        self._own: dict[str, float] = {}
        # Lists, because a metric's hash changes with its state.
        self._means: list[_MeanOverRanks] = []
        metrics = [one for particle in particles for one in particle.modules() if isinstance(one, Metric)]
        self._available = [(one, one.distributed_available_fn) for one in metrics]
        for one in metrics:
            one.distributed_available_fn = _alone
        # Lightning recommends sync_dist=True wherever there are several processes.
        warnings.filterwarnings("ignore", r"It is recommended to use `self\.log\(.*sync_dist=True")
        vars(module)["log"] = self._wrapped(module.log)

    def own(self) -> dict[str, float]:
        """The last per-epoch metrics of this rank's particle."""
        values = {name: float(value) for name, value in self._trainer.callback_metrics.items()}
        for name in [name for name in values if name.endswith(self._suffix)]:
            values[name.removesuffix(self._suffix)] = values.pop(name)
        return values | {name: value for name, value in self._own.items() if name in values}

    def close(self) -> None:
        """Undo all changes."""
        vars(self._module).pop("log", None)
        for one, available in self._available:
            one.distributed_available_fn = available

    def _wrapped(self, log: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(log)

        @wraps(log)
        def logged(*args: Any, **kwargs: Any) -> None:
            given = signature.bind(*args, **kwargs).arguments
            if self._decides(given["name"]):
                if isinstance(given["value"], Metric):
                    self._average(given)
                else:
                    own = {"name": given["name"] + self._suffix, "sync_dist": False, "logger": False, "prog_bar": False}
                    log(**{**given, **own})
                    given["sync_dist"] = True
            log(**given)

        return logged

    def _decides(self, name: str) -> bool:
        """Whether a callback monitors this, possibly under a name that Lightning derives from it."""
        made = (name, f"{name}_epoch", f"{name}_step")
        return any(one in made or one.startswith(f"{name}/dataloader_idx_") for one in self._monitored)

    def _average(self, given: dict[str, Any]) -> None:
        """Make Lightning compute the mean over ranks of a metric object; elsewhere the object gives its own value."""
        metric = given["value"]
        found = next((one for one in self._means if one.metric is metric), None)
        if found is None:
            found = _MeanOverRanks(metric, self._trainer, partial(self._own.__setitem__, given["name"]))
            self._means.append(found)
        if given.get("metric_attribute") is None:
            names = (name for name, child in self._module.named_modules() if child is metric)
            given["metric_attribute"] = next(names, None)
        if given["metric_attribute"] is not None:  # otherwise Lightning raises an error
            share_forward_value(metric, found)
            given["value"] = found


class _MeanOverRanks(PlainMetric):
    """A metric's value, averaged over ranks when Lightning computes it."""

    full_state_update = False

    def __init__(self, metric: Metric, trainer: Trainer, keep: Callable[[float], None]) -> None:
        super().__init__()
        # Not a submodule: the metric belongs to the user's module.
        object.__setattr__(self, "metric", metric)
        self._trainer, self._keep = trainer, keep

    metric: Metric

    def update(self) -> None:
        """Do nothing: the metric itself is updated."""

    def compute(self) -> Tensor:
        """The mean over ranks of the metric's value in each."""
        value = self.metric.compute()
        self._keep(float(value))
        return self._trainer.strategy.reduce(value.clone().double(), reduce_op="mean").to(value.dtype)

    def reset(self) -> None:
        """Reset the metric."""
        self.metric.reset()


def _alone() -> bool:
    """Tells a metric that there are no other processes."""
    return False
