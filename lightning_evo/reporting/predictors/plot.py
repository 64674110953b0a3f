"""The predictor report as a plot: learning curves, and predicted versus true fitness."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lightning_evo.reporting.output_file import check_output, output_file
from lightning_evo.reporting.predictors.report import Evaluation, PredictorReport
from lightning_evo.utils.text import printable

__all__ = ["check_plot", "plot"]

FIGURES = {"r2": "R²", "tau": "Kendall τ", "spearman": "Spearman"}
"""The scores drawn against the number of results, and their names."""

_COLORS = ("#4053d3", "#ddb310", "#b51d14", "#00beff", "#fb49b0", "#00b25d", "#888888")
"""Distinct colors, also for color-blind readers."""

_IN_A_ROW = 4
_STATIC = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise ``ValueError`` if :func:`plot` can't write to this path."""
    ending = path.suffix.lower()
    if ending != ".html" and ending not in _STATIC:
        raise ValueError(f"plot: {path} does not end in one of .html, {', '.join(_STATIC)}")
    if ending in _STATIC and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"plot: {path} requires matplotlib, which is not installed; .html works without it")
    check_output(path, "plot:", overwrite=True)


def plot(report: PredictorReport, path: Path) -> None:
    """Draw the report.

    Args:
        report: The report.
        path: ``.html`` is a self-contained page; ``.png``, ``.svg`` and ``.pdf`` require matplotlib.

    Raises:
        ValueError: For any other ending, or if matplotlib is required and not installed.
    """
    check_plot(path)
    evaluations = [evaluation for evaluation in report.evaluations if evaluation.points]
    html = path.suffix.lower() == ".html"
    monitor = (_for_plotly if html else _for_matplotlib)(report.results.objective.monitor)
    title = f"{monitor}: {len(report.results.genomes)} results, {report.held_out} held out, {report.repeats} repeats"
    with output_file(path, "plot:", overwrite=True) as part:
        (_draw_html if html else _draw_static)(report, evaluations, title, part, path.suffix.lower()[1:])


def _for_plotly(text: str) -> str:
    """Text in which plotly finds no HTML."""
    return escape(printable(text))


def _for_matplotlib(text: str) -> str:
    """Text in which matplotlib finds no math, and XML nothing that it forbids."""
    return printable(text).replace("$", r"\$")


def _draw_html(report: PredictorReport, evaluations: Sequence[Evaluation], title: str, path: Path, ending: str) -> None:
    from plotly.graph_objects import Figure, Scatter
    from plotly.subplots import make_subplots

    panels = _panels(evaluations)
    figure: Figure = make_subplots(
        rows=len(panels),
        cols=12,
        specs=[[cell for width in row for cell in ({"colspan": width}, *[None] * (width - 1))] for row in panels],
        subplot_titles=[*FIGURES.values(), *(_for_plotly(_title(evaluation)) for evaluation in evaluations)],
    )
    for number, evaluation in enumerate(evaluations):
        color = _COLORS[number % len(_COLORS)]
        shared = {"name": _for_plotly(_short(evaluation)), "legendgroup": evaluation.name, "marker": {"color": color}}
        for column, figure_name in enumerate(FIGURES):
            models, means, spreads = _curve(report, evaluation, figure_name)
            figure.add_trace(
                Scatter(
                    x=models,
                    y=means,
                    error_y={"type": "data", "array": spreads, "thickness": 1, "width": 3},
                    mode="lines+markers",
                    showlegend=column == 0,
                    **shared,
                ),
                row=1,
                col=1 + 4 * column,
            )
        row, place = divmod(number, _IN_A_ROW)
        at = {"row": row + 2, "col": 1 + sum(panels[row + 1][:place])}
        true, mean, std = zip(*evaluation.scatter, strict=True)
        low, high = _range(report)
        figure.add_trace(
            Scatter(x=[low, high], y=[low, high], mode="lines", line={"color": "#999", "dash": "dot"}, hoverinfo="skip",
                    showlegend=False),
            **at,
        )  # fmt: skip
        figure.add_trace(
            Scatter(x=true, y=mean, customdata=std, mode="markers", showlegend=False, **shared, opacity=0.6,
                    hovertemplate="true %{x:.4g}<br>predicted %{y:.4g} ± %{customdata:.2g}"),
            **at,
        )  # fmt: skip
        figure.update_xaxes(title_text=f"true {_for_plotly(report.results.objective.monitor)}", **at)
        figure.update_yaxes(title_text="predicted" if place == 0 else None, **at)
    for column in range(len(FIGURES)):
        figure.update_xaxes(title_text="training results", type="log", tickvals=list(report.models),
                            ticktext=[str(models) for models in report.models], row=1, col=1 + 4 * column)  # fmt: skip
    figure.update_layout(
        title_text=title,
        template="plotly_white",
        height=400 * len(panels),
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.06, "xanchor": "right", "x": 1.0},
    )
    path.write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")


