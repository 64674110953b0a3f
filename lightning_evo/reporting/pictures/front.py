"""Which candidates are not beaten in everything? The Pareto front, before all others."""

from __future__ import annotations

import numpy
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from lightning_evo.reporting.pictures.style import COLOURS, MANY, PALE, axis_name, by_value, suited
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import Front, front

__all__ = ["draw"]


def draw(figure: Figure, view: View) -> None:
    """Draw two objectives against each other, or three in space (the first three, where there are more).

    Raises:
        ValueError: If there is only one objective, or no completed candidate.
    """
    run = view.run
    if len(run.objectives) < 2:
        named = ", ".join(run.monitors) or "none"
        raise ValueError(f"front: {run.run} has one objective ({named}); a front is between two or more")
    shown = front(run)
    if not len(shown.ids):
        raise view.unfinished()
    (_flat if len(run.objectives) == 2 else _spatial)(figure, view, shown)


def _flat(figure: Figure, view: View, shown: Front) -> None:
    axes = figure.add_subplot()
    best = shown.ranks == 0
    behind, ahead = shown.values[~best], shown.values[best]
    axes.scatter(
        behind[:, 0], behind[:, 1], s=5, color=PALE, linewidths=0, rasterized=len(behind) > MANY, label="others"
    )
    ahead = ahead[numpy.argsort(ahead[:, 0])]
    # From each point on, in the direction that is worse in the first objective, its second one can be had.
    steps = "steps-post" if shown.objectives[0].mode == "min" else "steps-pre"
    axes.plot(
        ahead[:, 0], ahead[:, 1], drawstyle=steps, color=COLOURS[0], linewidth=0.9, marker="o", markersize=3,
        label=f"front ({len(ahead)})",
    )  # fmt: skip
    for axis, number in ((axes.xaxis, 0), (axes.yaxis, 1)):
        objective = shown.objectives[number]
        suited(axis, objective.monitor, shown.values[:, number])
        axis.set_label_text(axis_name(objective.monitor, objective.mode))
    axes.legend()


def _spatial(figure: Figure, view: View, shown: Front) -> None:
    axes = figure.add_subplot(projection="3d")
    best = shown.ranks == 0
    behind, ahead = shown.values[~best][:, :3], shown.values[best][:, :3]
    axes.scatter(*behind.T, s=2, color=PALE, linewidths=0, depthshade=False, rasterized=len(behind) > MANY)
    # Colour says the third objective again: height alone is hard to read in a flat picture.
    marks = axes.scatter(*ahead.T, s=9, c=ahead[:, 2], cmap=by_value(), linewidths=0, depthshade=False)
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
    view.let_height(figure, 7.0)
