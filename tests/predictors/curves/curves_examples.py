"""Learning curves for tests, and every public predictor of them and stopping policy by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lightning_evo.predictors import (
    BayesianCurve,
    CurvePredictor,
    Hyperband,
    KnownCurve,
    LastValue,
    MedianRule,
    Patience,
    ProbabilityOfImprovement,
    RegressionCurve,
    StoppingPolicy,
    SuccessiveHalvingRule,
)

HORIZON = 30

PREDICTORS: dict[str, Callable[[], CurvePredictor]] = {
    "bayesian": lambda: BayesianCurve(bases=300),
    "regression": lambda: RegressionCurve(least_known=10, fallback=BayesianCurve(bases=300)),
    "last value": LastValue,
}
"""One row for each public predictor of curves, quick enough for tests."""

POLICIES: dict[str, Callable[[], StoppingPolicy]] = {
    "probability of improvement": lambda: ProbabilityOfImprovement(LastValue(), minimum_epochs=2),
    "median rule": lambda: MedianRule(2, 2),
    "successive halving": lambda: SuccessiveHalvingRule(2),
    "hyperband": lambda: Hyperband(2),
    "patience": lambda: Patience(2),
}
"""One row for each public stopping policy, eager enough to stop candidates after a few epochs."""


def power_law(
    final: float, gain: float, rate: float, noise: float = 0.0, seed: int = 0, n: int = HORIZON
) -> list[float]:
    epochs = np.arange(1, n + 1)
    left = (epochs**-rate - HORIZON**-rate) / (1 - HORIZON**-rate)
    return (final - gain * left + noise * np.random.default_rng(seed).standard_normal(n)).tolist()


def finished(count: int = 12, scale: float = 1.0, shift: float = 0.0) -> list[KnownCurve]:
    """Curves that end at various levels, with the same noise."""
    rng = np.random.default_rng(1)
    curves = [
        power_law(rng.normal(0.8, 0.05), rng.uniform(0.4, 0.6), rng.uniform(0.5, 1), 0.01, i) for i in range(count)
    ]
    return [
        KnownCurve(i, tuple(shift + scale * v for v in curve), shift + scale * curve[-1])
        for i, curve in enumerate(curves)
    ]
