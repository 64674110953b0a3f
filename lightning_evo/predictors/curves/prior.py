"""The prior over learning curves: a bank of basis curves, and what finished candidates add to it.

Each basis is a shape alone: 0 at the first epoch, 1 where it is highest. How much a candidate gains, and where it ends,
are the two linear coefficients that :mod:`lightning_evo.predictors.curves.posterior` integrates in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy

from lightning_evo.predictors.curves.learning_curve import Floats, KnownCurve
from lightning_evo.predictors.curves.posterior import RATIOS, WIDTHS, Hypotheses, evidence

__all__ = ["NOISE_SPREAD", "Bank", "EmpiricalPrior", "bank", "estimate_prior", "small"]


_SINGLE, _ANNEALED, _DECLINING, _FALL = 0.25, 0.35, 0.15, 0.3
"""Shares of the bank: bases of one family, with the lift of an annealed learning rate, with a decline; and its size."""
_SHARES = numpy.array([0.5, 0.5, 0.5, 0.1, 0.1])
"""How often each family takes part in a mixture."""
NOISE_SPREAD = 1.0
"""Standard deviation of the noise's logarithm between candidates of one search."""
_TEMPLATES, _STUDIED = 100, 12
"""How many finished curves serve as bases, and how many are used to estimate noise and calibration: the latest ones."""
_HALF = 1.0
"""With so many finished curves, they weigh as much as the bank."""
_GAIN_SPREAD, _TEMPLATE_NOISE = 0.4, 1.1
"""Relative standard deviation of the gain of a finished curve as a basis, and the factor by which noise grows with it."""
_SMALL = 120
"""How many of the bank's bases are enough to estimate noise and calibration."""


@dataclass(frozen=True)
class Bank:
    """Basis curves over the epochs 1..horizon.

    Args:
        shapes: (k, horizon), from 0 at the first epoch to a maximum of 1.
        log_prior: (k,) logarithms of the prior probabilities.
    """

    shapes: Floats
    log_prior: Floats


@lru_cache(maxsize=8)
def bank(horizon: int, size: int, seed: int) -> Bank:
    """Draw ``size`` basis curves of the prior.

    A quarter are single power laws, inverse logarithms, exponential saturations (Janoschek's) and slow starts (Hill's
    sigmoid); the others mix several with uniform weights, as the prior of LC-PFN does. On top, some end in the climb of an
    annealed learning rate, and some decline after their peak, as overfitting does.

    Source:
        Adriaensen et al. 2023, arXiv:2310.20447, appendix A (pow3, ilog2, janoschek); Domhan et al. 2015 (Hill).
    """
    rng = numpy.random.default_rng(seed)
    epochs = numpy.arange(1.0, horizon + 1)
    families = numpy.stack([each(rng, size, epochs) for each in (_power, _inverse_log, _saturation, _hill, _logistic)])
    weights = rng.uniform(size=(5, size, 1)) * (rng.uniform(size=(5, size, 1)) < _SHARES[:, None, None])
    single = rng.uniform(size=size) < _SINGLE
    weights[:, single] = numpy.eye(5)[rng.choice(5, size=int(single.sum()), p=_SHARES / _SHARES.sum())].T[..., None]
    weights[0, weights.sum(axis=(0, 2)) == 0] = 1.0
    shapes = (weights * families).sum(axis=0) / weights.sum(axis=0)
    progress = (epochs - 1) / max(horizon - 1, 1)
    # A learning rate annealed to the horizon lifts the end: sin² is what a cosine schedule's progress looks like.
    lift = rng.uniform(0.0, 0.5, size=(size, 1)) * (rng.uniform(size=(size, 1)) < _ANNEALED)
    shapes = (1 - lift) * shapes + lift * numpy.sin(0.5 * numpy.pi * progress) ** rng.uniform(1.0, 3.0, size=(size, 1))
    fall = rng.uniform(0.0, _FALL, size=(size, 1)) * (rng.uniform(size=(size, 1)) < _DECLINING)
    shapes = shapes - fall * progress ** rng.uniform(1.0, 3.0, size=(size, 1))
    shapes = shapes - shapes[:, :1]
    shapes /= numpy.maximum(shapes.max(axis=1, keepdims=True), 1e-12)
    return Bank(shapes, numpy.full(size, -numpy.log(size)))


def _power(rng: numpy.random.Generator, size: int, epochs: Floats) -> Floats:
    return _unit(-(epochs ** -rng.lognormal(-0.3, 0.9, size=(size, 1))))


def _inverse_log(rng: numpy.random.Generator, size: int, epochs: Floats) -> Floats:
    return _unit(-1 / numpy.log(epochs + rng.uniform(0.5, 3.0, size=(size, 1))))


