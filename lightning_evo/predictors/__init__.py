"""Predictors of fitness, from genomes before training and from learning curves during it; and stopping policies.

The classes are imported when first asked for: scikit-learn and torch take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.predictors.curves.bayes import BayesianCurve
    from lightning_evo.predictors.curves.learning_curve import CurvePredictor, FinalFitness, KnownCurve, LastValue
    from lightning_evo.predictors.curves.policies import (
        CurveContext,
        Hyperband,
        MedianRule,
        Patience,
        ProbabilityOfImprovement,
        StoppingPolicy,
        SuccessiveHalvingRule,
        Verdict,
        probability_not_dominated,
    )
    from lightning_evo.predictors.curves.regression import RegressionCurve
    from lightning_evo.predictors.genomes.ensemble import EnsemblePredictor
    from lightning_evo.predictors.genomes.evaluation import sample_efficiency
    from lightning_evo.predictors.genomes.features import PROXIES
    from lightning_evo.predictors.genomes.forest import ForestPredictor
    from lightning_evo.predictors.genomes.gaussian_process import GaussianProcessPredictor
    from lightning_evo.predictors.genomes.lstm import LSTMPredictor
    from lightning_evo.predictors.genomes.zero_cost import ZeroCostPredictor

__all__ = [
    "PROXIES",
    "BayesianCurve",
    "CurveContext",
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
    "PROXIES": "genomes.features",
    "BayesianCurve": "curves.bayes",
    "CurveContext": "curves.policies",
    "CurvePredictor": "curves.learning_curve",
    "EnsemblePredictor": "genomes.ensemble",
    "FinalFitness": "curves.learning_curve",
    "ForestPredictor": "genomes.forest",
    "GaussianProcessPredictor": "genomes.gaussian_process",
    "Hyperband": "curves.policies",
    "KnownCurve": "curves.learning_curve",
    "LSTMPredictor": "genomes.lstm",
    "LastValue": "curves.learning_curve",
    "MedianRule": "curves.policies",
    "Patience": "curves.policies",
    "ProbabilityOfImprovement": "curves.policies",
    "RegressionCurve": "curves.regression",
    "StoppingPolicy": "curves.policies",
    "SuccessiveHalvingRule": "curves.policies",
    "Verdict": "curves.policies",
    "ZeroCostPredictor": "genomes.zero_cost",
    "probability_not_dominated": "curves.policies",
    "sample_efficiency": "genomes.evaluation",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
