"""Prediction of the fitness by a Gaussian process, the most accurate from few results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.genome import Genome, SearchSpace
from lightning_evo.predictors.genomes.features import Features, OwnFeatures, check_proxies
from lightning_evo.predictors.genomes.results import Scale, check_results, keep, not_fitted

__all__ = ["GaussianProcessPredictor"]

Floats = NDArray[numpy.float64]


class GaussianProcessPredictor(Predictor):
    """A Gaussian process that learns which genes matter; for choices and numbers, and few results.

    The similarity of two genomes is exp(-Σ_g w_g d_g), where d_g is their distance in a group of features: 0 or 1 for an
    unordered choice, the distance in [0, 1] along a range, the share of bits that differ. The weights w_g, the noise
    and the signal maximize the posterior (marginal likelihood and weak log-normal priors) by L-BFGS. It learns on the
    scale of ranks (:class:`~lightning_evo.predictors.genomes.results.Scale`). The standard deviation is that of the
    noiseless function.

    Args:
        proxies: Zero-cost proxies to use as features: ``naswot``, ``synflow``, ``gradient_norm``, ``params``, ``flops``.
            Default: none.
        max_results: Most results to learn from (default 400), which bounds the cost of a fit: the best half of that
            number, and an even sample of the rest.
        max_tuned: Most of those to fit the weights on, chosen likewise (default 150).
        max_steps: Most steps of the optimization of the weights (default 20).
        min_results: How many results :meth:`fit` needs (default 10).
        features: A function of your own, or its import path, from a genome (config path -> value) to numbers, always the
            same number of them; it replaces the features of the genes. Default: none.

    Raises:
        ValueError: A number or name is not accepted.

    Source:
        Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, algorithm 2.1 and equations 5.9 and 5.12; an
        exponential kernel over Hamming distances as in Oh et al. 2019 (COMBO), arXiv:1902.00448, and Ru et al. 2020
        (CoCaBO), arXiv:1906.08878.

    Example:
        >>> from lightning_evo.genome import Categorical, Genome
        >>> space = SearchSpace({f"op{i}": Categorical(["skip", "conv"]) for i in range(4)})
        >>> genomes = [Genome({f"op{i}": ["skip", "conv"][n >> i & 1] for i in range(4)}) for n in range(16)]
        >>> process = GaussianProcessPredictor().bind(space).fit(genomes[:15], [float(n) for n in range(15)])
        >>> mean, std = process.predict(genomes)
        >>> int((mean + std).argmax()), bool(std[15] > std[14])
        (15, True)
    """

    def __init__(
        self,
        proxies: Sequence[str] = (),
        max_results: int = 400,
        max_tuned: int = 150,
        max_steps: int = 20,
        min_results: int = 10,
        features: OwnFeatures | None = None,
    ) -> None:
        check_at_least("min_results", min_results, 2)
        check_at_least("max_results", max_results, min_results)
        check_at_least("max_tuned", max_tuned, 2)
        check_at_least("max_steps", max_steps, 1)
        self.proxies, self.min_results, self.max_results = check_proxies(proxies), min_results, max_results
        self.max_tuned, self.max_steps, self.features = max_tuned, max_steps, features

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        super().bind(space, seed, measure)
        self._features = Features(space, self.proxies, measure, own=self.features)
        self._groups = self._features.groups()
        self._factor: Floats | None = None
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        values = check_results(self, genomes, fitness)
        kept = keep(values, self.max_results)
        values = values[kept]
        self._scale = Scale.of(values)
        targets = self._scale.to(values)
        raw = self._features.rows([genomes[i] for i in kept])
        self._low, self._span = _range(raw)
        self._rows = self._prepare(raw)
        some = keep(values, self.max_tuned)
        self._weights, self._signal, self._noise = _tune(
            _distances(self._rows[some], self._rows[some], self._groups), targets[some], self.max_steps
        )
        kernel = self._kernel(self._rows)
        kernel[numpy.diag_indices_from(kernel)] += self._noise + JITTER
        factor = numpy.linalg.cholesky(kernel).astype(numpy.float64)
        self._factor = factor
        inverse = _solve(factor, numpy.eye(len(targets)))
        self._solved = inverse.T @ (inverse @ targets)
        # The leave-one-out error of each result (equation 5.12).
        self._scale = self._scale.learn(self._solved / (inverse**2).sum(axis=0))
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[Floats, Floats]:
        factor = getattr(self, "_factor", None)
        if factor is None:
            raise not_fitted(self)
        kernel = self._kernel(self._prepare(self._features.rows(genomes)))
        explained = (_solve(factor, kernel.T) ** 2).sum(axis=0)
        std = numpy.sqrt(numpy.maximum(self._signal - explained, JITTER))
        return self._scale.back(kernel @ self._solved, std)

    def _prepare(self, rows: Floats) -> Floats:
        """Scale columns to [0, 1] over the results learned from; NaN stays, and other genomes may lie outside."""
        return (rows - self._low) / self._span

    def _kernel(self, rows: Floats) -> Floats:
        distances = _distances(rows, self._rows, self._groups)
        return self._signal * numpy.exp(-numpy.tensordot(self._weights, distances, 1))


JITTER = 1e-6
"""Added to the kernel's diagonal, which might otherwise not be positive definite in floating-point arithmetic."""