def _saturation(rng: numpy.random.Generator, size: int, epochs: Floats) -> Floats:
    # The half life is log-uniform from half an epoch to twice the horizon.
    half = numpy.exp(rng.uniform(numpy.log(0.5), numpy.log(2.0 * epochs[-1]), size=(size, 1)))
    return _unit(-numpy.exp(-numpy.log(2.0) * (epochs / half) ** rng.lognormal(0.0, 0.35, size=(size, 1))))


def _hill(rng: numpy.random.Generator, size: int, epochs: Floats) -> Floats:
    middle = numpy.exp(rng.uniform(numpy.log(2.0), numpy.log(0.8 * epochs[-1] + 2.0), size=(size, 1)))
    power = (epochs / middle) ** rng.uniform(2.0, 8.0, size=(size, 1))
    return _unit(power / (1 + power))


def _logistic(rng: numpy.random.Generator, size: int, epochs: Floats) -> Floats:
    # Exponential at first, as what leaves a saddle point is.
    middle = rng.uniform(2.0, 1.3 * epochs[-1] + 2.0, size=(size, 1))
    width = middle * rng.uniform(0.08, 0.35, size=(size, 1))
    return _unit(1 / (1 + numpy.exp((middle - epochs) / width)))


def _unit(shapes: Floats) -> Floats:
    """From 0 at the first epoch to 1 at the last; flat ones stay 0."""
    shapes = shapes - shapes[:, :1]
    return shapes / numpy.maximum(shapes[:, -1:], 1e-12)


@dataclass(frozen=True)
class EmpiricalPrior:
    """The prior as estimated from finished candidates; values are such that larger is better.

    Args:
        curves: (m, horizon) the finished curves that noise and calibration are estimated from.
        noise: (horizon,) v(t), the variance of the noise.
        log_widths: (ratios, widths) log prior of ρ and σ.
        levels: Priors of the final level: means and standard deviations.
        gain: The typical gain from first epoch to best.
        templates: (k, horizon) denoised finished curves, as bases.
        gains: (k,) the gain of each template.
        of_curve: (m,) which template each of ``curves`` became, −1 for none.
    """

    curves: Floats
    noise: Floats
    log_widths: Floats
    levels: tuple[tuple[float, float], ...]
    gain: float
    templates: Floats
    gains: Floats
    of_curve: tuple[int, ...]

    def hypotheses(
        self, shapes: Floats, log_prior: Floats, reach: float = 0.0, apart: bool = False
    ) -> list[Hypotheses]:
        """The bank's bases and the finished curves, each with the priors of level and gain.

        Args:
            shapes: (k, horizon) of the bank.
            log_prior: (k,) of the bank.
            reach: How far the curve at hand has moved already, which may be more than any other's gain.
            apart: Whether each of :attr:`curves` is to be predicted without the template it became.
        """
        typical = max(self.gain, reach)
        count, templates = len(shapes), len(self.templates)
        share = templates / (templates + _HALF)
        zeros, own = numpy.zeros(count), log_prior + math.log((1 - share) / len(self.levels))
        sets = [Hypotheses(shapes, own, level, (zeros, numpy.full(count, typical))) for level in self.levels]
        if templates:
            prior = numpy.full(
                (len(self.curves) if apart else 1, templates), math.log(share / templates / len(self.levels))
            )
            if apart:
                for row, template in enumerate(self.of_curve):
                    if template >= 0:
                        prior[row, template] = -numpy.inf
            for wider, level in enumerate(self.levels, start=1):
                spread = (self.gains, wider * _GAIN_SPREAD * self.gains)
                sets.append(Hypotheses(self.templates, prior, level, spread, _TEMPLATE_NOISE, empirical=True))
        return sets


