"""The picture ``front``: the Pareto front, in front of all other candidates."""

from __future__ import annotations

import numpy
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, MANY, PALE, axis_name, format_axis, value_colormap
from lightning_evo.reporting.views import Front, front

__all__ = ["draw"]


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw two objectives against each other, or the first three in a 3D plot.

    Raises:
        ValueError: If there is only one objective, or no completed candidate.
    """
    run = request.run
    if len(run.objectives) < 2:
        named = ", ".join(run.monitors) or "none"
        raise ValueError(f"front: {run.run} has one objective ({named}); a Pareto front needs at least two")
    shown = front(run)
    if not len(shown.ids):
        raise request.no_fitness_error()
    (_draw_2d if len(run.objectives) == 2 else _draw_3d)(figure, request, shown)


def _draw_2d(figure: Figure, request: PictureRequest, shown: Front) -> None:
    axes = figure.add_subplot()
    best = shown.ranks == 0
    behind, ahead = shown.values[~best], shown.values[best]
    axes.scatter(
        behind[:, 0], behind[:, 1], s=5, color=PALE, linewidths=0, rasterized=len(behind) > MANY, label="others"
    )
    ahead = ahead[numpy.argsort(ahead[:, 0])]
    # The staircase bounds the dominated area: a point dominates everything that is worse in both objectives.
    steps = "steps-post" if shown.objectives[0].mode == "min" else "steps-pre"
    axes.plot(
        ahead[:, 0], ahead[:, 1], drawstyle=steps, color=COLORS[0], linewidth=0.9, marker="o", markersize=3,
        label=f"front ({len(ahead)})",
    )  # fmt: skip
    for axis, number in ((axes.xaxis, 0), (axes.yaxis, 1)):
        objective = shown.objectives[number]
        format_axis(axis, objective.monitor, shown.values[:, number])
        axis.set_label_text(axis_name(objective.monitor, objective.mode))
    axes.legend()


def _draw_3d(figure: Figure, request: PictureRequest, shown: Front) -> None:
    axes = figure.add_subplot(projection="3d")
    best = shown.ranks == 0
    behind, ahead = shown.values[~best][:, :3], shown.values[best][:, :3]
    axes.scatter(*behind.T, s=2, color=PALE, linewidths=0, depthshade=False, rasterized=len(behind) > MANY)
    # Color shows the third objective again: height alone is hard to read on paper.
    marks = axes.scatter(*ahead.T, s=9, c=ahead[:, 2], cmap=value_colormap(), linewidths=0, depthshade=False)
    names = [axis_name(objective.monitor, objective.mode) for objective in shown.objectives[:3]]
    for axis, number in ((axes.xaxis, 0), (axes.yaxis, 1), (axes.zaxis, 2)):
        axis.set_label_text(names[number] if number < 2 else "")
        axis.set_tick_params(pad=-3, labelsize=6)
        axis.pane.set_visible(False)
        axis.set_major_locator(MaxNLocator(4))
        if abs(shown.values[:, number]).max() >= 1e4:
            axis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.labelpad = axes.yaxis.labelpad = -8
    bar = figure.colorbar(marks, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label(names[2])
    bar.outline.set_visible(False)
    request.set_height(figure, 7.0)
