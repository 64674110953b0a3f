"""The predictor report as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lightning_evo.reporting.predictors.prescreens import Agreement, PrescreenRecord
from lightning_evo.reporting.predictors.report import Evaluation, PredictorReport
from lightning_evo.reporting.rendering import text_console
from lightning_evo.utils.text import printable, printable_lines

__all__ = ["as_text"]


def as_text(report: PredictorReport) -> str:
    """The report as tables that fit the terminal's width."""
    console = text_console()
    parts: list[RenderableType] = [_learning(report), _notes(report)]
    for record in report.prescreens:
        parts += ["", _quality(record), _agreements(record)] if record.quality else ["", _agreements(record)]
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _learning(report: PredictorReport) -> Table:
    results = report.results
    locations = list(results.counts)
    source = locations[0] if len(locations) == 1 else f"{len(locations)} searches"
    table = Table(
        title=Text(
            f"{printable(source)}: {printable(results.objective.monitor)} of {len(results.genomes)} results; "
            f"mean ± standard deviation over {report.repeats} repeats, tested on {report.held_out} held-out results"
        ),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        collapse_padding=True,
    )
    table.add_column("predictor", overflow="fold", min_width=9)
    for title in ("results", "R²", "Kendall τ", "Spearman", "≤2 std", "s/fit"):
        table.add_column(title, justify="right", no_wrap=True)
    for evaluation in report.evaluations:
        for number, models in enumerate(report.models):
            name = Text(printable(evaluation.name)) if number == 0 else ""
            last = number == len(report.models) - 1
            table.add_row(name, str(models), *_figures(evaluation, models), end_section=last)
    return table


def _figures(evaluation: Evaluation, models: int) -> list[str]:
    if not any(point.size == models for point in evaluation.points):
        return ["too few", *[""] * 4]
    spread = [_spread(*evaluation.at(models, figure)) for figure in ("r2", "tau", "spearman")]
    calibration, seconds = (evaluation.at(models, figure)[0] for figure in ("calibration", "fit_seconds"))
    return [*spread, f"{calibration:.0%}", f"{seconds:.2g}"]


def _notes(report: PredictorReport) -> Text:
    counts = report.results.counts
    lines = [f"{location}: {count} results" for location, count in counts.items()] if len(counts) > 1 else []
    if report.sizes:
        ranked = ", ".join(f"{name} {tau:+.2f}" for name, tau in report.sizes.items())
        lines.append(f"Kendall τ of size alone, without training: {ranked}")
    return Text(printable_lines("\n".join(lines)))


def _quality(record: PrescreenRecord) -> Table:
    """The search's own cross-validation of its predictor, over time."""
    table = _titled(f"{record.location}: predictor of the prescreen, cross-validated during the search")
    for title in ("results", "Kendall τ", "τ of size alone", "R²", "used", "seconds"):
        table.add_column(title, justify="right")
    for one in record.quality:
        used = Text("yes", style="green") if one.earned else Text("no", style="yellow")
        numbers = (f"{one.tau:.3f}", f"{one.baseline:.3f}", f"{one.r2:.3f}")
        table.add_row(str(one.results), *numbers, used, f"{one.seconds:.2g}")
    return table


def _agreements(record: PrescreenRecord) -> Table:
    table = _titled(f"{record.location}: fitness predicted before training versus true fitness")
    table.add_column("candidates")
    for title in ("number", "Kendall τ", "R²"):
        table.add_column(title, justify="right")
    rows: Sequence[tuple[str, Agreement]] = (
        ("chosen by the predictor", record.chosen),
        ("trained unfiltered", record.unfiltered),
    )
    for name, agreement in rows:
        table.add_row(name, str(agreement.count), _number(agreement.tau), _number(agreement.r2))
    return table


def _titled(title: str) -> Table:
    return Table(
        title=Text(printable(title)), title_justify="left", title_style="bold", box=SIMPLE_HEAD, collapse_padding=True
    )


def _spread(mean: float, std: float) -> str:
    return f"{mean:.3f} ± {std:.2f}" if math.isfinite(mean) else "-"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
