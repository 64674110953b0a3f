"""Which shapes do learning curves have? A bank of basis curves drawn from a prior over shapes.

Each basis is a shape alone: 0 at the first epoch, 1 where it is highest. How much a candidate gains, and where it ends,
are the two linear coefficients that :mod:`lightning_evo.predictors.curve_bayes` integrates in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy

from lightning_evo.predictors.curve_fitness import Floats

__all__ = ["Bank", "bank"]


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


_SINGLE, _ANNEALED, _DECLINING, _FALL = 0.25, 0.35, 0.15, 0.3
"""Shares of the bank."""
_SHARES = numpy.array([0.5, 0.5, 0.5, 0.1, 0.1])
"""How often each family takes part in a mixture."""


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
