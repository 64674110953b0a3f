"""How right were predictions? What was predicted against what came out."""

from __future__ import annotations

from math import nan

import numpy
from matplotlib.figure import Figure

from lightning_evo.algorithms.quality import determination, kendall
from lightning_evo.reporting.pictures.style import COLOURS, DARK, MANY, axis_name, with_margin
from lightning_evo.reporting.pictures.view import View
from lightning_evo.reporting.views import early_predictions, predicted

__all__ = ["draw"]

_BARS = 150
"""Of so many points or fewer the uncertainty is drawn."""


def draw(figure: Figure, view: View) -> None:
    """Draw what predictors said before training, and what early stopping said of its controls, against the truth.

    Raises:
        ValueError: If nothing was predicted of a candidate that was then trained to its end.
    """
    objective = view.objective
    before = predicted(view.run, objective.monitor)
    known = before.known
    early = [each for each in early_predictions(view.run) if each.monitor == objective.monitor]
    early = [each for each in early if numpy.isfinite([each.mean, nan if each.true is None else each.true]).all()]
    series = []
    if known.any():
        series.append(("before training", before.true[known], before.mean[known], before.std[known], "o", COLOURS[0]))
    if early:
        spread = numpy.array([[each.mean - each.low for each in early], [each.high - each.mean for each in early]])
        true, mean = (numpy.array([getattr(each, name) for each in early]) for name in ("true", "mean"))
        series.append(("from the beginning of the curve", true, mean, spread, "^", COLOURS[4]))
    if not series:
        said = "nothing was predicted" if not len(before.ids) else "none of the predictions has come true or false yet"
        raise ValueError(
            f"{view.run.run}: {said} of {objective.monitor}; a prescreen (evolution.algorithm.init_args.prescreen) or "
            "EarlyFitnessPrediction predicts"
        )
    axes = figure.add_subplot()
    together = numpy.concatenate([numpy.concatenate([true, mean]) for _, true, mean, *_ in series])
    low, high = with_margin(*numpy.percentile(together, (0.5, 99.5)))
    axes.plot([low, high], [low, high], color=DARK, linewidth=0.6, linestyle=":", zorder=0)
    for name, true, mean, spread, marker, colour in series:
        count = len(true)
        if count <= _BARS:
            axes.errorbar(true, mean, numpy.abs(spread), fmt="none", ecolor=colour, elinewidth=0.4, alpha=0.6)
        label = f"{name}: {count}, τ = {kendall(mean, true):.2f}, R² = {determination(mean, [*map(float, true)]):.2f}"
        axes.scatter(
            true, mean, s=8 if count <= 500 else 2, marker=marker, color=colour, linewidths=0,
            alpha=0.8 if count <= 500 else 0.3, rasterized=count > MANY, label=label,
        )  # fmt: skip
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"true {axis_name(objective.monitor)}")
    axes.set_ylabel(f"predicted {axis_name(objective.monitor)}")
    legend = figure.legend(loc="outside upper left", borderaxespad=0.1)
    for handle in legend.legend_handles:
        assert handle is not None
        handle.set(sizes=[12], alpha=1.0)  # as small and pale as the marks they would not be seen
    view.let_height(figure, figure.get_figwidth() * 2.54 * 0.95)
