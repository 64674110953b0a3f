"""The picture ``curves``: learning curves, early stops, and predicted final values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, MANY, axis_name, robust_limits
from lightning_evo.reporting.views import Curve, EarlyPrediction, curves, early_predictions, length, sample_candidates

__all__ = ["draw"]

MAX_CURVES = 40
_MAX_PREDICTIONS = 12
"""Maximum number of predicted final values, which are drawn side by side behind the end of the training."""

_GRAY = "#9A9A9A"


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw one candidate's curve in front of those of others.

    Raises:
        ValueError: If no candidate logged the metric, or the candidate doesn't exist.
    """
    run = request.run
    metric = request.objective.monitor if request.metric is None else request.metric
    if request.candidate is not None and request.candidate not in run.by_id:
        raise ValueError(f"candidate: {run.run} has no candidate {request.candidate}")
    chosen = run.best if request.candidate is None else request.candidate
    ids = [*sample_candidates(run, request.top or MAX_CURVES), *([] if chosen is None else [chosen])]
    logged = curves(request.archives[0], sorted(set(ids)))
    found = [curve for curve in logged if metric in curve.metrics]
    if not found:
        names = dict.fromkeys(name for curve in logged for name in curve.metrics)
        raise ValueError(
            f"metric: no candidate of {run.run} logged {metric!r} per epoch; logged metrics: {', '.join(names) or 'none'}"
        )
    if request.candidate is not None and chosen not in [curve.id for curve in found]:
        raise ValueError(f"candidate: candidate {chosen} of {run.run} did not log {metric!r} per epoch")
    axes = figure.add_subplot()
    lines = {curve.id: _line(curve, metric) for curve in found}
    others = LineCollection([line for id, line in lines.items() if id != chosen], zorder=1)
    others.set(colors=_GRAY, linewidths=0.5, alpha=0.6, rasterized=sum(map(len, lines.values())) > 10 * MANY)
    axes.add_collection(others)
    handles = [(Line2D([], [], color=_GRAY, linewidth=0.6), f"{len(lines) - (chosen in lines)} others")]
    early = [each for each in early_predictions(run) if each.id in lines and each.monitor == metric]
    ends = {curve.id: _place(curve, end) for curve in found if (end := length(run, curve)) is not None}
    handles += _stopped(axes, [each for each in early if each.stopped], lines, ends)
    if chosen is not None and chosen in lines:
        line = lines[chosen]
        few = len(line) <= 30
        axes.plot(*line.T, color=COLORS[0], linewidth=1.4, marker="o" if few else None, markersize=2.5, zorder=3)
        label = f"candidate {chosen}" if request.candidate is not None else f"best (candidate {chosen})"
        handles.insert(0, (Line2D([], [], color=COLORS[0], linewidth=1.4), label))
    axes.autoscale_view()
    limits = robust_limits([line[:, 1] for line in lines.values()], _required_values(lines, chosen))
    if limits is not None:
        axes.set_ylim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(found[0].unit)
    axes.set_ylabel(axis_name(metric))
    figure.legend(*zip(*handles, strict=True), loc="outside upper left", ncols=2, borderaxespad=0.1)


def _line(curve: Curve, metric: str) -> numpy.ndarray:
    """The points of a curve, of shape (points, 2)."""
    values = curve.metrics[metric]
    finite = numpy.isfinite(values)
    return numpy.column_stack([_place(curve, curve.places[finite]), values[finite]])


def _place(curve: Curve, place: Any) -> Any:
    """Where a place of a curve is drawn: the first epoch is 1."""
    return place + (1.0 if curve.unit == "epoch" else 0.0)


def _required_values(lines: dict[int, numpy.ndarray], chosen: int | None) -> Sequence[float]:
    """The end of the highlighted curve must be visible, whatever the other curves do."""
    return [float(lines[chosen][-1, 1])] if chosen in lines and len(lines[chosen]) else []


def _stopped(
    axes: Axes, stopped: Sequence[EarlyPrediction], lines: dict[int, numpy.ndarray], lengths: dict[int, float]
) -> list[tuple[Line2D, str]]:
    """Draw where training was stopped, and the intervals of the predicted final values; return their legend entries."""
    if not stopped:
        return []
    ends = numpy.array([lines[each.id][-1] for each in stopped if len(lines[each.id])]).reshape(-1, 2)
    axes.plot(*ends.T, color=COLORS[4], marker="x", markersize=3.5, markeredgewidth=0.9, linestyle="none", zorder=2)
    # Evenly over the predictions, from the worst to the best.
    order = sorted(stopped, key=lambda each: each.mean)
    shown = [order[at] for at in numpy.unique(numpy.linspace(0, len(order) - 1, _MAX_PREDICTIONS).round().astype(int))]
    end = max(lengths[each.id] for each in shown)
    step = max(end * 0.015, 0.1)
    positions = end + step * (1 + numpy.arange(len(shown)))
    means = numpy.array([each.mean for each in shown])
    below = means - [each.low for each in shown]
    above = numpy.array([each.high for each in shown]) - means
    axes.errorbar(
        positions,
        means,
        numpy.maximum(0.0, [below, above]),
        fmt="_",
        markersize=3,
        color=COLORS[4],
        elinewidth=0.7,
        zorder=2,
    )
    return [
        (Line2D([], [], color=COLORS[4], marker="x", markersize=3.5, linestyle="none"), f"stopped ({len(stopped)})"),
        (Line2D([], [], color=COLORS[4], marker="|", markersize=6, linestyle="none"), "predicted final value, 90%"),
    ]
