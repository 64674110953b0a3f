"""How did the search get on? The best so far, and the population's quartiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lightning_evo.reporting.pictures.style import COLOURS, LINES, axis_name, plain, robust_limits, time_unit
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import Recorded, progress

__all__ = ["draw"]


def draw(figure: Figure, view: View) -> None:
    """Draw one run with its median, or several as their best and their quartiles.

    Raises:
        ValueError: If no candidate of any run has a fitness, or a run has no such objective.
    """
    objective = view.objective
    courses = [progress(run, objective.monitor) for run in view.runs]
    if not any(numpy.isfinite(course.q50).any() for course in courses):
        raise view.unfinished()
    longest = max((course.seconds.max() for course in courses if len(course.seconds)), default=0.0)
    unit, sign = time_unit(float(longest))
    axes = figure.add_subplot()
    alone = len(courses) == 1
    for number, course in enumerate(courses):
        x = {"candidates": course.count, "epochs": course.epochs, "seconds": course.seconds / unit}[view.against]
        colour, line = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
        axes.fill_between(x, course.q25, course.q75, color=colour, alpha=0.2, linewidth=0, step="post")
        if alone:
            axes.step(x, course.q50, where="post", color=colour, linewidth=0.7, linestyle=":")
        axes.step(x, course.best, where="post", color=colour, linestyle=line)
    ends = [float(course.best[-1]) for course in courses if len(course.best) and numpy.isfinite(course.best[-1])]
    limits = robust_limits([each for course in courses for each in (course.best, course.q25, course.q75)], ends)
    if limits is not None:
        axes.set_ylim(*limits)
    axes.margins(x=0.01)
    if view.against != "seconds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel({"candidates": "candidates", "epochs": "epochs trained", "seconds": f"time [{sign}]"}[view.against])
    axes.set_ylabel(axis_name(objective.monitor, objective.mode))
    quartiles = Patch(color=COLOURS[0] if alone else "#777777", alpha=0.2, linewidth=0)
    if alone:
        lines = [Line2D([], [], color=COLOURS[0]), Line2D([], [], color=COLOURS[0], linewidth=0.7, linestyle=":")]
        axes.legend([*lines, quartiles], ["best so far", "median of the population", "its quartiles"])
        return
    handles = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], linestyle=LINES[number % len(LINES)])
        for number in range(len(courses))
    ]
    names = [plain(name, 30) for name in _names(view.runs)]
    axes.legend([*handles, quartiles], [*names, "quartiles of the population"])


def _names(runs: Sequence[Recorded]) -> list[str]:
    """What the runs are called: their directories' names where these differ, otherwise with their places."""
    names = [run.directory.name or run.run for run in runs]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{run.directory.parent.name}/{name}" if name in twice else name for run, name in zip(runs, names, strict=True)
    ]