def _draw_static(
    report: PredictorReport, evaluations: Sequence[Evaluation], title: str, path: Path, ending: str
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = _panels(evaluations)
    figure = pyplot.figure(figsize=(14, 4 * len(panels)), constrained_layout=True)
    rows = figure.subfigures(len(panels), 1, squeeze=False)[:, 0]
    axes = [row.subplots(1, len(widths), squeeze=False)[0] for row, widths in zip(rows, panels, strict=True)]
    for unused in axes[-1][len(evaluations) - _IN_A_ROW * (len(panels) - 2) :] if len(panels) > 1 else []:
        unused.set_axis_off()
    for number, evaluation in enumerate(evaluations):
        color = _COLORS[number % len(_COLORS)]
        for panel, (figure_name, label) in zip(axes[0], FIGURES.items(), strict=True):
            models, means, spreads = _curve(report, evaluation, figure_name)
            panel.errorbar(models, means, yerr=spreads, marker="o", capsize=3, color=color,
                           label=_for_matplotlib(_short(evaluation)))  # fmt: skip
            panel.set(title=label, xlabel="training results", xscale="log")
            panel.set_xticks(list(report.models), [str(count) for count in report.models])
            panel.minorticks_off()
        panel = axes[1 + number // _IN_A_ROW][number % _IN_A_ROW]
        true, mean, _ = zip(*evaluation.scatter, strict=True)
        panel.plot(_range(report), _range(report), color="#999999", linestyle=":")
        panel.scatter(true, mean, color=color, alpha=0.6, s=12)
        true_name = f"true {_for_matplotlib(report.results.objective.monitor)}"
        panel.set(title=_for_matplotlib(_title(evaluation)), xlabel=true_name, ylabel="predicted")
    if evaluations:
        axes[0][0].legend()
    figure.suptitle(title)
    figure.savefig(path, format=ending)
    pyplot.close(figure)


def _panels(evaluations: Sequence[Evaluation]) -> list[list[int]]:
    """The widths, in twelfths, of the panels in each row: the learning curves, then the predictors."""
    rows = math.ceil(len(evaluations) / _IN_A_ROW)
    wide = 12 // max(1, min(len(evaluations), _IN_A_ROW))
    return [[4] * len(FIGURES), *[[wide] * (12 // wide)] * rows]


def _short(evaluation: Evaluation) -> str:
    """The predictor's name, without the module of an import path."""
    return evaluation.name.rpartition(".")[2]


def _title(evaluation: Evaluation) -> str:
    return f"{_short(evaluation)} ({evaluation.models})"


def _curve(report: PredictorReport, evaluation: Evaluation, figure: str) -> tuple[list[int], list[float], list[float]]:
    """Numbers of training results, means and standard deviations of a score, where they are defined."""
    points = [(models, *evaluation.at(models, figure)) for models in report.models]
    known = [point for point in points if math.isfinite(point[1])]
    return [models for models, *_ in known], [mean for _, mean, _ in known], [std for *_, std in known]


def _range(report: PredictorReport) -> tuple[float, float]:
    return min(report.results.fitness), max(report.results.fitness)
