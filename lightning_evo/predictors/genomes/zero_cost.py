"""Prediction of the fitness by one zero-cost proxy of the untrained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.genome import Genome, SearchSpace
from lightning_evo.predictors.genomes.features import Features, check_proxies
from lightning_evo.predictors.genomes.results import Scale, check_results, not_fitted

__all__ = ["ZeroCostPredictor"]


class ZeroCostPredictor(Predictor):
    """A single zero-cost proxy as a predictor.

    It learns a straight line from the proxy (its logarithm, except for ``naswot``) to the fitness on the scale of ranks
    (:class:`~lightning_evo.predictors.genomes.results.Scale`), whose slope may have either sign; so the proxy alone ranks
    candidates. Where it can't be measured, the mean of the worse half of the results is predicted.

    Args:
        proxy: ``naswot``, ``synflow`` (default), ``gradient_norm``, ``params`` or ``flops``.
        min_results: How many results :meth:`fit` needs (default 10).

    Raises:
        ValueError: If there is no such proxy.
    """

    def __init__(self, proxy: str = "synflow", min_results: int = 10) -> None:
        check_at_least("min_results", min_results, 3)
        self.proxies = check_proxies([proxy])
        self.proxy, self.min_results = proxy, min_results

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        super().bind(space, seed, measure)
        self._features = Features(space, self.proxies, measure)
        self._scale: Scale | None = None
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        values = check_results(self, genomes, fitness)
        scale = Scale.of(values)
        targets, proxy = scale.to(values), self._values(genomes)
        known = numpy.isfinite(proxy)
        self._slope, self._middle, self._level = 0.0, 0.0, float(targets.mean())
        if known.sum() > 1 and proxy[known].std() > 0:
            self._middle, self._level = float(proxy[known].mean()), float(targets[known].mean())
            away = proxy[known] - self._middle
            self._slope = float(away @ targets[known] / (away @ away))
        self._unknown = float(targets[targets <= numpy.median(targets)].mean())
        left = targets - self._line(proxy)
        self._std = float(numpy.sqrt((left @ left) / max(1, len(left) - 2)))
        self._scale = scale
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        if getattr(self, "_scale", None) is None:
            raise not_fitted(self)
        assert self._scale is not None
        mean = self._line(self._values(genomes))
        return self._scale.back(mean, numpy.full(len(mean), self._std))

    def _values(self, genomes: Sequence[Genome]) -> NDArray[numpy.float64]:
        return self._features.rows(genomes)[:, -1]

    def _line(self, proxy: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        away = numpy.nan_to_num(proxy - self._middle, nan=0.0)
        return numpy.where(numpy.isfinite(proxy), self._level + self._slope * away, self._unknown)
