"""The picture ``progress``: the best fitness so far, and the population's quartiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, LINES, axis_name, plain_text, robust_limits, time_unit
from lightning_evo.reporting.views import RunSnapshot, progress

__all__ = ["draw"]


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw one run with its median, or the best fitness and quartiles of several runs.

    Raises:
        ValueError: If no candidate of any run has a fitness, or a run lacks the objective.
    """
    objective = request.objective
    courses = [progress(run, objective.monitor) for run in request.runs]
    if not any(numpy.isfinite(course.q50).any() for course in courses):
        raise request.no_fitness_error()
    longest = max((course.seconds.max() for course in courses if len(course.seconds)), default=0.0)
    unit, sign = time_unit(float(longest))
    axes = figure.add_subplot()
    alone = len(courses) == 1
    for number, course in enumerate(courses):
        x = {"candidates": course.count, "epochs": course.epochs, "seconds": course.seconds / unit}[request.against]
        color, line = COLORS[number % len(COLORS)], LINES[number % len(LINES)]
        axes.fill_between(x, course.q25, course.q75, color=color, alpha=0.2, linewidth=0, step="post")
        if alone:
            axes.step(x, course.q50, where="post", color=color, linewidth=0.7, linestyle=":")
        axes.step(x, course.best, where="post", color=color, linestyle=line)
    ends = [float(course.best[-1]) for course in courses if len(course.best) and numpy.isfinite(course.best[-1])]
    limits = robust_limits([each for course in courses for each in (course.best, course.q25, course.q75)], ends)
    if limits is not None:
        axes.set_ylim(*limits)
    axes.margins(x=0.01)
    if request.against != "seconds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(
        {"candidates": "candidates", "epochs": "epochs trained", "seconds": f"time [{sign}]"}[request.against]
    )
    axes.set_ylabel(axis_name(objective.monitor, objective.mode))
    quartiles = Patch(color=COLORS[0] if alone else "#777777", alpha=0.2, linewidth=0)
    if alone:
        lines = [Line2D([], [], color=COLORS[0]), Line2D([], [], color=COLORS[0], linewidth=0.7, linestyle=":")]
        axes.legend([*lines, quartiles], ["best so far", "median of the population", "quartiles of the population"])
        return
    handles = [
        Line2D([], [], color=COLORS[number % len(COLORS)], linestyle=LINES[number % len(LINES)])
        for number in range(len(courses))
    ]
    names = [plain_text(name, 30) for name in _names(request.runs)]
    axes.legend([*handles, quartiles], [*names, "quartiles of the population"])


def _names(runs: Sequence[RunSnapshot]) -> list[str]:
    """The runs' names: those of their directories, with the parent directory where they are not unique."""
    names = [run.directory.name or run.run for run in runs]
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{run.directory.parent.name}/{name}" if name in twice else name for run, name in zip(runs, names, strict=True)
    ]
