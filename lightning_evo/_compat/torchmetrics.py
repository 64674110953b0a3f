"""Private names of torchmetrics, under public ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torchmetrics import Metric

__all__ = ["BOOKKEEPING", "PlainMetric", "mark_updated", "share_forward_value", "state_defaults"]

BOOKKEEPING = ("_computed", "_update_count", "_forward_cache", "_cache", "_update_signature")
"""Attributes that change when a metric counts; without them, equal metrics look different and count one by one."""


def state_defaults(metric: Metric) -> dict[str, Any]:
    """A metric's states and their defaults; without it, the metrics of a stack's particles count one by one."""
    return metric._defaults


def mark_updated(metric: Metric) -> None:
    """Record an update that was computed elsewhere; without it, ``compute`` warns, or returns its earlier value."""
    metric._computed = None
    cast(Any, metric)._update_count += 1


def share_forward_value(source: Metric, target: Metric) -> None:
    """Give a metric the value that another one's ``forward`` returned; without it, Lightning logs no value per step."""
    target._forward_cache = source._forward_cache


class PlainMetric(Metric):
    """A metric whose ``compute`` isn't cached, synchronized or checked.

    Without it, the mean over ranks of a swarm would be computed by a metric that synchronizes a second time.
    """

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        return compute
