"""The picture ``predicted``: predicted versus true fitness."""

from __future__ import annotations

from math import nan

import numpy
from matplotlib.figure import Figure

from lightning_evo.algorithms.quality import determination, kendall
from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, DARK, MANY, axis_name, with_margin
from lightning_evo.reporting.views import early_predictions, predicted

__all__ = ["draw"]

_MAX_ERROR_BARS = 150
"""Uncertainties are drawn if there are at most this many points."""


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw predictions before training, and predictions of early stopping for its controls, against the true fitness.

    Raises:
        ValueError: If there is no prediction for a candidate that was trained to the end.
    """
    objective = request.objective
    before = predicted(request.run, objective.monitor)
    known = before.known
    early = [each for each in early_predictions(request.run) if each.monitor == objective.monitor]
    early = [each for each in early if numpy.isfinite([each.mean, nan if each.true is None else each.true]).all()]
    series = []
    if known.any():
        series.append(("before training", before.true[known], before.mean[known], before.std[known], "o", COLORS[0]))
    if early:
        spread = numpy.array([[each.mean - each.low for each in early], [each.high - each.mean for each in early]])
        true, mean = (numpy.array([getattr(each, name) for each in early]) for name in ("true", "mean"))
        series.append(("from early epochs", true, mean, spread, "^", COLORS[4]))
    if not series:
        name = objective.monitor
        reason = f"there are no predictions of {name}"
        if len(before.ids):
            reason = f"no candidate with a prediction of {name} has been trained to the end yet"
        raise ValueError(
            f"{request.run.run}: {reason}; predictions are made by a prescreen "
            "(evolution.algorithm.init_args.prescreen) and by EarlyFitnessPrediction"
        )
    axes = figure.add_subplot()
    everything = numpy.concatenate([numpy.concatenate([true, mean]) for _, true, mean, *_ in series])
    low, high = with_margin(*numpy.percentile(everything, (0.5, 99.5)))
    axes.plot([low, high], [low, high], color=DARK, linewidth=0.6, linestyle=":", zorder=0)
    for name, true, mean, spread, marker, color in series:
        count = len(true)
        if count <= _MAX_ERROR_BARS:
            axes.errorbar(true, mean, numpy.abs(spread), fmt="none", ecolor=color, elinewidth=0.4, alpha=0.6)
        label = f"{name}: {count}, τ = {kendall(mean, true):.2f}, R² = {determination(mean, [*map(float, true)]):.2f}"
        axes.scatter(
            true, mean, s=8 if count <= 500 else 2, marker=marker, color=color, linewidths=0,
            alpha=0.8 if count <= 500 else 0.3, rasterized=count > MANY, label=label,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"true {axis_name(objective.monitor)}")
    axes.set_ylabel(f"predicted {axis_name(objective.monitor)}")
    legend = figure.legend(loc="outside upper left", borderaxespad=0.1)
    for handle in legend.legend_handles:
        assert handle is not None
        handle.set(sizes=[12], alpha=1.0)  # at the marks' size and opacity they would be invisible
    request.set_height(figure, figure.get_figwidth() * 2.54 * 0.95)
