"""The closed form of Bayesian extrapolation: the posterior of a curve's end by every basis, noise and prior at once.

A curve is y(t) = F + b·ψ(t) + d(t) + e(t) with a basis ψ that is 0 at the horizon, so that F is the final level and b > 0
the total gain. e is noise of variance σ²v(t). d is what no basis has: a Brownian motion of variance σ²ρ·Σ v(t)/√t, which
makes an extrapolation the less certain the further it goes. For each basis, σ, ρ and Gaussian prior of (F, b), the posterior
of (F, b) and the marginal likelihood are in closed form: Bayesian linear regression with correlated noise, in which the
truncation b > 0 is a ratio of normal probabilities. The mixture of all is the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy
from scipy.special import log_ndtr

from lightning_evo.predictors.curves.learning_curve import Floats, Integers

__all__ = ["RATIOS", "WIDTHS", "Cells", "Drift", "Hypotheses", "drifts", "evidence", "posterior"]

RATIOS = (0.03, 0.3, 3.0, 30.0, 300.0, 3000.0)
"""Variances of the Brownian motion per variance of the noise (rho below)."""
WIDTHS = numpy.linspace(-2.5, 2.5, 5)
"""Grid of the noise's logarithm, in standard deviations of its prior."""
_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Hypotheses:
    """Bases with a prior of their final level and gain.

    Args:
        shapes: (k, horizon): ψ, 0 at the horizon.
        log_prior: (k,) or (curves, k), log probabilities.
        level: Mean and standard deviation of F.
        gain: (k,) means and (k,) standard deviations of b, before it is truncated to b > 0.
        noise_factor: By how much σ² is larger, as the bases are noisy themselves.
        empirical: Whether the bases are finished curves.
    """

    shapes: Floats
    log_prior: Floats
    level: tuple[float, float]
    gain: tuple[Floats, Floats]
    noise_factor: float = 1.0
    empirical: bool = False


@dataclass(frozen=True)
class Drift:
    """Noise and Brownian motion of one ρ between the observed epochs and the horizon, for σ = 1.

    Args:
        covariance: (horizon, horizon) of the Brownian motion.
        noise: (horizon,) v(t).
        whiten: (n, n): turns observed values into independent ones.
        gain: (n,): how much of each observed residual is left at the horizon.
        left: Variance at the horizon, given the observed residuals.
        log_det: Log determinant of the observed values' covariance.
    """

    covariance: Floats
    noise: Floats
    whiten: Floats
    gain: Floats
    left: float
    log_det: float


@dataclass(frozen=True)
class Cells:
    """The posterior by one set of hypotheses and one ρ: arrays of (curves, bases, widths).

    Args:
        log_weight: Logarithm of prior times marginal likelihood.
        mean: Of the value at the horizon.
        variance: Of the value at the horizon, noise included.
        gain_mean: Posterior mean of b.
        gain_variance: Posterior variance of b.
        level_mean: Posterior mean of F.
        level_slope: Of F by b.
        level_variance: Of F, given b.
    """

    log_weight: Floats
    mean: Floats
    variance: Floats
    gain_mean: Floats
    gain_variance: Floats
    level_mean: Floats
    level_slope: Floats
    level_variance: Floats


def drifts(index: Integers, noise: Floats, ratios: Sequence[float] = RATIOS) -> list[Drift]:
    """One :class:`Drift` per ρ.

    Args:
        index: (n,) positions of the observed epochs, from 0.
        noise: (horizon,) v(t).
        ratios: ρ.
    """
    from scipy.linalg import solve_triangular

    clock = numpy.cumsum(noise / numpy.sqrt(numpy.arange(1.0, len(noise) + 1)))
    covariance = numpy.minimum(clock[:, None], clock[None, :])
    made = []
    for ratio in ratios:
        brownian = ratio * covariance
        factor = numpy.linalg.cholesky(brownian[numpy.ix_(index, index)] + numpy.diag(noise[index]))
        whiten = solve_triangular(factor, numpy.eye(len(index)), lower=True, check_finite=False)
        ahead = brownian[index, -1]
        gain = whiten.T @ (whiten @ ahead)
        left = float(noise[-1] + brownian[-1, -1] - ahead @ gain)
        made.append(Drift(brownian, noise, whiten, gain, left, float(2 * numpy.log(numpy.diag(factor)).sum())))
    return made


