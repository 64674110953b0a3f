"""Who does a candidate descend from? Its ancestors in layers, and which genes changed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_evo.reporting.pictures.style import COLOURS, DARK, plain
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import Edge, Lineage, ancestry, label

__all__ = ["draw"]

_Pair = tuple[int, int]
"""An edge: parent and child."""

_Place = tuple[float, float]
"""Across, from 0 to 1, and the layer, from 0 for the candidate itself."""

ANCESTORS = 24
GENERATIONS = 8
"""So far back a picture goes that still fits a page, where no number of ancestors was asked for."""

_PER_CENTIMETRE = 9
"""Characters of the small type beside edges that a centimetre holds."""

_PER_EDGE = 2
"""So many changed genes are named beside an edge; the others are counted."""


def draw(figure: Figure, view: View) -> None:
    """Draw a candidate below its ancestors, the nearest ones where there are too many.

    Raises:
        ValueError: If there is no such candidate, or none has finished.
    """
    target = view.run.best if view.candidate is None else view.candidate
    if target is None:
        raise view.unfinished()
    kin, cut = _nearest(view)
    layers = _layers(kin, target)
    places, ways = _routed(kin, layers)
    axes = figure.add_subplot()
    axes.set_axis_off()
    rows = 1 + max(layers.values())
    taken = {*places.values(), *(place for way in ways.values() for place in way)}
    wide = max(Counter(row for _, row in taken).values())
    room = int(figure.get_figwidth() * 2.54 * _PER_CENTIMETRE / wide)
    children = Counter(edge.parent for edge in kin.edges)
    for edge in kin.edges:
        _edge(axes, edge, ways[edge.parent, edge.child], children[edge.parent] > 1, room)
    for id in kin.ids:
        _node(axes, view, id, places[id], id == target)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.35, rows - 0.65)
    if cut:
        axes.annotate("earlier ancestors are left out", (0.5, 1.0), xycoords="axes fraction", ha="center", va="bottom",
                      fontsize=6, color="#555555")  # fmt: skip
    if any(edge.inherits for edge in kin.edges):
        handles = [Line2D([], [], color=COLOURS[0], linewidth=1.6), Line2D([], [], color=DARK, linewidth=0.7)]
        names = ["weights inherited", "bred from"]
        if any(not edge.bred for edge in kin.edges):
            handles.append(Line2D([], [], color=COLOURS[0], linewidth=1.2, linestyle="--"))
            names.append("weights alone")
        figure.legend(handles, names, loc="outside upper left", ncols=3, borderaxespad=0.1)
    view.let_height(figure, 1.0 + 1.45 * rows)


def _nearest(view: View) -> tuple[Lineage, bool]:
    """The candidate with its nearest ancestors, and whether there are more."""
    most, generations, kin = view.top or ANCESTORS, 1, ancestry(view.run, view.candidate, 0)
    while True:
        further = ancestry(view.run, view.candidate, generations)
        if len(further.ids) == len(kin.ids):
            return kin, False
        if len(further.ids) > most + 1 or (view.top is None and generations > GENERATIONS):
            return kin, True
        generations, kin = generations + 1, further


def _layers(kin: Lineage, target: int) -> dict[int, int]:
    """How many steps each is above the candidate, by the longest way: everybody is above all their children."""
    layers = {target: 0}
    for id in sorted(kin.ids, reverse=True):  # a child's id is above its parents'
        if id != target:
            layers[id] = 1 + max(layers[edge.child] for edge in kin.edges if edge.parent == id)
    return layers


def _routed(kin: Lineage, layers: dict[int, int]) -> tuple[dict[int, _Place], dict[_Pair, list[_Place]]]:
    """Where each candidate stands, and the way of each edge from child to parent.

    An edge that skips layers has a place of its own in each of them. Within a layer everything stands in the order of what
    it leads to, so that few edges cross.
    """
    pairs: list[_Pair] = [(edge.parent, edge.child) for edge in kin.edges]
    places: dict[int, _Place] = {}
    ways: dict[_Pair, list[_Place]] = {pair: [] for pair in pairs}
    for row in range(1 + max(layers.values())):
        # In this layer end the edges of a candidate, or one passes through.
        ending: dict[int | _Pair, list[_Pair]] = {
            id: [pair for pair in pairs if pair[0] == id] for id in kin.ids if layers[id] == row
        }
        ending |= {pair: [pair] for pair in pairs if layers[pair[1]] < row < layers[pair[0]]}
        towards = {
            who: float(numpy.mean([ways[pair][-1][0] for pair in ends] or [0.5])) for who, ends in ending.items()
        }
        for at, who in enumerate(sorted(ending, key=lambda who: towards[who])):
            place = ((at + 0.5) / len(ending), float(row))
            for pair in ending[who]:
                ways[pair].append(place)
            if isinstance(who, int):
                places[who] = place
                for pair in pairs:
                    if pair[1] == who:
                        ways[pair].append(place)
    return places, ways


def _node(axes: Axes, view: View, id: int, place: tuple[float, float], is_target: bool) -> None:
    row = view.run.by_id[id]
    values = [f"{row[monitor]:.4g}" for monitor in view.run.monitors[:1] if row.get(monitor) is not None]
    text = "\n".join([str(id), *(values or [row["status"]])])
    frame = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": COLOURS[0] if is_target else DARK}
    axes.text(
        *place, text, ha="center", va="center", fontsize=6.5, linespacing=1.05, zorder=3,
        bbox={**frame, "linewidth": 1.4 if is_target else 0.6},
    )  # fmt: skip


def _edge(axes: Axes, edge: Edge, way: Sequence[_Place], fork: bool, room: int) -> None:
    """Draw an edge from child to parent, and the genes that changed beside the end where fewer edges are.

    Args:
        axes: Where.
        edge: Which.
        way: Its places, from the child upwards.
        fork: Whether its parent has several children in the picture.
        room: Characters that a line of its text may have.
    """
    axes.plot(
        *zip(*way, strict=True), zorder=1,
        color=COLOURS[0] if edge.inherits else DARK,
        linewidth=1.6 if edge.inherits and edge.bred else 1.2 if edge.inherits else 0.7,
        linestyle="-" if edge.bred else "--",
    )  # fmt: skip
    said = _changes(edge, room)
    if not said or not edge.bred:
        return
    near, far = (way[0], way[1]) if fork else (way[-1], way[-2])
    axes.text(
        near[0] + 0.15 * (far[0] - near[0]), near[1] + 0.45 * (far[1] - near[1]), said,
        ha="center", va="center", fontsize=5.5, zorder=2, linespacing=1.05,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _changes(edge: Edge, room: int) -> str:
    """The changed genes, with their values where there is room."""
    lines = []
    for change in edge.changed[:_PER_EDGE]:
        before, after = (
            "-" if each is None else f"{each:.3g}" if isinstance(each, float) else label(each)
            for each in (change.before, change.after)
        )
        name = plain(change.name, min(16, room))
        whole = f"{name} {plain(before)} → {plain(after)}"
        lines.append(whole if len(whole) <= room else name)
    more = len(edge.changed) - _PER_EDGE
    return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])
