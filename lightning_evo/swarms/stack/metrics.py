"""Metric objects of the particles: a step that computes for all records their calls, and each counts after the step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import vmap
from torchmetrics import Metric, MetricCollection

from lightning_evo._compat.lightning import log_every_n_steps, trainer_of
from lightning_evo._compat.torch import tree_flatten, tree_map, tree_unflatten
from lightning_evo._compat.torchmetrics import BOOKKEEPING, mark_updated, state_defaults
from lightning_evo.swarms.logs import Log, Logged
from lightning_evo.swarms.stack.compatibility import NotStackable, same

__all__ = ["DeferredValue", "MetricCall", "StackedMetrics", "deferring", "log_epoch", "log_step", "metrics_of"]


@dataclass(frozen=True)
class MetricCall:
    """A call of a metric object in a step that computes for all particles.

    Args:
        path: The metric's path in its module.
        wants_value: Whether the metric was called for its value, not just updated.
        args: Its arguments; stacked, (N, ...), after the step.
        kwargs: Its keyword arguments.
    """

    path: str
    wants_value: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class DeferredValue:
    """The value of a metric that was called in a step for all particles. It is known after the step, and can only be logged.

    Any other use raises :class:`~lightning_evo.swarms.stack.compatibility.NotStackable`.
    """

    def __init__(self, path: str, place: int) -> None:
        self.path, self.place = path, place

    def refuse(self, *_: Any, **__: Any) -> Any:
        """Raise an error: the value isn't known yet."""
        raise NotStackable(
            f"the value of metric self.{self.path} is read in the step, where it isn't known for any one particle; "
            "update the metric there, and read it at the epoch's end or give it to self.log"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_flatten((args, kwargs or {}))[0]
        return next(leaf for leaf in leaves if isinstance(leaf, DeferredValue)).refuse()

    def __getattr__(self, name: str) -> Any:
        # copying and pickling look for special methods, which don't exist
        if name.startswith("__"):
            raise AttributeError(name)
        return self.refuse()


_ARITHMETIC = (
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "pow",
    "rpow",
    "neg",
    "abs",
    "matmul",
)
_READING = ("lt", "le", "gt", "ge", "bool", "float", "int", "len", "iter", "getitem", "format")
for _name in (*_ARITHMETIC, *_READING):
    setattr(DeferredValue, f"__{_name}__", DeferredValue.refuse)


def metrics_of(module: nn.Module) -> dict[str, Metric | MetricCollection]:
    """The metric objects of a module by path: the outermost ones, not those that others are made of."""
    found: dict[str, Metric | MetricCollection] = {}
    for path, child in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(child, (Metric, MetricCollection)) and not inside:
            found[path] = child
    return found


@contextmanager
def deferring(metrics: Mapping[str, Metric | MetricCollection], calls: list[MetricCall]) -> Iterator[None]:
    """Make metric objects record their calls instead of counting."""
    before = {path: dict(vars(metric)) for path, metric in metrics.items()}
    for path, metric in metrics.items():
        metric.__dict__.update(
            update=_CallRecorder(calls, path, wants_value=False),
            forward=_CallRecorder(calls, path, wants_value=True),
            compute=DeferredValue(path, -1).refuse,
            reset=DeferredValue(path, -1).refuse,
        )
    try:
        yield
    finally:
        for path, metric in metrics.items():
            for name in ("update", "forward", "compute", "reset"):
                metric.__dict__.pop(name)
                if name in before[path]:
                    metric.__dict__[name] = before[path][name]


class _CallRecorder:
    def __init__(self, calls: list[MetricCall], path: str, wants_value: bool) -> None:
        self.calls, self.path, self.wants_value = calls, path, wants_value

    def __call__(self, *args: Any, **kwargs: Any) -> DeferredValue | None:
        args, kwargs = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        self.calls.append(MetricCall(self.path, self.wants_value, args, kwargs))
        return DeferredValue(self.path, len(self.calls) - 1) if self.wants_value else None


class StackedMetrics:
    """One metric object of each of N particles, which count at once where possible.

    The states of metrics that are plain tensors are stacked, and ``update`` is computed for all under ``vmap``. List states,
    calls for a value and what vmap can't compute are counted one by one, with the same result.

    Args:
        metrics: The metrics of all particles at one path.
    """

    def __init__(self, metrics: Sequence[Metric | MetricCollection]) -> None:
        self.metrics: list[Any] = list(metrics)
        self._update: Callable[..., dict[str, Tensor]] | None = _update_of_all(self.metrics)
        self._views: dict[str, list[Tensor]] = {}
        self._stacks: dict[str, Tensor] = {}

    def __call__(self, call: MetricCall) -> list[Any] | None:
        """Count; return the N values if the call wants them."""
        if self._update is not None and not call.wants_value:
            try:
                self._count_at_once(call)
                return None
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                self._update = None  # if the call itself is wrong, counting one by one raises the same error
        leaves, structure = tree_flatten((call.args, call.kwargs))
        values = []
        for index, metric in enumerate(self.metrics):
            mine = [leaf[index] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            args, kwargs = tree_unflatten(mine, structure)
            values.append(metric(*args, **kwargs) if call.wants_value else metric.update(*args, **kwargs))
        return values if call.wants_value else None

    def _count_at_once(self, call: MetricCall) -> None:
        assert self._update is not None
        leaves, structure = tree_flatten((call.args, call.kwargs))
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def update(states: dict[str, Tensor], tensors: list[Tensor]) -> dict[str, Tensor]:
            mine = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                mine[place] = tensor
            args, kwargs = tree_unflatten(mine, structure)
            assert self._update is not None
            return self._update(states, *args, **kwargs)

        with torch.no_grad():
            stacks = vmap(update)(self._states(), [leaves[place] for place in places])
        self._stacks, self._views = stacks, {name: list(stack.unbind()) for name, stack in stacks.items()}
        for index, metric in enumerate(self.metrics):
            metric.__dict__.update({name: views[index] for name, views in self._views.items()})
            mark_updated(metric)

    def _states(self) -> dict[str, Tensor]:
        """Stacked copies of the states of all metrics."""
        states = {}
        for name in state_defaults(self.metrics[0]):
            held = [getattr(metric, name) for metric in self.metrics]
            views = self._views.get(name, [])
            if len(views) == len(held) and all(a is b for a, b in zip(held, views, strict=True)):
                states[name] = self._stacks[name].clone()
            else:
                states[name] = torch.stack(held)
        return states


def _update_of_all(metrics: Sequence[Metric | MetricCollection]) -> Callable[..., dict[str, Tensor]] | None:
    """A metric's update as a function from states to states; ``None`` if that is not possible."""
    first = metrics[0]
    if not isinstance(first, Metric) or list(first.children()):
        return None
    states = state_defaults(first)
    if not states or not all(isinstance(default, Tensor) for default in states.values()):
        return None
    ignored = {
        *states,
        "update",
        "compute",
        *BOOKKEEPING,
    }
    settings = [{name: value for name, value in vars(metric).items() if name not in ignored} for metric in metrics]
    if not all(same(settings[0], others) for others in settings[1:]):
        return None
    shell = copy.deepcopy(first)

    def update(values: dict[str, Tensor], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        shell.__dict__.update(values)
        type(shell).update(shell, *args, **kwargs)
        return {name: getattr(shell, name) for name in states}

    return update


def log_epoch(module: LightningModule, log: Log, count: int) -> list[dict[str, float]]:
    """End an epoch: log its values to Lightning as ``name/particle_0``, ... and, as ``name``, their mean.

    The mean leaves out NaN, so that one diverged particle doesn't hide the others; it shows in its own value.

    Args:
        module: The module to log with; it must be in a hook in which logging is allowed.
        log: What the particles logged; cleared.
        count: The number of particles.

    Returns:
        Each particle's values by name.
    """
    drained = log.drain()
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    if not drained:
        return rows
    device = drained[0].value.device
    table = torch.stack([logged.value.detach().float().to(device) for logged in drained]).tolist()
    for logged, values in zip(drained, table, strict=True):
        # Lightning's names: of a value that is logged per step, too, loggers get the epoch's as name_epoch.
        forked = logged.on_step and logged.on_epoch
        names = [logged.name, f"{logged.name}_epoch"] if forked else [logged.name]
        options: dict[str, Any] = {"sync_dist": logged.sync_dist, "batch_size": 1, "add_dataloader_idx": False}
        finite = [value for value in values if not math.isnan(value)]
        mean = sum(finite) / len(finite) if finite else math.nan
        for name in names:
            shown = name == names[-1]
            module.log(name, mean, prog_bar=logged.prog_bar and shown, logger=logged.logger and shown, **options)
        # Without a logger, Lightning warns once for every name; one warning, for the mean, is enough.
        logger = logged.logger and bool(module.trainer.loggers)
        for index, value in enumerate(values):
            rows[index].update(dict.fromkeys(names, value))
            module.log(f"{logged.name}/particle_{index}", value, logger=logger, **options)
    return rows


def log_step(module: LightningModule, calls: Sequence[Logged]) -> None:
    """Log the mean of what was logged per step to Lightning, in the steps that loggers record.

    A call of Lightning's ``log`` takes 0.7 ms, too much for N series in every step.
    """
    trainer = trainer_of(module)
    if trainer is None or not any(logged.on_step for logged in calls):
        return
    every = log_every_n_steps(trainer)
    if every == 0 or (trainer.global_step + 1) % every != 0:
        return
    for logged in calls:
        if logged.on_step and isinstance(logged.value, Tensor):
            name = f"{logged.name}_step" if logged.on_epoch else logged.name
            module.log(
                name,
                logged.value.nanmean(),
                on_step=True,
                on_epoch=False,
                prog_bar=logged.prog_bar,
                logger=logged.logger,
                sync_dist=logged.sync_dist,
                batch_size=1,
            )
