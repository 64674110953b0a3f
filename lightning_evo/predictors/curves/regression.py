"""Prediction of the final fitness by regression on the search's finished curves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy

from lightning_evo.predictors.curves.bayes import BayesianCurve
from lightning_evo.predictors.curves.learning_curve import (
    CurvePredictor,
    FinalFitness,
    Floats,
    KnownCurve,
    Mode,
    Target,
    bounded,
    fingerprint,
    oriented,
)
from lightning_evo.utils.random_state import preserved_random_state

__all__ = ["RegressionCurve"]

_FOLDS = 5


class RegressionCurve(CurvePredictor):
    """Support vector regression (scikit-learn's ``NuSVR``) from a curve's beginning to its final fitness.

    Its inputs are the curve so far, its first and second differences, and the candidate's features, which may include what
    is known before training, such as the number of parameters. Missing epochs take the last value before them. The
    distribution is the prediction plus each error of five-fold cross-validation, smoothed.

    Args:
        least_known: How many finished curves of the same length it needs to learn from (default 20); with fewer,
            ``fallback`` predicts.
        minimum_epochs: How many finite values it needs (default 3).
        nu: The smallest share of support vectors, in (0, 1] (default 0.5).
        regularization: The regression's C, the cost of an error (default 1.0).
        fallback: The predictor to use while too few curves are known (default ``BayesianCurve()``).

    Raises:
        ValueError: If a number is out of range.

    Source:
        Baker, Gupta, Raskar & Naik 2017, Accelerating neural architecture search using performance prediction,
        arXiv:1705.10823, section 3 (ν-SVR with an RBF kernel).

    Example:
        >>> known = [
        ...     KnownCurve(i, tuple(0.5 + 0.01 * i - 0.4 / n for n in range(1, 11)), 0.46 + 0.01 * i) for i in range(30)
        ... ]
        >>> final = RegressionCurve().fit(known).predict(known[15].curve[:5], horizon=10)
        >>> abs(final.median - 0.61) < 0.01
        True
    """

    def __init__(
        self,
        least_known: int = 20,
        minimum_epochs: int = 3,
        nu: float = 0.5,
        regularization: float = 1.0,
        fallback: CurvePredictor | None = None,
    ) -> None:
        if least_known < 2 * _FOLDS:
            raise ValueError(
                f"least_known: {least_known!r} is not at least {2 * _FOLDS}; two for each of {_FOLDS} folds"
            )
        if minimum_epochs < 3:
            raise ValueError(
                f"minimum_epochs: {minimum_epochs!r} is not at least 3; second differences need three values"
            )
        if not 0 < nu <= 1:
            raise ValueError(f"nu: {nu!r} is not above 0 and at most 1")
        if not regularization > 0:
            raise ValueError(f"regularization: {regularization!r} is not above 0")
        self.least_known, self.minimum_epochs, self.nu, self.regularization = (
            least_known,
            minimum_epochs,
            nu,
            regularization,
        )
        self.fallback = BayesianCurve() if fallback is None else fallback
        self._known: tuple[KnownCurve, ...] = ()
        self._fitted: Hashable = ()
        self._models: dict[Hashable, tuple[Any, Floats]] = {}

    def fit(self, known: Sequence[KnownCurve]) -> Self:
        self.fallback.fit(known)
        now = fingerprint(known)
        if now != self._fitted:
            self._fitted, self._known, self._models = now, tuple(known), {}
        return self

    def predict(
        self,
        curve: Sequence[float],
        horizon: int,
        target: Target = "last",
        mode: Mode = "max",
        features: Sequence[float] = (),
    ) -> FinalFitness:
        _, values = oriented(self, curve, horizon, target, mode)
        epochs = len(curve)
        usable = [
            each
            for each in self._known
            if each.complete
            and epochs <= len(each.curve) == horizon
            and math.isfinite(each.final)
            and len(each.features) == len(features)
            and numpy.isfinite(each.curve[:epochs]).any()
        ]
        if len(usable) < self.least_known or epochs == horizon:
            return self.fallback.predict(curve, horizon, target, mode, features)
        key = (epochs, horizon, len(features))
        if key not in self._models:
            rows = numpy.stack([_row(each.curve[:epochs], each.features) for each in usable])
            self._models[key] = self._trained(rows, numpy.array([each.final for each in usable]))
        model, errors = self._models[key]
        means = float(model.predict(_row(curve, features)[None])[0]) + errors
        width = 0.9 * float(errors.std()) * len(errors) ** -0.2  # Silverman's rule
        best = float(values.max()) * (1 if mode == "max" else -1)
        low, high = bounded(best if target == "best" else None, mode)
        return FinalFitness(numpy.ones(len(errors)), means, numpy.full(len(errors), width), low=low, high=high)

    def _trained(self, rows: Floats, finals: Floats) -> tuple[Any, Floats]:
        """The regression, and the errors of cross-validation (truth minus prediction)."""
        from sklearn.compose import TransformedTargetRegressor
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import NuSVR

        regression = make_pipeline(StandardScaler(), NuSVR(nu=self.nu, C=self.regularization))
        model = TransformedTargetRegressor(regression, transformer=StandardScaler())
        # Shuffled: neighbors in a search are often relatives.
        folds = KFold(_FOLDS, shuffle=True, random_state=0)
        with preserved_random_state():  # libsvm takes a seed, which it doesn't use, from NumPy's global state
            return model.fit(rows, finals), finals - cross_val_predict(model, rows, finals, cv=folds)


def _row(curve: Sequence[float], features: Sequence[float]) -> Floats:
    """The curve, its first and second differences, and the features."""
    values = numpy.asarray(curve, dtype=numpy.float64)
    finite = numpy.flatnonzero(numpy.isfinite(values))
    before = numpy.searchsorted(finite, numpy.arange(len(values)), side="right") - 1
    values = values[finite[numpy.maximum(before, 0)]]
    return numpy.concatenate(
        [values, numpy.diff(values), numpy.diff(values, 2), numpy.asarray(features, dtype=numpy.float64)]
    )
