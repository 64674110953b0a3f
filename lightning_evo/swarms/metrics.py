"""How do metric objects count for each particle, when one step computes for all? After it, each with its own values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torchmetrics import Metric, MetricCollection

from lightning_evo.swarms.guards import NotStackable, same

__all__ = ["Deferred", "MetricCall", "StackedMetrics", "deferring", "metrics_of"]


@dataclass(frozen=True)
class MetricCall:
    """A call of a metric object in a step that computes for all particles.

    Args:
        path: Where the metric is in its module.
        wants_value: Whether the metric was called for its value, not just updated.
        args: Its arguments; stacked, (N, ...), once the step is over.
        kwargs: Its keyword arguments.
    """

    path: str
    wants_value: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Deferred:
    """The value of a metric that was called in a step for all particles: known after the step, so only to be logged.

    Anything else that is done with it raises :class:`~lightning_evo.swarms.guards.NotStackable`.
    """

    def __init__(self, path: str, place: int) -> None:
        self.path, self.place = path, place

    def refuse(self, *_: Any, **__: Any) -> Any:
        """Say that the value isn't known yet."""
        raise NotStackable(
            f"the value of metric self.{self.path} is read in the step, where it isn't known for any one particle; "
            "update the metric there, and read it at the epoch's end or give it to self.log"
        )

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = tree_flatten((args, kwargs or {}))[0]
        return next(leaf for leaf in leaves if isinstance(leaf, Deferred)).refuse()

    def __getattr__(self, name: str) -> Any:
        # copying and pickling ask for special methods, which aren't there
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
    setattr(Deferred, f"__{_name}__", Deferred.refuse)


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
    """Have metric objects note how they are called instead of counting."""
    before = {path: dict(vars(metric)) for path, metric in metrics.items()}
    for path, metric in metrics.items():
        metric.__dict__.update(
            update=_Noting(calls, path, wants_value=False),
            forward=_Noting(calls, path, wants_value=True),
            compute=Deferred(path, -1).refuse,
            reset=Deferred(path, -1).refuse,
        )
    try:
        yield
    finally:
        for path, metric in metrics.items():
            for name in ("update", "forward", "compute", "reset"):
                metric.__dict__.pop(name)
                if name in before[path]:
                    metric.__dict__[name] = before[path][name]


class _Noting:
    def __init__(self, calls: list[MetricCall], path: str, wants_value: bool) -> None:
        self.calls, self.path, self.wants_value = calls, path, wants_value

    def __call__(self, *args: Any, **kwargs: Any) -> Deferred | None:
        args, kwargs = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        self.calls.append(MetricCall(self.path, self.wants_value, args, kwargs))
        return Deferred(self.path, len(self.calls) - 1) if self.wants_value else None


class StackedMetrics:
    """One metric object of each of N particles, counting for all at once where that can be.

    The states of metrics that are plain tensors are stacked, and ``update`` is computed for all under ``vmap``. What vmap
    can't take, list states and calls for a value count one by one; the result is the same.

    Args:
        metrics: Of the same path in each particle.
    """

    def __init__(self, metrics: Sequence[Metric | MetricCollection]) -> None:
        self.metrics = list(metrics)
        self._update: Callable[..., dict[str, Tensor]] | None = _update_of_all(self.metrics)
        self._views: dict[str, list[Tensor]] = {}
        self._stacks: dict[str, Tensor] = {}

    def __call__(self, call: MetricCall) -> list[Any] | None:
        """Count; the N values, if the call wants them."""
        if self._update is not None and not call.wants_value:
            try:
                self._count_at_once(call)
                return None
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                self._update = None  # what is wrong with the call itself, counting one by one says, too
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
            metric._computed = None
            metric._update_count += 1  # type: ignore[operator]

    def _states(self) -> dict[str, Tensor]:
        """Copies of the states of all, stacked."""
        states = {}
        for name in self.metrics[0]._defaults:  # type: ignore[union-attr]
            held = [getattr(metric, name) for metric in self.metrics]
            views = self._views.get(name, [])
            if len(views) == len(held) and all(a is b for a, b in zip(held, views, strict=True)):
                states[name] = self._stacks[name].clone()
            else:
                states[name] = torch.stack(held)
        return states


def _update_of_all(metrics: Sequence[Metric | MetricCollection]) -> Callable[..., dict[str, Tensor]] | None:
    """A metric's update as a function from states to states; ``None`` if it can't be one."""
    first = metrics[0]
    if not isinstance(first, Metric) or list(first.children()):
        return None
    states = first._defaults
    if not states or not all(isinstance(default, Tensor) for default in states.values()):
        return None
    ignored = {
        *states,
        "update",
        "compute",
        "_computed",
        "_update_count",
        "_forward_cache",
        "_cache",
        "_update_signature",
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
