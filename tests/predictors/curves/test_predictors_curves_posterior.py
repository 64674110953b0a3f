"""The closed forms of Bayesian extrapolation against brute force and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from lightning_evo.predictors.curves.posterior import Drift, Hypotheses, drifts, evidence, posterior
from lightning_evo.predictors.curves.prior import bank

HORIZON, SEEN = 12, np.array([0, 1, 3, 4, 6])
NOISE = np.linspace(2.0, 0.5, HORIZON)
RATIO, WIDTH, LEVEL = 0.7, 0.3, (1.0, 0.8)
GAIN = (np.array([0.5]), np.array([0.6]))
SHAPE = -np.exp(-np.arange(HORIZON) / 4.0)
SHAPE = (SHAPE - SHAPE[-1])[None]
CURVE = np.array([[-0.1, 0.3, 0.5, 0.75, 0.7]])


def setting() -> tuple[Drift, Hypotheses]:
    return drifts(SEEN, NOISE, [RATIO])[0], Hypotheses(SHAPE, np.zeros(1), LEVEL, GAIN)


def covariance() -> np.ndarray:
    """Of noise and Brownian motion over all epochs, written down from the definition."""
    clock = np.cumsum(NOISE / np.sqrt(np.arange(1, HORIZON + 1)))
    brownian = np.array([[RATIO * min(a, b) for b in clock] for a in clock])
    return WIDTH**2 * (brownian + np.diag(NOISE))


def by_brute_force() -> tuple[float, float, float]:
    """Marginal likelihood, and mean and variance at the horizon, by summing over a fine grid of the gain b > 0.

    Given b, everything is one multivariate Gaussian of the values seen and the value at the horizon.
    """
    both = np.append(SEEN, HORIZON - 1)
    joint = covariance()[np.ix_(both, both)] + LEVEL[1] ** 2
    b = np.linspace(0, 6, 20001)[1:]
    prior = norm.pdf(b, GAIN[0][0], GAIN[1][0]) / norm.sf(0, GAIN[0][0], GAIN[1][0])
    inverse = np.linalg.inv(joint[:-1, :-1])
    means = LEVEL[0] + b[:, None] * SHAPE[0, both]
    residuals = CURVE[0] - means[:, :-1]
    likelihood = np.array([multivariate_normal.pdf(r, np.zeros(len(SEEN)), joint[:-1, :-1]) for r in residuals])
    weight = prior * likelihood
    ahead = joint[-1, :-1] @ inverse
    mean = means[:, -1] + residuals @ ahead
    variance = joint[-1, -1] - ahead @ joint[:-1, -1]
    total = weight.sum()
    average = (weight * mean).sum() / total
    return total * (b[1] - b[0]), average, variance + (weight * (mean - average) ** 2).sum() / total


def test_marginal_likelihood_and_prediction_equal_numeric_integration():
    drift, hypotheses = setting()
    cells = posterior(CURVE, SEEN, drift, hypotheses, np.array([WIDTH]), np.zeros(1))
    likelihood, mean, variance = by_brute_force()
    assert np.exp(cells.log_weight).item() == pytest.approx(likelihood, rel=1e-3)
    assert cells.mean.item() == pytest.approx(mean, rel=1e-4)
    assert cells.variance.item() == pytest.approx(variance, rel=1e-3)


def test_a_gain_that_is_surely_positive_leaves_one_multivariate_gaussian():
    drift = drifts(SEEN, NOISE, [RATIO])[0]
    gain = (np.array([5.0]), np.array([0.1]))
    curve = np.array([[-4.0, -2.6, -1.2, -0.6, 0.1]])
    cells = posterior(curve, SEEN, drift, Hypotheses(SHAPE, np.zeros(1), LEVEL, gain), np.array([WIDTH]), np.zeros(1))
    seen = SHAPE[0, SEEN]
    joint = covariance()[np.ix_(SEEN, SEEN)] + LEVEL[1] ** 2 + 0.1**2 * np.outer(seen, seen)
    assert cells.log_weight.item() == pytest.approx(multivariate_normal.logpdf(curve[0], LEVEL[0] + 5 * seen, joint))


def test_noise_of_a_basis_widens_as_wider_noise_does():
    drift, hypotheses = setting()
    noisy = Hypotheses(SHAPE, np.zeros(1), LEVEL, GAIN, noise_factor=4.0)
    twice = posterior(CURVE, SEEN, drift, hypotheses, np.array([2 * WIDTH]), np.zeros(1))
    factor = posterior(CURVE, SEEN, drift, noisy, np.array([WIDTH]), np.zeros(1))
    assert factor.log_weight == pytest.approx(twice.log_weight)
    assert factor.variance == pytest.approx(twice.variance)


def test_curves_of_a_batch_are_predicted_as_each_alone():
    drift, hypotheses = setting()
    batch = np.vstack([CURVE, CURVE + 0.1, -CURVE])
    widths = np.array([0.1, WIDTH])
    together = posterior(batch, SEEN, drift, hypotheses, widths, np.zeros(2))
    alone = [posterior(each[None], SEEN, drift, hypotheses, widths, np.zeros(2)) for each in batch]
    assert together.mean == pytest.approx(np.concatenate([each.mean for each in alone]))
    assert together.log_weight == pytest.approx(np.concatenate([each.log_weight for each in alone]))


def test_evidence_is_the_sum_over_bases_and_hypotheses():
    _, hypotheses = setting()
    wide = Hypotheses(np.vstack([SHAPE, SHAPE**2]), np.log([0.3, 0.7]), (0.0, 2.0), (np.ones(2), np.ones(2)))
    widths = np.array([0.2, 0.4])
    found = evidence(CURVE, SEEN, NOISE, [hypotheses, wide], widths)
    for row, drift in enumerate(drifts(SEEN, NOISE)):
        parts = [
            np.exp(posterior(CURVE, SEEN, drift, each, widths, np.zeros(2)).log_weight).sum(axis=(0, 1))
            for each in (hypotheses, wide)
        ]
        assert found[0, row] == pytest.approx(np.log(sum(parts)))


@pytest.mark.parametrize("horizon", [3, 5, 50])
def test_the_bank_holds_finite_shapes_that_start_at_nothing_and_gain_one(horizon: int):
    drawn = bank(horizon, 300, 0)
    assert drawn.shapes.shape == (300, horizon)
    assert np.isfinite(drawn.shapes).all()
    assert (drawn.shapes[:, 0] == 0).all()
    assert drawn.shapes.max(axis=1) == pytest.approx(1.0)
    assert np.exp(drawn.log_prior).sum() == pytest.approx(1.0)
    assert (bank(horizon, 300, 0).shapes == drawn.shapes).all()
    assert (bank(horizon, 300, 1).shapes != drawn.shapes).any()
