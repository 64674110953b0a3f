"""A trial of ``torch.compile`` in training: time the network plain and compiled, and keep what pays off in this run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from torch import nn
from torchmetrics import Metric

from lightning_evo._compat.torch import plain_call, set_compiled_call
from lightning_evo.callbacks.records import Choice
from lightning_evo.utils.compiled import is_compiled

__all__ = ["CompileTrial", "ShouldCompile", "compilable", "remaining_batches"]

WARM_UP = 3
"""Batches before either timing, in which cuDNN chooses kernels and the allocator fills up."""
TIMED = 10
"""Batches in each timing."""


class ShouldCompile(Protocol):
    """The decision: see :meth:`lightning_evo.callbacks.FastTraining.should_compile`."""

    def __call__(self, plain: float, compiled: float | None, spent: float, remaining: float) -> bool: ...


class CompileTrial:
    """Tries ``torch.compile`` on a network's parts while it trains.

    Parts are compiled only within training batches of the usual size: validation, other callbacks' hooks and the last,
    smaller batch see the plain modules, so that nothing is compiled again for them. A part that fails to compile is
    computed plainly, and all are from then on. The device is synchronized at the ends of the two timings, never per step.

    Args:
        parts: The modules by name.
        backend: Of ``torch.compile``.
        should_compile: Decides whether to try compiling, and whether to keep it.
        always: Compile from the second batch on, without timing.
        device: Synchronized at the ends of a timing.
        clock: Returns seconds.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        backend: str,
        should_compile: ShouldCompile,
        always: bool = False,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.parts, self.backend, self.always = dict(parts), backend, always
        self.failure = ""
        self._should, self._device, self._clock = should_compile, device, clock
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._usual, self._entered = 0, 0.0
        self.begin()

    def begin(self) -> None:
        """Start over from plain modules, as after a change of the network."""
        self.leave()
        self._compiled = {}
        self._stage, self._plain, self._spent = "plain", 0.0, 0.0
        self._left_out, self._batches, self._seconds = 1 if self.always else WARM_UP, 0, 0.0
        self._started: float | None = None

    def enter(self, size: int) -> None:
        """Begin a training batch of ``size`` samples."""
        self._usual, self._entered = max(self._usual, size), self._clock()
        if size == self._usual:
            for name, call in self._compiled.items():
                set_compiled_call(self.parts[name], call)

    def leave(self) -> None:
        """End a training batch, also after an exception."""
        for part in self.parts.values():
            set_compiled_call(part, None)

    def step(self, remaining: float, last: bool) -> Choice | None:
        """Record the end of a batch; return the decision once there is one.

        Args:
            remaining: Remaining training batches; infinite if unknown.
            last: Whether it was the epoch's last batch, after which validation and other hooks take time.
        """
        self.leave()
        if self.failure:
            self._compiled, self._stage = {}, "decided"
            failure, self.failure = self.failure, ""
            return Choice(False, failure)
        if self._stage == "decided":
            return None
        if self.always and self._left_out == 1:
            self._compile()
            self._stage = "decided"
            return Choice(True, "asked for", self.backend)
        timed = self._time(last)
        if timed is None:
            return None
        if self._stage == "plain":
            self._plain = timed
            return self._try(remaining)
        return self._conclude(timed, remaining)

    def _time(self, last: bool) -> float | None:
        """Seconds per batch, once enough batches are timed."""
        if self._started is None:
            if self._left_out > 0:
                self._left_out -= 1
                # Compiling blocks the host, so the host's clock measures it.
                self._spent += (
                    max(0.0, self._clock() - self._entered - self._plain) if self._stage == "compiled" else 0.0
                )
            if self._left_out == 0 and not last:
                self._started = self._now()
            return None
        self._batches += 1
        if self._batches < TIMED and not last:
            return None
        self._seconds += self._now() - self._started
        self._started = None
        return self._seconds / self._batches if self._batches >= TIMED else None

    def _try(self, remaining: float) -> Choice | None:
        if not self._should(self._plain, None, 0.0, remaining):
            self._stage = "decided"
            left = "an unknown number of batches" if math.isinf(remaining) else f"{remaining:.0f} batches"
            return Choice(False, f"{left} of {1000 * self._plain:.3g} ms are left, too few for compiling to pay off")
        self._compile()
        self._stage, self._left_out, self._batches, self._seconds = "compiled", WARM_UP, 0, 0.0
        return None

    def _conclude(self, compiled: float, remaining: float) -> Choice:
        self._stage = "decided"
        times = f"{1000 * self._plain:.3g} ms a batch plain, {1000 * compiled:.3g} ms compiled"
        if self._should(self._plain, compiled, self._spent, remaining):
            saves = "" if math.isinf(remaining) else f", it will save {(self._plain - compiled) * remaining:.3g} s"
            return Choice(True, f"{times}; compiling took {self._spent:.3g} s{saves}", self.backend)
        self._compiled = {}
        return Choice(False, times)

    def _compile(self) -> None:
        for name, part in self.parts.items():
            self._compiled[name] = self._guarded(name, part, torch.compile(plain_call(part), backend=self.backend))

    def _guarded(self, name: str, part: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.failure:
                return plain_call(part)(*args, **kwargs)
            try:
                return compiled(*args, **kwargs)
            except Exception as error:
                # An error of the network's own comes again from the plain call, as it should.
                self.failure = (
                    f"{name} could not be compiled ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
                )
                return plain_call(part)(*args, **kwargs)

        return call

    def _now(self) -> float:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()


def compilable(module: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The largest parts of a module that are called, have weights, and aren't compiled yet, by name.

    Example:
        >>> list(compilable(nn.ModuleDict({"net": nn.Linear(1, 1), "loss": nn.MSELoss()})))
        ['net']
    """
    parts: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, Metric) or next(child.parameters(), None) is None:
            continue
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):  # never called themselves
            parts |= compilable(child, f"{prefix}{name}.")
        elif not any(is_compiled(part) for part in child.modules()):
            parts[f"{prefix}{name}"] = child
    return parts


def remaining_batches(trainer: Trainer) -> float:
    """Remaining training batches by ``max_epochs`` and ``max_steps``; infinite if neither limits them."""
    per_epoch = float(trainer.num_training_batches)
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs != -1:
        done = trainer.fit_loop.batch_idx + 1
        limits.append(max(0.0, (trainer.max_epochs - trainer.current_epoch) * per_epoch - done))
    if trainer.max_steps != -1:
        limits.append(float(max(0, trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches))
    return min(limits, default=math.inf)
