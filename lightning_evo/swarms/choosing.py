"""Is a stack faster than a loop here? Both are tried on a batch, and nothing of it remains."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.guards import NotStackable

__all__ = ["Choice", "describe", "faster", "nothing_remains"]

_ROUNDS = 3
_SIGNS = {
    ".item()": "it reads the number in a tensor, by .item(), float() or the like",
    "data-dependent control flow": "it branches on the value of a tensor",
    "data pointer": "it makes a NumPy array of a tensor",
    "in-place operation": "it changes in place a tensor that all particles share",
}


Result = TypeVar("Result")
Way = Literal["stack", "loop"]


class Choice:
    """Which way a stack's steps go, and why.

    Args:
        asked: ``auto``, ``stack`` or ``loop``.

    Raises:
        SwarmError: It is none of them.
    """

    def __init__(self, asked: str) -> None:
        if asked not in ("auto", "stack", "loop"):
            raise SwarmError(f"lowering {asked!r} is not one of auto, stack, loop")
        self.asked = asked
        self.chosen: Way | None = None if asked == "auto" else "stack" if asked == "stack" else "loop"
        self.reason = "not chosen before the first training batch" if asked == "auto" else "asked for"
        self._looped: set[str] = set()

    def measure(self, stack: Callable[[], Tensor], loop: Callable[[], Tensor], memory: Mapping[str, Tensor]) -> None:
        """Choose by :func:`faster`, if nothing has been chosen yet."""
        if self.chosen is None:
            self.chosen, self.reason = faster(stack, loop, memory)

    def stacks(self, step: str) -> bool:
        """Whether a step is to be computed for all particles at once."""
        return self.chosen == "stack" and step not in self._looped

    def attempt(self, step: str, compute: Callable[[], Result]) -> Result | None:
        """Compute a step for all particles at once; ``None`` if it is to go by a loop, now and from now on.

        Raises:
            SwarmError: It can't be done, and is asked for.
        """
        if not self.stacks(step):
            return None
        try:
            return compute()
        except Exception as error:
            reason = f"{step}: {describe(error)}"
            if self.asked == "stack":
                raise SwarmError(
                    f"the particles can't be stacked: {reason}; change that, or use lowering: auto, which then loops"
                ) from error
        if step == "training_step":
            self.chosen, self.reason = "loop", reason
        else:
            self._looped.add(step)
            self.reason += f"; {step} in a loop ({reason})"
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to go the same way."""
        return {"lowering": self.chosen, "reason": self.reason, "looped": sorted(self._looped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go the way that was chosen then, unless another is asked for."""
        if self.asked == "auto":
            self.chosen, self.reason, self._looped = state["lowering"], state["reason"], set(state["looped"])


def faster(stack: Callable[[], Tensor], loop: Callable[[], Tensor], memory: Mapping[str, Tensor]) -> tuple[Way, str]:
    """Time the losses and gradients of one batch, computed in two ways: one warm-up and three steps each, taking turns.

    Args:
        stack: The sum of all particles' losses, computed as one.
        loop: The same, each particle in turn.
        memory: The stacked tensors; they, their gradients and the random states are as before afterwards.

    Returns:
        ``"stack"`` or ``"loop"``, and why: the medians, or what went wrong with the stack.

    Raises:
        Exception: What the loop raises.
    """
    ways: dict[Way, Callable[[], Tensor]] = {"stack": stack, "loop": loop}
    seconds: dict[Way, list[float]] = {name: [] for name in ways}
    device = next(iter(memory.values())).device
    with nothing_remains(memory):
        try:
            _seconds(stack, memory, device)
        except Exception as error:
            return "loop", f"training_step: {describe(error)}"
        if torch.are_deterministic_algorithms_enabled():
            return "stack", "deterministic algorithms are asked for, so nothing is measured"
        _seconds(loop, memory, device)
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                seconds[name].append(_seconds(way, memory, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    chosen = min(medians, key=lambda name: medians[name])
    return chosen, f"measured per step: stack {1e3 * medians['stack']:.2f} ms, loop {1e3 * medians['loop']:.2f} ms"


def describe(error: Exception) -> str:
    """An exception in one line; what vmap says is said in terms of the step."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, NotStackable):
        return str(error)
    text = next(iter(str(error).strip().splitlines()), "")
    hint = next((f"{meaning} (" for sign, meaning in _SIGNS.items() if sign in text), "")
    return f"{hint}{type(error).__name__}: {text}{')' if hint else ''}"


def _seconds(way: Callable[[], Tensor], memory: Mapping[str, Tensor], device: torch.device) -> float:
    for tensor in memory.values():
        tensor.grad = None
    _wait(device)
    start = time.perf_counter()
    way().backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


@contextmanager
def nothing_remains(memory: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors, gradients and random states back as they were."""
    gradients = {name: tensor.grad for name, tensor in memory.items()}
    buffers = {name: tensor.clone() for name, tensor in memory.items() if not isinstance(tensor, torch.nn.Parameter)}
    device = next(iter(memory.values())).device
    python, numpy = random.getstate(), np.random.get_state()
    devices = [] if device.type == "cpu" else [device.index or 0]
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices, device_type=kind):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for name, buffer in buffers.items():
                memory[name].copy_(buffer)
        for name, gradient in gradients.items():
            memory[name].grad = gradient
