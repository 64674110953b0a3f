"""How well do predictors learn from what searches found? A report as a table, as JSON and as a plot.

Imports NumPy, SciPy and the predictors; the rest of ``reporting`` does without.
"""

from lightning_evo.reporting.predictors.plot import check_plot, plot
from lightning_evo.reporting.predictors.report import PredictorReport, evaluate, predictor_report
from lightning_evo.reporting.predictors.table import as_text

__all__ = ["PredictorReport", "as_text", "check_plot", "evaluate", "plot", "predictor_report"]