_PRIOR_SIGNAL, _PRIOR_NOISE = (0.0, 1.0), (-2.0, 1.0)
"""Mean and standard deviation of the logarithms; targets are standardized, distances at most 1."""


def _prior_weight(groups: int) -> tuple[float, float]:
    """Mean and standard deviation of a weight's logarithm: the more weights, the less each is likely to matter."""
    return -0.5 * numpy.log(3 * groups), 1.5


def _range(rows: Floats) -> tuple[Floats, Floats]:
    """Lowest value and width of each column, ignoring NaN; a constant column has width 1."""
    known = numpy.isfinite(rows)
    low = numpy.where(known, rows, numpy.inf).min(axis=0)
    high = numpy.where(known, rows, -numpy.inf).max(axis=0)
    some = known.any(axis=0)
    span = numpy.where(some & (high > low), numpy.where(some, high, 1) - numpy.where(some, low, 0), 1.0)
    return numpy.where(some, low, 0.0), span


def _distances(first: Floats, second: Floats, groups: Sequence[Sequence[int]]) -> Floats:
    """(groups, n, m): the mean absolute difference of a group's columns; 1 where only one is active, 0 where neither is."""
    distances = numpy.empty((len(groups), len(first), len(second)))
    for group, columns in enumerate(groups):
        total = numpy.zeros((len(first), len(second)))
        for column in columns:
            a, b = first[:, column, None], second[None, :, column]
            apart = numpy.abs(a - b)
            total += numpy.where(numpy.isnan(apart), numpy.isnan(a) != numpy.isnan(b), apart)
        distances[group] = total / len(columns)
    return distances


def _tune(distances: Floats, targets: Floats, steps: int) -> tuple[Floats, float, float]:
    """Weights, signal and noise with the maximum posterior."""
    from scipy.optimize import minimize

    count, n = len(distances), len(targets)
    priors = numpy.array([_prior_weight(count)] * count + [_PRIOR_SIGNAL, _PRIOR_NOISE])
    diagonal = numpy.diag_indices(n)

    def loss(logarithms: Floats) -> tuple[float, Floats]:
        weights, signal, noise = numpy.exp(logarithms[:count]), *numpy.exp(logarithms[count:])
        smooth = signal * numpy.exp(-numpy.tensordot(weights, distances, 1))
        kernel = smooth.copy()
        kernel[diagonal] += noise + JITTER
        factor = numpy.linalg.cholesky(kernel)
        inverse = _solve(factor, numpy.eye(n))
        inverse = inverse.T @ inverse
        solved = inverse @ targets
        slope = 0.5 * (inverse - numpy.outer(solved, solved))  # of the negative log likelihood by the kernel
        pull = slope * smooth
        gradient = numpy.empty_like(logarithms)
        gradient[:count] = -weights * numpy.tensordot(distances, pull, 2)
        gradient[count:] = pull.sum(), numpy.trace(slope) * noise
        away = (logarithms - priors[:, 0]) / priors[:, 1]
        value = 0.5 * targets @ solved + numpy.log(numpy.diag(factor)).sum() + 0.5 * away @ away
        return float(value), gradient + away / priors[:, 1]

    bounds = [(mean - 6 * std, mean + 6 * std) for mean, std in priors]
    found = minimize(loss, priors[:, 0], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps}).x
    return numpy.exp(found[:count]), float(numpy.exp(found[count])), float(numpy.exp(found[count + 1]))


def _solve(triangle: Floats, right: Floats) -> Floats:
    from scipy.linalg import solve_triangular

    return solve_triangular(triangle, right, lower=True, check_finite=False)
