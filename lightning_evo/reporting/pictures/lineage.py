"""The picture ``lineage``: a candidate's ancestors in layers, and the genes that changed between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, DARK, plain_text
from lightning_evo.reporting.views import Edge, Lineage, ancestry, label

__all__ = ["draw"]

_Pair = tuple[int, int]
"""An edge: parent and child."""

_Place = tuple[float, float]
"""Horizontal position from 0 to 1, and layer, from 0 for the candidate itself."""

MAX_ANCESTORS = 24
MAX_GENERATIONS = 8
"""Maximum number of generations, so that the picture fits a page, if no number of ancestors is given."""

_CHARACTERS_PER_CM = 9
"""Characters per centimeter in the labels of edges."""

_GENES_PER_EDGE = 2
"""Number of changed genes in the label of an edge; the others are counted."""


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw a candidate below its ancestors, or the closest ones if there are too many.

    Raises:
        ValueError: If the candidate doesn't exist, or none has finished.
    """
    target = request.run.best if request.candidate is None else request.candidate
    if target is None:
        raise request.no_fitness_error()
    lineage, cut = _closest(request)
    layers = _layers(lineage, target)
    places, ways = _routed(lineage, layers)
    axes = figure.add_subplot()
    axes.set_axis_off()
    rows = 1 + max(layers.values())
    taken = {*places.values(), *(place for way in ways.values() for place in way)}
    wide = max(Counter(row for _, row in taken).values())
    room = int(figure.get_figwidth() * 2.54 * _CHARACTERS_PER_CM / wide)
    children = Counter(edge.parent for edge in lineage.edges)
    for edge in lineage.edges:
        _edge(axes, edge, ways[edge.parent, edge.child], children[edge.parent] > 1, room)
    for id in lineage.ids:
        _node(axes, request, id, places[id], id == target)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.35, rows - 0.65)
    if cut:
        axes.annotate("earlier ancestors are not shown", (0.5, 1.0), xycoords="axes fraction", ha="center", va="bottom",
                      fontsize=6, color="#555555")  # fmt: skip
    if any(edge.inherits for edge in lineage.edges):
        handles = [Line2D([], [], color=COLORS[0], linewidth=1.6), Line2D([], [], color=DARK, linewidth=0.7)]
        names = ["weights inherited", "bred from"]
        if any(not edge.bred for edge in lineage.edges):
            handles.append(Line2D([], [], color=COLORS[0], linewidth=1.2, linestyle="--"))
            names.append("weights only")
        figure.legend(handles, names, loc="outside upper left", ncols=3, borderaxespad=0.1)
    request.set_height(figure, 1.0 + 1.45 * rows)


def _closest(request: PictureRequest) -> tuple[Lineage, bool]:
    """The candidate with its closest ancestors, and whether there are more."""
    most, generations, lineage = request.top or MAX_ANCESTORS, 1, ancestry(request.run, request.candidate, 0)
    while True:
        further = ancestry(request.run, request.candidate, generations)
        if len(further.ids) == len(lineage.ids):
            return lineage, False
        if len(further.ids) > most + 1 or (request.top is None and generations > MAX_GENERATIONS):
            return lineage, True
        generations, lineage = generations + 1, further


def _layers(lineage: Lineage, target: int) -> dict[int, int]:
    """The layer of each candidate: the longest path to the target, so that a parent is above all its children."""
    layers = {target: 0}
    for id in sorted(lineage.ids, reverse=True):  # a child's id is greater than its parents'
        if id != target:
            layers[id] = 1 + max(layers[edge.child] for edge in lineage.edges if edge.parent == id)
    return layers


def _routed(lineage: Lineage, layers: dict[int, int]) -> tuple[dict[int, _Place], dict[_Pair, list[_Place]]]:
    """The position of each candidate, and the path of each edge from child to parent.

    An edge that skips layers has a position in each of them. Within a layer, positions are ordered by what they connect
    to, so that few edges cross.
    """
    pairs: list[_Pair] = [(edge.parent, edge.child) for edge in lineage.edges]
    places: dict[int, _Place] = {}
    ways: dict[_Pair, list[_Place]] = {pair: [] for pair in pairs}
    for row in range(1 + max(layers.values())):
        # A position in this layer is that of a candidate, where its edges end, or of an edge that passes through.
        ending: dict[int | _Pair, list[_Pair]] = {
            id: [pair for pair in pairs if pair[0] == id] for id in lineage.ids if layers[id] == row
        }
        ending |= {pair: [pair] for pair in pairs if layers[pair[1]] < row < layers[pair[0]]}
        target = {
            item: float(numpy.mean([ways[pair][-1][0] for pair in ends] or [0.5])) for item, ends in ending.items()
        }
        for at, item in enumerate(sorted(ending, key=target.__getitem__)):
            place = ((at + 0.5) / len(ending), float(row))
            for pair in ending[item]:
                ways[pair].append(place)
            if isinstance(item, int):
                places[item] = place
                for pair in pairs:
                    if pair[1] == item:
                        ways[pair].append(place)
    return places, ways


def _node(axes: Axes, request: PictureRequest, id: int, place: tuple[float, float], is_target: bool) -> None:
    row = request.run.by_id[id]
    values = [f"{row[monitor]:.4g}" for monitor in request.run.monitors[:1] if row.get(monitor) is not None]
    text = "\n".join([str(id), *(values or [row["status"]])])
    frame = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": COLORS[0] if is_target else DARK}
    axes.text(
        *place, text, ha="center", va="center", fontsize=6.5, linespacing=1.05, zorder=3,
        bbox={**frame, "linewidth": 1.4 if is_target else 0.6},
    )  # fmt: skip


def _edge(axes: Axes, edge: Edge, way: Sequence[_Place], fork: bool, room: int) -> None:
    """Draw an edge from child to parent, and the genes that changed, near the end with fewer edges.

    Args:
        axes: The axes to draw on.
        edge: The edge.
        way: Its positions, from the child upwards.
        fork: Whether its parent has several children in the picture.
        room: Maximum number of characters in a line of its label.
    """
    axes.plot(
        *zip(*way, strict=True), zorder=1,
        color=COLORS[0] if edge.inherits else DARK,
        linewidth=1.6 if edge.inherits and edge.bred else 1.2 if edge.inherits else 0.7,
        linestyle="-" if edge.bred else "--",
    )  # fmt: skip
    text = _changes(edge, room)
    if not text or not edge.bred:
        return
    near, far = (way[0], way[1]) if fork else (way[-1], way[-2])
    axes.text(
        near[0] + 0.15 * (far[0] - near[0]), near[1] + 0.45 * (far[1] - near[1]), text,
        ha="center", va="center", fontsize=5.5, zorder=2, linespacing=1.05,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _changes(edge: Edge, room: int) -> str:
    """The changed genes, with their values if there is room."""
    lines = []
    for change in edge.changed[:_GENES_PER_EDGE]:
        before, after = (
            "-" if each is None else f"{each:.3g}" if isinstance(each, float) else label(each)
            for each in (change.before, change.after)
        )
        name = plain_text(change.name, min(16, room))
        whole = f"{name} {plain_text(before)} → {plain_text(after)}"
        lines.append(whole if len(whole) <= room else name)
    more = len(edge.changed) - _GENES_PER_EDGE
    return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])
