"""Autotuning of convolutions on accelerators, an optional part of the stacked computation.

Equal computations of the particles' convolutions are timed once for each shape, and the fastest is used from then on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from lightning_evo.functional.stacking.convolution import Convolution, Operands, grouped_convolution, in_memory_format
from lightning_evo.functional.stacking.optional import PARTS
from lightning_evo.functional.stacking.tensors import autocast_dtype

__all__ = ["Autotuner"]

Trial = Callable[[], tuple[Mapping[str, Callable[[], Tensor]], list[Tensor]]]
"""Returns equal computations by name, and the tensors whose gradients they are timed with."""

_ROUNDS = 2
_BUDGET = 0.3
"""Seconds of timing after which no further round begins."""

_CLEARLY = 0.9
"""The share of the default's time that another computation may take at most to be chosen: smaller gains may be chance."""


class Autotuner:
    """Computes each convolution in the way that takes the least time, forward and backward, and remembers it by shape.

    As with ``torch.backends.cudnn.benchmark``, choices may differ between two runs, and with them the last bits of the
    results. Under :func:`torch.use_deterministic_algorithms` nothing is timed and the default is used, unless another choice
    was loaded by :meth:`load_state_dict`.

    Args:
        cpu: Whether to choose on CPUs, too. There, networks of grouped convolutions were never slower in our measurements,
            which timing a convolution by itself doesn't show: separate ones leave their output in a memory layout that the
            next layers have to change.
    """

    def __init__(self, cpu: bool = False) -> None:
        self.cpu = cpu
        self._chosen: dict[str, str] = {}
        self._lock = threading.RLock()

    def convolution(self, convolution: Convolution, operands: Operands) -> tuple[Tensor, int]:
        """The convolution of all particles, and its axis of particles."""
        if operands.x.device.type == "cpu" and not self.cpu:
            return grouped_convolution(convolution, operands)
        ways = _ways(convolution)
        name = self.choose(_key(convolution, operands), ways, "grouped", partial(_trial, convolution, operands, ways))
        return ways[name](convolution, operands)

    def choose(self, key: str, names: Collection[str], default: str, trial: Trial) -> str:
        """The name of the computation to use; the ``default`` unless another is clearly faster.

        Args:
            key: What the time depends on.
            names: The computations.
            default: The one to use without timing.
            trial: Makes them by name, and the tensors with respect to which the backward pass is timed, where they require
                a gradient; they are left as they are.

        Raises:
            RuntimeError: If none of the computations succeeds.

        >>> x = torch.ones(3)
        >>> ways = {"sum": lambda: x + x, "product": lambda: 2 * x}
        >>> tuner = Autotuner()
        >>> tuner.load_state_dict({"double x": "product"})
        >>> tuner.choose("double x", ways, "sum", lambda: (ways, [x]))
        'product'
        """
        name = self._chosen.get(key)
        if name is not None and name in names:
            return name
        with self._lock:
            name = self._chosen.get(key)
            if name is not None and name in names:  # another thread has timed it meanwhile
                return name
            if torch.are_deterministic_algorithms_enabled():
                return default
            candidates, inputs = trial()
            device = inputs[0].device
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return default
            seconds = _measured(candidates, [x for x in inputs if x.requires_grad], device)
            fastest = min(seconds, key=seconds.__getitem__)
            close = default in seconds and seconds[fastest] > _CLEARLY * seconds[default]
            self._chosen[key] = default if close else fastest
            return self._chosen[key]

    def state_dict(self) -> dict[str, str]:
        """The choices made in this process: a checkpoint that holds them resumes with the same ones."""
        with self._lock:
            return dict(self._chosen)

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Make these choices from now on; those for other keys remain."""
        with self._lock:
            self._chosen.update(state)


PARTS.autotuning = Autotuner()

_Way = Callable[[Convolution, Operands], tuple[Tensor, int]]
"""Computes a convolution; returns the output and its axis of particles."""


def _ways(convolution: Convolution) -> dict[str, _Way]:
    """Equal computations of a convolution, by name."""
    ways: dict[str, _Way] = {
        "grouped": partial(grouped_convolution, channels_last=False),
        "separate": partial(_separate, channels_last=False),
    }
    if convolution.spatial == 2:
        ways["grouped channels_last"] = partial(grouped_convolution, channels_last=True)
        ways["separate channels_last"] = partial(_separate, channels_last=True)
    return ways


def _separate(convolution: Convolution, operands: Operands, channels_last: bool) -> tuple[Tensor, int]:
    """One convolution for each particle."""
    if operands.dim is None:
        xs = [in_memory_format(operands.x, channels_last)] * operands.particles
    else:
        xs = [in_memory_format(x, channels_last) for x in operands.x.unbind(operands.dim)]
    biases = [None] * operands.particles if operands.bias is None else operands.bias.unbind()
    outs = [
        convolution(x, weight, bias, convolution.groups)
        for x, weight, bias in zip(xs, operands.weight.unbind(), biases, strict=True)
    ]
    return torch.cat(outs).unflatten(0, (operands.particles, -1)), 0


def _key(convolution: Convolution, operands: Operands) -> str:
    """What the time of a convolution depends on. Batch sizes within a power of four are alike: the last of an epoch."""
    x = operands.x
    batch = x.shape[1 if operands.dim == 0 else 0]
    shape = [size for axis, size in enumerate(x.shape) if axis not in (operands.dim, 1 if operands.dim == 0 else 0)]
    strides = x.stride()
    order = sorted(range(x.dim()), key=lambda axis: (strides[axis], axis), reverse=True)
    differentiated = torch.is_grad_enabled() and (x.requires_grad, operands.weight.requires_grad)
    device = "cpu" if x.device.type == "cpu" else torch.get_device_module(x.device).get_device_name(x.device)
    return (
        f"{convolution.function.__name__} {operands.particles}x{shape} batch~4^{batch.bit_length() // 2}"
        f" weight {list(operands.weight.shape[1:])} bias {operands.bias is not None} stride {convolution.stride}"
        f" padding {convolution.padding} dilation {convolution.dilation} groups {convolution.groups}"
        f" memory {operands.dim}{order} {x.dtype} autocast {autocast_dtype(x.device)} gradients {differentiated}"
        f" on {device}"
    )


def _trial(
    convolution: Convolution, operands: Operands, ways: Mapping[str, _Way]
) -> tuple[dict[str, Callable[[], Tensor]], list[Tensor]]:
    """The computations by name, on leaves of a graph of their own, and those leaves."""
    bias = None if operands.bias is None else _leaf(operands.bias)
    leaves = replace(operands, x=_leaf(operands.x), weight=_leaf(operands.weight), bias=bias)
    tensors = [tensor for tensor in (leaves.x, leaves.weight, leaves.bias) if tensor is not None]
    return {name: partial(_output, way, convolution, leaves) for name, way in ways.items()}, tensors


def _output(way: _Way, convolution: Convolution, operands: Operands) -> Tensor:
    return way(convolution, operands)[0]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


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
        if spent > _BUDGET:
            break
    return best


def _seconds(candidate: Callable[[], Tensor], inputs: list[Tensor], device: torch.device) -> float:
    # The time of a thread that computes alone isn't disturbed by what else the machine does.
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