def estimate_prior(
    known: Sequence[KnownCurve], horizon: int, sign: float, least: int, bases: int, seed: int
) -> EmpiricalPrior | None:
    """Estimate the prior from candidates trained to ``horizon``; ``None`` if fewer than ``least``, or all constant.

    Args:
        known: Finished and stopped candidates. Those stopped count with their predicted final fitness: the finished ones
            alone, which are the best, would make the level too high.
        horizon: How many epochs a training has.
        sign: +1.0 to maximize, −1.0 to minimize.
        least: How many finished curves are needed.
        bases: The bank's size.
        seed: The bank's seed.
    """
    ordered = sorted(known, key=lambda each: each.id)
    curves = [_whole(sign * numpy.asarray(each.curve, dtype=numpy.float64)) for each in ordered if each.complete]
    whole = [curve for curve in curves if curve is not None and len(curve) == horizon][-_TEMPLATES:]
    if len(whole) < max(least, 1) or horizon < 4:
        return None
    values = numpy.stack(whole)
    span = float(numpy.median(numpy.ptp(values, axis=1)))
    if span <= 0:
        return None
    noise = _noise(values, span)
    smooth = _denoised(values / noise) * noise
    gains = smooth.max(axis=1) - smooth[:, 0]
    gain = max(float(numpy.median(gains)), 1e-3 * span)
    rising = gains > 0.1 * gain  # the others never learned: their shape is noise
    finals = numpy.array([sign * each.final for each in ordered if math.isfinite(each.final)] or [values[:, -1].mean()])
    centre = float(numpy.median(finals))
    core = max(1.4826 * float(numpy.median(numpy.abs(finals - centre))), 1e-3 * span)
    levels = ((centre, 3.0 * core), (float(finals.mean()), 1.5 * max(float(finals.std()), 0.1 * gain)))
    studied = values[-_STUDIED:]
    of_curve = numpy.where(rising, numpy.cumsum(rising) - 1, -1)[-_STUDIED:]
    templates = (smooth - smooth[:, -1:])[rising] / gains[rising][:, None]
    prior = EmpiricalPrior(
        studied, noise**2, _base(), levels, gain, templates, gains[rising], tuple(int(i) for i in of_curve)
    )
    return _with_noise_prior(prior, bases, seed)


def _base() -> Floats:
    """(ratios, widths): the log prior of ρ and σ before anything is known."""
    weights = numpy.exp(-0.5 * WIDTHS**2)
    return numpy.log(numpy.tile(weights / weights.sum() / len(RATIOS), (len(RATIOS), 1)))


def _with_noise_prior(prior: EmpiricalPrior, bases: int, seed: int) -> EmpiricalPrior:
    """Replace the prior of ρ and σ by what the finished curves suggest: one step of EM for the mixture's weights."""
    shapes, log_prior = small(prior.curves.shape[1], bases, seed)
    # The templates contain the curves themselves: only the bank can tell their noise from their shape.
    sets = [each for each in prior.hypotheses(shapes, log_prior) if each.shapes is shapes]
    widths = numpy.exp(NOISE_SPREAD * WIDTHS)
    likelihood = evidence(prior.curves, numpy.arange(prior.curves.shape[1]), prior.noise, sets, widths)
    likelihood = numpy.exp(likelihood - likelihood.max(axis=(1, 2), keepdims=True))
    total = numpy.exp(_base()) + (likelihood / likelihood.sum(axis=(1, 2), keepdims=True)).sum(axis=0)
    return replace(prior, log_widths=numpy.log(total / total.sum()))


def small(horizon: int, bases: int, seed: int) -> tuple[Floats, Floats]:
    """(k, horizon) and (k,): the first of the bank's bases, 0 at the horizon, and their log prior."""
    drawn = bank(horizon, bases, seed)
    shapes = (drawn.shapes - drawn.shapes[:, -1:])[:_SMALL]
    return shapes, numpy.full(len(shapes), -math.log(len(shapes)))


def _whole(curve: Floats) -> Floats | None:
    """The curve with its few missing values interpolated; ``None`` if a fifth, or the last, is missing."""
    known = numpy.isfinite(curve)
    if not len(curve) or not known[-1] or known.mean() < 0.8:
        return None
    epochs = numpy.arange(len(curve))
    return numpy.interp(epochs, epochs[known], curve[known])


def _noise(values: Floats, span: float) -> Floats:
    """(horizon,): the noise's standard deviation by epoch, from second differences, next to none in a smooth curve.

    Where a curve bends sharply, as in its first epochs, it comes out too large: such epochs then tell less.
    """
    bends = numpy.abs(numpy.diff(values, 2, axis=1)) / math.sqrt(6.0)
    raw = numpy.maximum(numpy.median(bends, axis=0) / 0.6745, 1e-4 * span)
    width = max(1, values.shape[1] // 14)
    padded = numpy.pad(numpy.log(raw), width + 1, mode="edge")
    return numpy.exp(numpy.convolve(padded, numpy.ones(2 * width + 1) / (2 * width + 1), "valid"))


def _denoised(rows: Floats) -> Floats:
    """Rows of noise 1: their mean, and of each one's difference from it what singular values can tell from noise.

    Gavish & Donoho 2014, The optimal hard threshold for singular values is 4/√3, arXiv:1305.5870, equation 11.
    """
    short, long = sorted(rows.shape)
    beta = short / long
    factor = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))
    mean = rows.mean(axis=0)
    left, values, right = numpy.linalg.svd(rows - mean, full_matrices=False)
    kept = numpy.where(values > factor * math.sqrt(long), values, 0.0)
    return mean + (left * kept) @ right
