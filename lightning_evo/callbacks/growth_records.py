"""What is remembered of a training in which the network grows? Curves that triggers look at, and each step's account."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_evo.functional.growth import Growth

__all__ = ["Records"]


class Records:
    """Curves by epoch, and what has grown when. All plain data.

    Attributes:
        metric: The monitored metric of each epoch that has ended, NaN where it is missing.
        train_metric: Its counterpart on training data.
        entropies: For each layer the same of its activations' entropy.
        grown: Epochs at whose start the network has grown.
        history: One account per step.
        touched: For each layer the epoch in which it grew last.
        allowed: Layers that may grow; ``None``: all.
        turn: How many times the network has grown: whose turn it is among the operations.
    """

    def __init__(self, allowed: Iterable[str] | None = None) -> None:
        self.metric: list[float] = []
        self.train_metric: list[float] = []
        self.entropies: dict[str, list[float]] = {}
        self.grown: list[int] = []
        self.history: list[dict[str, Any]] = []
        self.touched: dict[str, int] = {}
        self.allowed = None if allowed is None else list(allowed)
        self.turn = 0

    def note_metrics(self, epoch: int, metric: float | None, train_metric: float | None) -> None:
        """Write down what an epoch's metrics are, as far as they are known; the later word counts."""
        for curve, value in ((self.metric, metric), (self.train_metric, train_metric)):
            _put(curve, epoch, value)

    def note_entropies(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write down the entropies at the end of an epoch."""
        for layer, value in values.items():
            _put(self.entropies.setdefault(layer, []), epoch, value)

    def ended(self, epochs: int) -> dict[str, Any]:
        """The curves of so many epochs, as arguments of :class:`~lightning_evo.callbacks.growth_triggers.GrowthState`."""
        return {
            "metric": _padded(self.metric, epochs),
            "train_metric": _padded(self.train_metric, epochs),
            "entropies": {layer: _padded(curve, epochs) for layer, curve in self.entropies.items()},
        }

    def may_grow(self, layer: str) -> bool:
        """Whether a layer is one of those that may."""
        return self.allowed is None or layer in self.allowed

    def note_step(self, growth: Growth, epoch: int | None, source: str, why: str) -> None:
        """Write down a step, and follow layers that are called otherwise now."""
        self.history.append(
            {
                "epoch": epoch,
                "source": source,
                **growth.step.to_dict(),
                "before": growth.before,
                "after": growth.after,
                "preserving": growth.preserving,
                "why": why,
                "notes": [*growth.why_not, *growth.notes],
            }
        )
        renamed = renamed_layers(growth)
        self.entropies = {renamed.get(layer, layer): curve for layer, curve in self.entropies.items()}
        self.touched = {renamed.get(layer, layer): at for layer, at in self.touched.items()}
        if self.allowed is not None:
            self.allowed = [renamed.get(layer, layer) for layer in self.allowed]
        if epoch is not None:
            self.touched[renamed.get(growth.step.layer, growth.step.layer)] = epoch

    def state_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return copy.deepcopy(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it up again."""
        for name in vars(self):
            setattr(self, name, copy.deepcopy(state[name]))


def renamed_layers(growth: Growth) -> dict[str, str]:
    """Layers that are called otherwise after a step: old name -> new."""
    pairs = {(old.rpartition(".")[0], new.rpartition(".")[0]) for old, new in growth.renamed.items()}
    return {old: new for old, new in pairs if old != new}


def _put(curve: list[float], epoch: int, value: float | None) -> None:
    curve.extend([math.nan] * (epoch + 1 - len(curve)))
    if value is not None:
        curve[epoch] = float(value)


def _padded(curve: list[float], epochs: int) -> tuple[float, ...]:
    return tuple([*curve, *[math.nan] * epochs][:epochs])
