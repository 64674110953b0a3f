"""The picture ``occupation``: trainings as bars over time, one row per slot."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import MANY, PALE, STATUSES, time_unit
from lightning_evo.reporting.views import Occupation, occupation

__all__ = ["draw"]

_MAX_LABELS = 80
"""Bars are labeled with their candidate's id if there are at most this many."""


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw each candidate's training in its slot.

    Raises:
        ValueError: If no training has ended.
    """
    shown = occupation(request.run)
    if not shown.spans:
        raise ValueError(f"{request.run.run}: no training has ended yet")
    unit, sign = time_unit(max(span.end for span in shown.spans))
    axes = figure.add_subplot()
    rows = {slot: place for place, slot in enumerate(shown.slots)}
    for start, end in shown.pauses:
        axes.axvspan(start / unit, end / unit, facecolor="none", edgecolor=PALE, hatch="...", linewidth=0)
    bars: defaultdict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for span in shown.spans:
        bars[span.slot, span.status].append((span.start / unit, (span.end - span.start) / unit))
    few, many = len(shown.spans) <= 400, len(shown.spans) > MANY
    for (slot, status), spans in bars.items():
        # Hatching on bars thinner than its lines would only slow drawing down.
        style = {**STATUSES[status], "hatch": None} if many else STATUSES[status]
        place, edge = (rows[slot] - 0.4, 0.8), 0.3 if few else 0.0
        axes.broken_barh(spans, place, **style, edgecolor="white", linewidth=edge, rasterized=many)
    axes.set_yticks(range(len(rows)), [str(slot) for slot in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.01)
    share = "" if shown.busy is None else f" (slots busy: {shown.busy:.0%})"
    axes.set_xlabel(f"time since the search began [{sign}]{share}")
    axes.set_ylabel("slot")
    request.set_height(figure, min(16.0, 2.4 + 0.7 * len(rows)))
    if len(shown.spans) <= _MAX_LABELS:
        _label_bars(figure, axes, shown, rows, unit)
    present = [status for status in STATUSES if any(span.status == status for span in shown.spans)]
    patches = [Patch(**STATUSES[status], edgecolor="white", linewidth=0.3) for status in present]
    names = list(present)
    if shown.pauses:
        patches.append(Patch(facecolor="none", edgecolor=PALE, hatch="...", linewidth=0))
        names.append("not running")
    figure.legend(patches, names, loc="outside upper left", ncols=len(names), columnspacing=1.2, borderaxespad=0.1)


def _label_bars(figure: Figure, axes: Axes, shown: Occupation, rows: dict[int, int], unit: float) -> None:
    """Write the ids into the bars that are wide enough."""
    duration = max(span.end for span in shown.spans) - min(span.start for span in shown.spans)
    inches = figure.get_figwidth() * 0.85
    for span in shown.spans:
        needed = len(str(span.id)) * 0.055  # inches of a digit at 5.5 points, with a margin
        if (span.end - span.start) / max(duration, 1e-9) * inches > needed:
            color = "black" if span.status == "stopped" else "white"
            axes.text(
                (span.start + span.end) / 2 / unit, rows[span.slot], str(span.id), ha="center", va="center",
                fontsize=5.5, color=color,
            )  # fmt: skip
