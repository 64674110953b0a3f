"""The picture ``importance``: a bar per gene, the most important first."""

from __future__ import annotations

import numpy
from matplotlib.figure import Figure

from lightning_evo.reporting.pictures.request import PictureRequest
from lightning_evo.reporting.pictures.style import COLORS, DARK, axis_name, plain_text
from lightning_evo.reporting.views import importance

__all__ = ["draw"]

MAX_GENES = 10


def draw(figure: Figure, request: PictureRequest) -> None:
    """Draw the decrease of R² when a gene's values are shuffled, with its standard deviation over the shuffles.

    Raises:
        ValueError: If the importances are unknown, with the reason.
    """
    known = importance(request.run, request.objective.monitor)
    if known.why_not is not None:
        raise ValueError(f"{request.run.run}: the importance of genes for {known.monitor} is unknown: {known.why_not}")
    genes = known.genes[: request.top or MAX_GENES]
    axes = figure.add_subplot()
    positions = numpy.arange(len(genes))
    axes.barh(
        positions,
        [gene.mean for gene in genes],
        xerr=[gene.std for gene in genes],
        height=0.65,
        color=COLORS[0],
        error_kw={"elinewidth": 0.7, "capsize": 1.8, "capthick": 0.7, "ecolor": DARK},
    )
    axes.set_yticks(positions, [plain_text(gene.name, 24) for gene in genes])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.axvline(0.0, color=DARK, linewidth=0.6)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"importance for {axis_name(known.monitor)} (decrease of R²)")
    remark = f"R² = {known.r2:.2f} on held-out candidates" if known.r2 is not None else ""
    axes.annotate(remark, (1.0, 0.02), xycoords="axes fraction", ha="right", va="bottom", fontsize=6.5, color="#555555")
    request.set_height(figure, 1.8 + 0.5 * len(genes))
