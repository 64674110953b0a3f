"""What can be known before training ends? How good an architecture will be, learned from those trained before.

The classes are imported when first asked for: scikit-learn and torch take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.lazy import lazily
from lightning_evo.predictors.proxies import PROXIES

if TYPE_CHECKING:
    from lightning_evo.predictors.ensemble import EnsemblePredictor
    from lightning_evo.predictors.evaluation import learning_curve
    from lightning_evo.predictors.forest import ForestPredictor
    from lightning_evo.predictors.gaussian_process import GaussianProcessPredictor
    from lightning_evo.predictors.lstm import LSTMPredictor
    from lightning_evo.predictors.zero_cost import ZeroCostPredictor

__all__ = [
    "PROXIES",
    "EnsemblePredictor",
    "ForestPredictor",
    "GaussianProcessPredictor",
    "LSTMPredictor",
    "ZeroCostPredictor",
    "learning_curve",
]

_HOME = {
    "EnsemblePredictor": "ensemble",
    "ForestPredictor": "forest",
    "GaussianProcessPredictor": "gaussian_process",
    "LSTMPredictor": "lstm",
    "ZeroCostPredictor": "zero_cost",
    "learning_curve": "evaluation",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
