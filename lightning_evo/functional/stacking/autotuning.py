"""Which of several equal computations is the fastest here? Timed once for each shape, and remembered."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["choose", "chosen", "fixed_lowerings", "lowerings", "set_lowerings"]

_ROUNDS = 2
_ENOUGH = 0.3
"""Seconds of timing after which no further round is begun."""

_CLEARLY = 0.9
"""The share of the default's time that another candidate may take at most: closer ones aren't worth a change by chance."""

_chosen: dict[str, str] = {}
_lock = threading.RLock()


class _Fixed(threading.local):
    depth = 0  # of nested contexts, in each thread


_fixed = _Fixed()


def chosen(key: str) -> str | None:
    """What :func:`choose` has chosen for ``key``, or :func:`set_lowerings` has set; ``None`` if nothing yet."""
    return _chosen.get(key)


def choose(key: str, candidates: Mapping[str, Callable[[], Tensor]], inputs: list[Tensor], default: str) -> str:
    """The name of the candidate that takes the least time, forward and backward; remembered for ``key``.

    The ``default`` is kept unless another is clearly faster.

    As with ``torch.backends.cudnn.benchmark``, what is chosen may differ between two runs, and with it the last bits of
    the results. Where :func:`torch.use_deterministic_algorithms` or :func:`fixed_lowerings` asks for it, nothing is timed
    and the ``default`` is taken, unless ``key`` was set by :func:`set_lowerings`.

    Args:
        key: What the time depends on.
        candidates: Name -> a function that computes the result from the inputs.
        inputs: With respect to those that require a gradient the backward pass is timed; they are left as they are.
        default: The candidate to take without timing.

    Raises:
        RuntimeError: If none of the candidates can be computed.

    >>> x = torch.ones(3)
    >>> with fixed_lowerings():
    ...     choose("double x", {"sum": lambda: x + x, "product": lambda: 2 * x}, [x], default="sum")
    'sum'
    """
    with _lock:
        name = _chosen.get(key)
        if name is not None and name in candidates:
            return name  # another thread has timed it meanwhile
        if len(candidates) == 1 or _fixed.depth or torch.are_deterministic_algorithms_enabled():
            return default
        device = inputs[0].device
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return default
        seconds = _measured(candidates, [x for x in inputs if x.requires_grad], device)
        fastest = min(seconds, key=seconds.__getitem__)
        close = default in seconds and seconds[fastest] > _CLEARLY * seconds[default]
        _chosen[key] = default if close else fastest
        return _chosen[key]


@contextmanager
def fixed_lowerings() -> Iterator[None]:
    """Within it nothing is timed: the same computations in every run, on every machine, if not always the fastest."""
    _fixed.depth += 1
    try:
        yield
    finally:
        _fixed.depth -= 1


def lowerings() -> dict[str, str]:
    """What has been chosen in this process, as plain strings: a checkpoint that keeps it resumes with the same choices."""
    with _lock:
        return dict(_chosen)


def set_lowerings(chosen: Mapping[str, str]) -> None:
    """Have these choices made, as :func:`lowerings` returned them; others remain.

    >>> set_lowerings({"double y": "product"})
    >>> y = torch.ones(3)
    >>> choose("double y", {"sum": lambda: y + y, "product": lambda: 2 * y}, [y], default="sum")
    'product'
    """
    with _lock:
        _chosen.update(chosen)


def _measured(
    candidates: Mapping[str, Callable[[], Tensor]], inputs: list[Tensor], device: torch.device
) -> dict[str, float]:
    """Seconds of the candidates that can be computed and aren't much slower than others, the least of some rounds."""
    seconds: dict[str, float] = {}
    failures: dict[str, RuntimeError] = {}
    for name, candidate in candidates.items():  # the first time also warms up: caches, memory, kernels
        try:
            seconds[name] = _seconds(candidate, inputs, device)
        except RuntimeError as error:  # a data type the device has no kernel for, or out of memory
            failures[name] = error
    if not seconds:
        raise next(iter(failures.values()))
    close = [name for name in seconds if seconds[name] <= 2 * min(seconds.values())]
    best = dict.fromkeys(close, math.inf)
    spent = 0.0
    for _ in range(_ROUNDS):
        for name in close:
            elapsed = _seconds(candidates[name], inputs, device)
            best[name] = min(best[name], elapsed)
            spent += elapsed
        if spent > _ENOUGH:
            break
    return best


def _seconds(candidate: Callable[[], Tensor], inputs: list[Tensor], device: torch.device) -> float:
    # Where this thread computes all by itself, its own time isn't disturbed by what else the machine does.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    _wait(device)
    start = clock()
    output = candidate()
    if inputs and output.requires_grad:
        torch.autograd.grad(output, inputs, torch.ones_like(output))
    _wait(device)
    return clock() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
