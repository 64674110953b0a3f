"""The picture ``parallel``: parallel coordinates of genes and fitness, one line per candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from lightning_evo.genome import Objective
from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import DARK, axis_name, plain_text, value_colormap
from lightning_evo.reporting.views import GeneColumn, gene_columns, importance

__all__ = ["draw"]

MAX_LINES = 300
"""Maximum number of candidates if no other number is given."""

_MIN_SPACING = 1.0
"""Minimum centimeters between axes; if there isn't room for all genes, the most important ones are shown."""

_INACTIVE = -0.12
"""Height at which the line of a candidate crosses the axis of an inactive gene."""

_MAX_LABELS = 8
"""For a gene with more choices, only the first and last one are labeled."""

_JITTER = 0.018
"""Random offset of lines through the same choice, which shows how many there are."""


@dataclass(frozen=True, eq=False)
class _Scale:
    """One vertical axis: the height from 0 to 1 at which each candidate crosses it (NaN: inactive), and its labels."""

    name: str
    at: NDArray[numpy.float64]
    ticks: list[tuple[float, str]]
    choices: bool


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw the genes that have an order or few choices; architectures and bit strings can't be drawn on an axis.

    Raises:
        ValueError: If no candidate has a fitness, or no gene can be drawn.
    """
    run, objective = request.run, request.objective
    scored = {row["id"] for row in run.scored()}
    if not scored:
        raise request.no_fitness_error()
    rows = numpy.array([at for at, row in enumerate(run.rows) if row["id"] in scored])
    fitness = numpy.array([run.rows[at][objective.monitor] for at in rows], dtype=float)
    worst_first = numpy.argsort(objective.weight * fitness, kind="stable")
    if request.top is not None:
        chosen = worst_first[-request.top :]
    else:
        evenly = numpy.linspace(0, len(rows) - 1, min(MAX_LINES, len(rows))).round().astype(int)
        chosen = worst_first[numpy.unique(evenly)]
    rows, fitness = rows[chosen], fitness[chosen]
    columns = [column for column in gene_columns(run) if column.kind != "text"]
    if not columns:
        raise ValueError(f"{run.run}: it has no gene whose values can be drawn on an axis")
    most = max(3, int(figure.get_figwidth() * 2.54 / _MIN_SPACING) - len(run.objectives))
    columns = _most_important(request, columns, most)
    room = max(5, 70 // (len(columns) + len(run.objectives)))
    scales = [_gene_scale(column, rows, room) for column in columns]
    others = [each for each in run.objectives if each != objective]
    for each in [*others, objective]:
        scales.append(_objective_scale(each, numpy.array([run.rows[at][each.monitor] for at in rows], dtype=float)))
    axes = figure.add_subplot()
    low, high = numpy.percentile(fitness, (2, 98))
    colors = value_colormap()(Normalize(low, high if high > low else low + 1)(fitness) if objective.mode == "max" else
                         1 - Normalize(low, high if high > low else low + 1)(fitness))  # fmt: skip
    points = _points(scales)
    axes.add_collection(
        LineCollection(
            list(points),
            colors=colors,
            linewidths=0.6 if len(rows) > 50 else 0.9,
            alpha=0.45 if len(rows) > 100 else 0.75,
            capstyle="round",
        )
    )
    _frame(axes, scales)
    request.set_height(figure, 6.5)


def _points(scales: Sequence[_Scale]) -> NDArray[numpy.float64]:
    """The points of all lines; shape (candidates, axes, 2)."""
    rng = numpy.random.default_rng(0)
    columns = []
    for scale in scales:
        at = numpy.where(numpy.isnan(scale.at), _INACTIVE, scale.at)
        spread = rng.uniform(-_JITTER, _JITTER, len(at)) if scale.choices else 0.0
        columns.append(at + spread)
    heights = numpy.stack(columns, axis=1)
    places = numpy.broadcast_to(numpy.arange(len(scales), dtype=float), heights.shape)
    return numpy.stack([places, heights], axis=2)


def _frame(axes: Axes, scales: Sequence[_Scale]) -> None:
    """Draw the vertical axes with their names and labels."""
    off = any(numpy.isnan(scale.at).any() for scale in scales)
    axes.set_xlim(-0.6, len(scales) - 0.4)
    axes.set_ylim(_INACTIVE - 0.06 if off else -0.06, 1.06)
    axes.set_axis_off()
    halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4}
    for place, scale in enumerate(scales):
        last = place == len(scales) - 1
        axes.plot([place, place], [0, 1], color=DARK, linewidth=1.1 if last else 0.6)
        axes.annotate(
            scale.name, (place, 1.06), rotation=30, ha="left", va="bottom", fontsize=7, annotation_clip=False,
            fontweight="bold" if last else "normal",
        )  # fmt: skip
        # The first axis has its labels on the left.
        beside: dict[str, Any] = {"xytext": (-2.5 if place == 0 else 2.5, 0), "ha": "right" if place == 0 else "left"}
        ticks = scale.ticks + ([(_INACTIVE, "inactive")] if numpy.isnan(scale.at).any() else [])
        for height, text in ticks:
            axes.annotate(
                text, (place, height), **beside, textcoords="offset points", va="center", fontsize=5.5, bbox=halo
            )


def _short(number: float) -> str:
    """A number, short enough for the space between two axes."""
    if number == round(number) and abs(number) < 1e5:
        return f"{number:.0f}"
    return f"{number:.2g}" if abs(number) < 100 else EngFormatter(sep="", places=1)(number)


def _most_important(request: PictureRequest, columns: Sequence[GeneColumn], most: int) -> list[GeneColumn]:
    if len(columns) <= most:
        return list(columns)
    known = importance(request.run, request.objective.monitor)
    order = {gene.path: at for at, gene in enumerate(known.genes)}
    kept = sorted(columns, key=lambda column: order.get(column.path, len(order)))[:most]
    return [column for column in columns if column in kept]


def _gene_scale(column: GeneColumn, rows: NDArray[numpy.int64], room: int) -> _Scale:
    """The axis of a gene; labels of choices have at most ``room`` characters."""
    values = column.values[rows]
    name = plain_text(column.name, 18)
    if column.choices is not None:
        last = max(1, len(column.choices) - 1)
        labels = [(at / last, plain_text(choice, room)) for at, choice in enumerate(column.choices)]
        if len(labels) > _MAX_LABELS:
            labels = [labels[0], labels[-1]]
        return _Scale(name, values / last, labels, choices=True)
    return _numeric_scale(name, values, logarithmic=column.scale == "log")


def _objective_scale(objective: Objective, values: NDArray[numpy.float64]) -> _Scale:
    return _numeric_scale(axis_name(objective.monitor, objective.mode), values, logarithmic=False)


def _numeric_scale(name: str, values: NDArray[numpy.float64], logarithmic: bool) -> _Scale:
    known = values[numpy.isfinite(values)]
    if not len(known):
        return _Scale(name, numpy.full(len(values), numpy.nan), [], choices=False)
    low, high = known.min(), known.max()
    if low == high:
        return _Scale(name, numpy.where(numpy.isnan(values), numpy.nan, 0.5), [(0.5, _short(low))], choices=False)
    scaled = numpy.log(values / low) / numpy.log(high / low) if logarithmic else (values - low) / (high - low)
    middle = low * (high / low) ** 0.5 if logarithmic else (low + high) / 2
    ticks = [(0.0, _short(low)), (1.0, _short(high))]
    if middle == round(middle) or (known != known.round()).any():
        ticks.append((0.5, _short(middle)))
    return _Scale(name, scaled, ticks, choices=False)
