"""How well predictors learn from the results of searches: a report as a table, as JSON and as a plot.

This package imports the predictors, which the rest of ``reporting`` doesn't need.
"""

from lightning_evo.reporting.predictors.plot import check_plot, plot
from lightning_evo.reporting.predictors.report import PredictorReport, evaluate, predictor_report
from lightning_evo.reporting.predictors.table import as_text

__all__ = ["PredictorReport", "as_text", "check_plot", "evaluate", "plot", "predictor_report"]
