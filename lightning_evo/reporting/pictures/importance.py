"""Which genes matter? A bar for each, the most important first."""

from __future__ import annotations

import numpy
from matplotlib.figure import Figure

from lightning_evo.reporting.pictures.style import COLOURS, DARK, axis_name, plain
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import importance

__all__ = ["draw"]

GENES = 10


def draw(figure: Figure, view: View) -> None:
    """Draw by how much R² falls when a gene's values are shuffled, with the standard deviation over the shuffles.

    Raises:
        ValueError: If nothing can be said, with the reason.
    """
    known = importance(view.run, view.objective.monitor)
    if known.why_not is not None:
        raise ValueError(f"{view.run.run}: the genes' importance for {known.monitor} can't be told: {known.why_not}")
    genes = known.genes[: view.top or GENES]
    axes = figure.add_subplot()
    places = numpy.arange(len(genes))
    axes.barh(
        places,
        [gene.mean for gene in genes],
        xerr=[gene.std for gene in genes],
        height=0.65,
        color=COLOURS[0],
        error_kw={"elinewidth": 0.7, "capsize": 1.8, "capthick": 0.7, "ecolor": DARK},
    )
    axes.set_yticks(places, [plain(gene.name, 24) for gene in genes])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.axvline(0.0, color=DARK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"importance for {axis_name(known.monitor)} (fall of R²)")
    said = f"R² = {known.r2:.2f} on held-out candidates" if known.r2 is not None else ""
    axes.annotate(said, (1.0, 0.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=6.5, color="#555555")
    view.let_height(figure, 1.8 + 0.5 * len(genes))
