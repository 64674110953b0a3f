"""Prediction of the fitness by a forest of randomized trees."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.checks import check_at_least
from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.genome import Genome, SearchSpace
from lightning_evo.predictors.genomes.features import Features, OwnFeatures, check_proxies, fill
from lightning_evo.predictors.genomes.results import Scale, check_results, keep, not_fitted

__all__ = ["ForestPredictor"]


class ForestPredictor(Predictor):
    """A forest of extremely randomized trees (scikit-learn) on the features of the genes; for any search space.

    Its features are those of :class:`~lightning_evo.predictors.genomes.features.Features`: one-hot choices, scaled numbers,
    the flat description of an architecture, and the proxies asked for; NaN (a gene that isn't active) is a value of its own.
    It learns on the scale of ranks (:class:`~lightning_evo.predictors.genomes.results.Scale`). The standard deviation is
    that of the trees' predictions.

    Args:
        trees: Number of trees (default 100).
        max_features: Share of the features that each split chooses from, in (0, 1] (default 1/3).
        proxies: Zero-cost proxies to use as features: ``naswot``, ``synflow``, ``gradient_norm``, ``params``, ``flops``.
            Default: none.
        max_results: Most results to learn from (default 500), which bounds the cost of a fit: the best half of that
            number, and an even sample of the rest.
        min_results: How many results :meth:`fit` needs (default 10).
        features: A function of your own, or its import path, from a genome (config path -> value) to numbers, always the
            same number of them; it replaces the features of the genes where you know better what matters, such as the
            paths through a cell. Default: none.

    Raises:
        ValueError: A number or name is not accepted.

    Example:
        >>> from lightning_evo.genome import Genome, Uniform
        >>> forest = ForestPredictor().bind(SearchSpace({"x": Uniform(0, 1)}))
        >>> genomes = [Genome({"x": i / 20}) for i in range(20)]
        >>> mean, std = forest.fit(genomes, [g["x"] for g in genomes]).predict(genomes)
        >>> bool(mean[19] > mean[0])
        True
    """

    def __init__(
        self,
        trees: int = 100,
        max_features: float = 1 / 3,
        proxies: Sequence[str] = (),
        max_results: int = 500,
        min_results: int = 10,
        features: OwnFeatures | None = None,
    ) -> None:
        check_at_least("trees", trees, 2)
        check_at_least("min_results", min_results, 2)
        check_at_least("max_results", max_results, min_results)
        if not 0 < max_features <= 1:
            raise ValueError(f"max_features: {max_features!r} is not a share above 0 and at most 1")
        self.trees, self.max_features, self.proxies = trees, max_features, check_proxies(proxies)
        self.max_results, self.min_results, self.features = max_results, min_results, features

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        super().bind(space, seed, measure)
        self._features = Features(space, self.proxies, measure, own=self.features)
        self._forest: list[Any] = []
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        from sklearn.ensemble import ExtraTreesRegressor

        values = check_results(self, genomes, fitness)
        kept = keep(values, self.max_results)
        self._scale = Scale.of(values[kept])
        self._learned = self._features.rows([genomes[i] for i in kept])
        forest = ExtraTreesRegressor(
            self.trees, max_features=self.max_features, bootstrap=True, oob_score=True, random_state=self.seed, n_jobs=1
        )
        targets = self._scale.to(values[kept])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # with few trees a result may be in the bag of every one
            forest.fit(self._prepare(self._learned), targets)
        self._scale = self._scale.learn(targets - forest.oob_prediction_)
        # The trees themselves: scikit-learn's checks around each of them would take most of a prediction's time.
        self._forest = [estimator.tree_ for estimator in forest.estimators_]
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        if not getattr(self, "_forest", []):
            raise not_fitted(self)
        rows = self._prepare(self._features.rows(genomes))
        trees = numpy.stack([tree.predict(rows)[:, 0] for tree in self._forest])
        return self._scale.back(trees.mean(axis=0), trees.std(axis=0))

    def _prepare(self, rows: NDArray[numpy.float64]) -> NDArray[numpy.float32]:
        return fill(rows, self._learned).astype(numpy.float32)
