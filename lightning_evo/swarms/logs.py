"""Intercepted ``self.log`` calls of a module, reduced over an epoch as Lightning reduces them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor
from torchmetrics import Metric

from lightning_evo.swarms.errors import SwarmError

__all__ = ["Log", "Logged", "recording", "redirected_logs", "stacked"]

# Where Lightning logs per step unless told otherwise; everywhere else, per epoch.
_STEP_HOOKS = frozenset(
    {
        "on_before_backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "on_before_zero_grad",
        "optimizer_step",
        "lr_scheduler_step",
        "training_step",
        "on_train_batch_start",
        "on_train_batch_end",
    }
)
_REDUCTIONS = ("mean", "min", "max", "sum")


@dataclass(frozen=True)
class Logged:
    """One call of ``self.log``.

    Args:
        name: The name, with the data loader's suffix where there are several.
        value: A number, a tensor of one element, a metric; or of several particles: a tensor (N,), N metrics.
        hook: The method of the module that logged it.
        on_step: Whether it is logged at every step.
        on_epoch: Whether it is reduced over the epoch.
        reduction: How: ``mean`` (weighted by batch sizes), ``min``, ``max`` or ``sum``.
        batch_size: The weight, in examples.
        prog_bar: Whether the progress bar shows it.
        logger: Whether loggers get it.
        sync_dist: Whether it is reduced over processes.
    """

    name: str
    value: Any
    hook: str
    on_step: bool
    on_epoch: bool
    reduction: str = "mean"
    batch_size: int = 1
    prog_bar: bool = False
    logger: bool = True
    sync_dist: bool = False


@dataclass
class _Entry:
    """All calls under one name in one hook, reduced."""

    last: Logged
    total: Any = None
    weight: int = 0
    metrics: list[Metric] = field(default_factory=list)


class Log:
    """The values that modules log during an epoch.

    Outside a Trainer, set ``hook``, ``batch`` and ``dataloader_idx`` before each call of a step or hook of the module.
    :func:`recording` connects a log with a module.

    >>> log = Log()
    >>> log.hook, log.batch = "validation_step", torch.zeros(3, 2)
    >>> log.log("val_loss", 1.0)
    >>> log.batch = torch.zeros(1, 2)
    >>> log.log("val_loss", 2.0)
    >>> log.metrics()
    {'val_loss': 1.25}
    """

    loggable: tuple[type, ...] = (numbers.Number, Tensor, Metric)
    """Types of values that can be logged."""

    def __init__(self) -> None:
        self.hook: str = "training_step"
        self.batch: Any = None
        self.dataloader_idx: int | None = None
        self._entries: dict[tuple[str, str], _Entry] = {}

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Take the place of :meth:`lightning.pytorch.LightningModule.log`, with its arguments and defaults.

        Arguments about graphs and processes (``enable_graph``, ``sync_dist_group``, ``rank_zero_only``) have no effect.

        Raises:
            SwarmError: Lightning couldn't log the value either.
        """
        if not isinstance(value, self.loggable):
            raise SwarmError(
                f"self.log({name!r}, ...) got a {type(value).__name__}; a number, tensor or metric is needed"
            )
        per_step = self.hook in _STEP_HOOKS
        on_step = per_step if on_step is None else on_step
        on_epoch = not per_step if on_epoch is None else on_epoch
        if not on_step and not on_epoch:
            raise SwarmError(f"self.log({name!r}, on_step=False, on_epoch=False) logs nothing; set one of them")
        reduction = _reduction(name, reduce_fx)
        weight = 1
        if on_epoch and reduction == "mean" and not isinstance(value, Metric):
            weight = batch_size if batch_size is not None else _size_of(self.batch)
        if self.dataloader_idx is not None and add_dataloader_idx:
            name = f"{name}/dataloader_idx_{self.dataloader_idx}"
        if isinstance(value, Tensor):
            value = value.detach()
        self.record(
            Logged(
                name,
                value,
                self.hook,
                on_step,
                on_epoch,
                reduction,
                weight,
                prog_bar,
                logger is None or logger,
                sync_dist,
            )
        )

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Take the place of :meth:`lightning.pytorch.LightningModule.log_dict`."""
        for name, value in dictionary.items():
            self.log(name, value, *args, **options)

    def record(self, logged: Logged) -> None:
        """Add one call."""
        entry = self._entries.setdefault((logged.hook, logged.name), _Entry(logged))
        entry.last = logged
        value = logged.value
        if isinstance(value, Metric) or (isinstance(value, list) and value and isinstance(value[0], Metric)):
            entry.metrics = value if isinstance(value, list) else [value]
            return
        if isinstance(value, Tensor):
            value = value.detach()
            value = value if value.dtype in (torch.float32, torch.float64) else value.float()
        if not logged.on_epoch:
            entry.total, entry.weight = value, 1
        elif logged.reduction == "mean":
            entry.total = value * logged.batch_size + (0 if entry.total is None else entry.total)
            entry.weight += logged.batch_size
        else:
            entry.total = value if entry.total is None else _REDUCE[logged.reduction](entry.total, value)

    def drain(self) -> list[Logged]:
        """Return the epoch's values, one for each name and hook, in the order of their first calls; then clear them.

        Metric objects are computed and reset. Values are numbers or tensors: of one element or, of several particles, (N,).
        """
        entries, self._entries = list(self._entries.values()), {}
        # A metric logged under several names, or in several hooks, is reset only after all have been computed.
        drained = [replace(entry.last, value=_reduced(entry)) for entry in entries]
        for entry in entries:
            for metric in entry.metrics:
                metric.reset()
        return drained

    def metrics(self) -> dict[str, float]:
        """The epoch's values of one module by name; the log is empty again afterwards.

        A value logged per step and per epoch is there under Lightning's three names: ``loss``, ``loss_step`` (the last
        step's) and ``loss_epoch``. One logged per step only is the last step's. Metric objects are computed and reset.
        """
        values: dict[str, float] = {}
        steps = {key: entry.last.value for key, entry in self._entries.items()}
        for logged in self.drain():
            values[logged.name] = float(logged.value)
            if logged.on_step and logged.on_epoch:
                values[f"{logged.name}_epoch"] = float(logged.value)
                last = steps[logged.hook, logged.name]
                values[f"{logged.name}_step"] = float(logged.value if isinstance(last, Metric) else last)
        return values


@contextmanager
def recording(module: LightningModule, log: Log | None = None) -> Iterator[Log]:
    """Redirect what a module and the LightningModules inside it log to a :class:`Log`, instead of a Trainer.

    Args:
        module: An ordinary module, with or without a Trainer.
        log: The log; a new one by default.

    Yields:
        The log.
    """
    log = Log() if log is None else log
    with redirected_logs([child for child in module.modules() if isinstance(child, LightningModule)], log):
        yield log


@contextmanager
def redirected_logs(holders: Sequence[LightningModule], log: Log) -> Iterator[None]:
    """Redirect ``self.log`` and ``self.log_dict`` of exactly these modules to a log.

    Args:
        holders: The modules; not those inside them, which would take time to find in every step.
        log: The log.
    """
    before = [{name: holder.__dict__.get(name) for name in ("log", "log_dict")} for holder in holders]
    for holder in holders:
        holder.__dict__.update(log=log.log, log_dict=log.log_dict)
    try:
        yield
    finally:
        for holder, methods in zip(holders, before, strict=True):
            for name, method in methods.items():
                if method is None:
                    holder.__dict__.pop(name, None)
                else:
                    holder.__dict__[name] = method


def _smaller(a: Any, b: Any) -> Any:
    return torch.minimum(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else min(a, b)


def _larger(a: Any, b: Any) -> Any:
    return torch.maximum(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else max(a, b)


_REDUCE: dict[str, Callable[[Any, Any], Any]] = {"sum": lambda a, b: a + b, "min": _smaller, "max": _larger}


def _reduction(name: str, reduce_fx: str | Callable[[Any], Any]) -> str:
    reduction = reduce_fx.lower() if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", "")
    reduction = "mean" if reduction == "avg" else reduction
    if reduction not in _REDUCTIONS:
        raise SwarmError(
            f"self.log({name!r}, reduce_fx={reduce_fx}): only mean, min, max and sum are supported; "
            "log a torchmetrics.Metric for anything else"
        )
    return reduction


def _size_of(batch: Any) -> int:
    return 1 if batch is None else extract_batch_size(batch)


def _reduced(entry: _Entry) -> Any:
    if entry.metrics:
        values = [torch.as_tensor(metric.compute()) for metric in entry.metrics]
        return values[0] if isinstance(entry.last.value, Metric) else stacked(values)
    if entry.last.on_epoch and entry.last.reduction == "mean":
        return entry.total / entry.weight
    return entry.total


def stacked(values: Sequence[Any]) -> Tensor:
    """Values of N particles, numbers or tensors of one element, as a float tensor (N,) on the tensors' device."""
    if any(isinstance(value, Tensor) for value in values):
        device = next(value.device for value in values if isinstance(value, Tensor))
        return torch.stack([torch.as_tensor(value, device=device).detach().float().reshape(()) for value in values])
    return torch.tensor(values, dtype=torch.float32)
