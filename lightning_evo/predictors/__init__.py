"""What can be known before training ends? How good an architecture will be, learned from those trained before; and where a
learning curve will end, by its beginning.

The classes are imported when first asked for: scikit-learn and torch take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.lazy import lazily
from lightning_evo.predictors.proxies import PROXIES

if TYPE_CHECKING:
    from lightning_evo.predictors.curve_bayes import BayesianCurve
    from lightning_evo.predictors.curve_fitness import FinalFitness
    from lightning_evo.predictors.curve_pareto import probability_not_dominated
    from lightning_evo.predictors.curve_policies import (
        Hyperband,
        MedianRule,
        Patience,
        ProbabilityOfImprovement,
        StoppingPolicy,
        SuccessiveHalvingRule,
        Verdict,
    )
    from lightning_evo.predictors.curve_regression import RegressionCurve
    from lightning_evo.predictors.ensemble import EnsemblePredictor
    from lightning_evo.predictors.evaluation import sample_efficiency
    from lightning_evo.predictors.forest import ForestPredictor
    from lightning_evo.predictors.gaussian_process import GaussianProcessPredictor
    from lightning_evo.predictors.learning_curve import CurvePredictor, KnownCurve, LastValue
    from lightning_evo.predictors.lstm import LSTMPredictor
    from lightning_evo.predictors.zero_cost import ZeroCostPredictor

__all__ = [
    "PROXIES",
    "BayesianCurve",
    "CurvePredictor",
    "EnsemblePredictor",
    "FinalFitness",
    "ForestPredictor",
    "GaussianProcessPredictor",
    "Hyperband",
    "KnownCurve",
    "LSTMPredictor",
    "LastValue",
    "MedianRule",
    "Patience",
    "ProbabilityOfImprovement",
    "RegressionCurve",
    "StoppingPolicy",
    "SuccessiveHalvingRule",
    "Verdict",
    "ZeroCostPredictor",
    "probability_not_dominated",
    "sample_efficiency",
]

_HOME = {
    "BayesianCurve": "curve_bayes",
    "CurvePredictor": "learning_curve",
    "EnsemblePredictor": "ensemble",
    "FinalFitness": "curve_fitness",
    "ForestPredictor": "forest",
    "GaussianProcessPredictor": "gaussian_process",
    "Hyperband": "curve_policies",
    "KnownCurve": "learning_curve",
    "LSTMPredictor": "lstm",
    "LastValue": "learning_curve",
    "MedianRule": "curve_policies",
    "Patience": "curve_policies",
    "ProbabilityOfImprovement": "curve_policies",
    "RegressionCurve": "curve_regression",
    "StoppingPolicy": "curve_policies",
    "SuccessiveHalvingRule": "curve_policies",
    "Verdict": "curve_policies",
    "ZeroCostPredictor": "zero_cost",
    "probability_not_dominated": "curve_pareto",
    "sample_efficiency": "evaluation",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
