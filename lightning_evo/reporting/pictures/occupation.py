"""What were the slots doing? Bars over time, one row per slot."""

from __future__ import annotations

from collections import defaultdict

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_evo.reporting.pictures.style import MANY, PALE, STATUSES, time_unit
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import Occupation, occupation

__all__ = ["draw"]

_NAMED = 80
"""Of so many bars or fewer those that are wide enough bear their candidate's id."""


def draw(figure: Figure, view: View) -> None:
    """Draw each candidate's training in its slot.

    Raises:
        ValueError: If no training has ended.
    """
    shown = occupation(view.run)
    if not shown.stays:
        raise ValueError(f"{view.run.run}: no training has ended yet")
    unit, sign = time_unit(max(stay.end for stay in shown.stays))
    axes = figure.add_subplot()
    rows = {slot: place for place, slot in enumerate(shown.slots)}
    for start, end in shown.pauses:
        axes.axvspan(start / unit, end / unit, facecolor="none", edgecolor=PALE, hatch="...", linewidth=0)
    bars: defaultdict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for stay in shown.stays:
        bars[stay.slot, stay.status].append((stay.start / unit, (stay.end - stay.start) / unit))
    few, many = len(shown.stays) <= 400, len(shown.stays) > MANY
    for (slot, status), spans in bars.items():
        # Bars thinner than the hatching's lines would only be slower to draw with it.
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
    view.let_height(figure, min(16.0, 2.4 + 0.7 * len(rows)))
    if len(shown.stays) <= _NAMED:
        _name(figure, axes, shown, rows, unit)
    present = [status for status in STATUSES if any(stay.status == status for stay in shown.stays)]
    patches = [Patch(**STATUSES[status], edgecolor="white", linewidth=0.3) for status in present]
    names = list(present)
    if shown.pauses:
        patches.append(Patch(facecolor="none", edgecolor=PALE, hatch="...", linewidth=0))
        names.append("not running")
    figure.legend(patches, names, loc="outside upper left", ncols=len(names), columnspacing=1.2, borderaxespad=0.1)


def _name(figure: Figure, axes: Axes, shown: Occupation, rows: dict[int, int], unit: float) -> None:
    """Write the ids into the bars that are wide enough for them."""
    span = max(stay.end for stay in shown.stays) - min(stay.start for stay in shown.stays)
    inches = figure.get_figwidth() * 0.85
    for stay in shown.stays:
        needed = len(str(stay.id)) * 0.055  # a digit of 5.5 points, with some room
        if (stay.end - stay.start) / max(span, 1e-9) * inches > needed:
            colour = "black" if stay.status == "stopped" else "white"
            axes.text(
                (stay.start + stay.end) / 2 / unit, rows[stay.slot], str(stay.id), ha="center", va="center",
                fontsize=5.5, color=colour,
            )  # fmt: skip