def posterior(
    curves: Floats, index: Integers, drift: Drift, hypotheses: Hypotheses, widths: Floats, log_widths: Floats
) -> Cells:
    """Posterior and marginal likelihood of every basis and width of noise.

    Args:
        curves: (c, n) values, larger is better.
        index: (n,) positions of their epochs, from 0.
        drift: Of the same epochs.
        hypotheses: The bases and priors.
        widths: (w,) σ.
        log_widths: (w,) log prior probabilities of those.
    """
    (m_f, s_f), (m_b, s_b) = hypotheses.level, hypotheses.gain
    shapes = hypotheses.shapes[:, index]
    n = shapes.shape[1]
    # Sufficient statistics of the whitened regression on (1, ψ), after the prior means are subtracted.
    one, psi = drift.whiten.sum(axis=1), shapes @ drift.whiten.T
    s11, s1p, spp = float(one @ one), psi @ one, (psi**2).sum(axis=1)
    rest = (curves - m_f) @ drift.whiten.T
    r1, rp, rr = rest @ one, rest @ psi.T, (rest**2).sum(axis=1)
    r1, rp, rr = r1[:, None] - m_b * s1p, rp - m_b * spp, rr[:, None] - 2 * m_b * rp + m_b**2 * spp
    q = 1.0 / (widths**2 * hypotheses.noise_factor)
    a, d, cross = 1.0 / s_f**2 + q * s11, 1.0 / s_b[:, None] ** 2 + q * spp[:, None], q * s1p[:, None]
    det = a * d - cross**2
    h1, h2 = q * r1[:, :, None], q * rp[:, :, None]
    level, gain = (d * h1 - cross * h2) / det, (a * h2 - cross * h1) / det
    fit = q * rr[:, :, None] - h1 * level - h2 * gain
    constant = -0.5 * numpy.log(det) - math.log(s_f) - numpy.log(s_b)[:, None] + 0.5 * n * numpy.log(q)
    constant = constant - 0.5 * drift.log_det - n * _LOG_ROOT_2PI - log_ndtr(m_b / s_b)[:, None] + log_widths
    # Truncation to b > 0.
    v_b, slope = a / det, -cross / a
    s = numpy.sqrt(v_b)
    b = gain + m_b[:, None]
    alpha = b / s
    log_above = log_ndtr(alpha)
    ratio = numpy.exp(-0.5 * alpha**2 - _LOG_ROOT_2PI - log_above)
    shift, kept = s * ratio, numpy.clip(1.0 - ratio * (ratio + alpha), 0.0, 1.0)
    v_f = d / det - slope**2 * v_b
    f = m_f + level + slope * shift
    b = b + shift
    # The value at the horizon: F, and what is left of the observed residuals there.
    of_f, of_b = 1.0 - float(drift.gain.sum()), -(shapes @ drift.gain)[:, None]
    mean = (curves @ drift.gain)[:, None, None] + of_f * f + of_b * b
    variance = of_f**2 * v_f + (of_f * slope + of_b) ** 2 * v_b * kept + drift.left / q
    log_prior = numpy.atleast_2d(hypotheses.log_prior)[:, :, None]
    return Cells(log_prior + constant - 0.5 * fit + log_above, mean, variance, b, v_b * kept, f, slope, v_f)


def evidence(curves: Floats, index: Integers, noise: Floats, sets: Sequence[Hypotheses], widths: Floats) -> Floats:
    """(c, ratios, widths): the log marginal likelihood of each curve by ρ and σ, over all bases and priors."""
    log_widths = numpy.zeros(len(widths))
    return numpy.stack([_sum(curves, index, drift, sets, widths, log_widths) for drift in drifts(index, noise)], axis=1)


def _sum(
    curves: Floats,
    index: Integers,
    drift: Drift,
    sets: Sequence[Hypotheses],
    widths: Floats,
    log_widths: Floats,
) -> Floats:
    def each() -> Iterator[Floats]:
        for hypotheses in sets:
            yield numpy.logaddexp.reduce(
                posterior(curves, index, drift, hypotheses, widths, log_widths).log_weight, axis=1
            )

    return numpy.logaddexp.reduce(list(each()), axis=0)
