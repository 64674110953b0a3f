"""The mean of several predictors of the fitness, with more uncertainty where they disagree."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.predictor import Measure, Predictor
from lightning_evo.genome import Genome, SearchSpace, SequenceGene, derive_seed
from lightning_evo.predictors.genomes.forest import ForestPredictor
from lightning_evo.predictors.genomes.gaussian_process import GaussianProcessPredictor
from lightning_evo.predictors.genomes.results import check_results, not_fitted

__all__ = ["EnsemblePredictor"]


class EnsemblePredictor(Predictor):
    """The mean of several predictors, each with the same weight.

    The variance is the mean of the members' variances and the variance between their means.

    Args:
        members: The predictors. Default: :class:`~lightning_evo.predictors.ForestPredictor` and
            :class:`~lightning_evo.predictors.LSTMPredictor` where the space has a gene that is a sequence
            (:class:`~lightning_evo.genome.Layers`), the forest and
            :class:`~lightning_evo.predictors.GaussianProcessPredictor` elsewhere.

    Raises:
        ValueError: If there is no member; from :meth:`bind` if a member doesn't support the space.
    """

    def __init__(self, members: list[Predictor] | None = None) -> None:
        if members is not None and not members:
            raise ValueError("members: [] is not a list of at least one predictor; leave it out for the default")
        self.members = members
        self.proxies = tuple(dict.fromkeys(proxy for member in members or () for proxy in member.proxies))
        self.min_results = max((member.min_results for member in members or ()), default=20)

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        super().bind(space, seed, measure)
        members = self.members if self.members is not None else _default_members(space)
        self._bound = [
            copy.deepcopy(member).bind(space, derive_seed(seed, "member", i), measure if member.proxies else None)
            for i, member in enumerate(members)
        ]
        self.min_results = max(member.min_results for member in self._bound)
        self._fitted = False
        return self

    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        check_results(self, genomes, fitness)
        for member in self._bound:
            member.fit(genomes, fitness)
        self._fitted = True
        return self

    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        if not getattr(self, "_fitted", False):
            raise not_fitted(self)
        answers = [member.predict(genomes) for member in self._bound]
        means, stds = (numpy.stack(column) for column in zip(*answers, strict=True))
        return means.mean(axis=0), numpy.sqrt((stds**2).mean(axis=0) + means.var(axis=0))


def _default_members(space: SearchSpace) -> list[Predictor]:
    if any(isinstance(gene, SequenceGene) for gene in space.values()):
        from lightning_evo.predictors.genomes.lstm import LSTMPredictor  # needs torch

        return [ForestPredictor(), LSTMPredictor()]
    return [ForestPredictor(), GaussianProcessPredictor()]
