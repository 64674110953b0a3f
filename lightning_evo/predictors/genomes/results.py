"""The results that a predictor learns from: checked, bounded in number, and on a scale of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Self

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.predictor import Predictor
from lightning_evo.genome import Genome

__all__ = ["Scale", "check_results", "keep", "not_fitted"]

Floats = NDArray[numpy.float64]


def check_results(predictor: Predictor, genomes: Sequence[Genome], fitness: Sequence[float]) -> Floats:
    """Check results and return their fitness as an array.

    Raises:
        ValueError: If there are fewer results than the predictor needs, one is not finite, or the lengths differ.
        RuntimeError: If the predictor was never bound to a space.
    """
    name = type(predictor).__name__
    if not hasattr(predictor, "space"):
        raise RuntimeError(f"{name}.fit: call bind(space) first")
    values = numpy.asarray(fitness, dtype=numpy.float64)
    if values.shape != (len(genomes),):
        raise ValueError(f"{name}.fit: {len(genomes)} genomes have fitness of shape {values.shape}")
    if len(values) < predictor.min_results:
        raise ValueError(f"{name}.fit: {len(values)} results are fewer than min_results {predictor.min_results}")
    if not numpy.isfinite(values).all():
        worst = values[~numpy.isfinite(values)][0]
        raise ValueError(f"{name}.fit: the fitness {worst} is not finite; leave out candidates that failed")
    return values


def keep(fitness: Floats, most: int) -> NDArray[numpy.intp]:
    """Indices of the results to learn from, ascending: all, or the best half of ``most`` and an even sample of the rest.

    The rest is sampled at even distances in the order of fitness, so that the whole range stays covered; among equals
    older results come first.

    >>> keep(numpy.arange(10.0), 4)
    array([0, 7, 8, 9])
    """
    if len(fitness) <= most:
        return numpy.arange(len(fitness))
    order = numpy.argsort(-fitness, kind="stable")
    best, rest = order[: most // 2], order[most // 2 :]
    count = most - len(best)
    sampled = rest[numpy.round(numpy.linspace(0, len(rest) - 1, count)).astype(numpy.intp)]
    return numpy.sort(numpy.concatenate([best, sampled]))


def not_fitted(predictor: Predictor) -> RuntimeError:
    """The error for a prediction before any fit."""
    return RuntimeError(f"{type(predictor).__name__}.predict: call fit first")


@dataclass(frozen=True)
class Scale:
    """The scale on which fitness is learned: normal scores of the ranks.

    Accuracies have a heavy lower tail (trainings that failed, near chance) that would take up most of a squared error, and
    lie close together where they are good, where a search must tell them apart. On this scale a result's value is the
    quantile of the normal distribution at its rank.

    Args:
        fitness: The fitness learned from, ascending, each once.
        scores: Their normal scores, standardized.
        errors: Errors on this scale of predictions of results that were not learned from.

    Source:
        Conover 1999, Practical Nonparametric Statistics, section 5.10, for the scores; Duan 1983, Smearing Estimate: A
        Nonparametric Retransformation Method, for the way back.
    """

    fitness: Floats
    scores: Floats
    errors: Floats

    @classmethod
    def of(cls, fitness: Floats) -> Self:
        """The scale of some results."""
        unique, index, counts = numpy.unique(fitness, return_inverse=True, return_counts=True)
        ranks = counts.cumsum() - counts / 2  # ties share their mean rank
        normal = NormalDist()
        scores = numpy.array([normal.inv_cdf(rank / len(fitness)) for rank in ranks])
        all_scores = scores[index]
        return cls(unique, (scores - all_scores.mean()) / (all_scores.std() or 1.0), numpy.zeros(1))

    def to(self, fitness: Floats) -> Floats:
        """Fitness -> scores, standardized, higher is better."""
        return numpy.interp(fitness, self.fitness, self.scores)

    def learn(self, errors: Floats) -> Self:
        """The same scale with the errors of predictions (true minus predicted; NaN is left out)."""
        known = numpy.sort(errors[numpy.isfinite(errors)])
        # A hundred quantiles represent them all.
        some = known[numpy.unique(numpy.linspace(0, len(known) - 1, 100).astype(int))] if len(known) else numpy.zeros(1)
        return replace(self, errors=some)

    def back(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Convert means and standard deviations on this scale to units of fitness.

        The mean is that of the fitness over all known errors, as the fitness at the mean score isn't the mean fitness; the
        order is kept. The deviation is the upward one, so that ``mean + std`` is the upper bound on this scale: a candidate
        that may be much worse than predicted, but hardly better, isn't worth trying.
        """
        middle = self._fitness(mean)
        return middle, self._fitness(mean + std) - middle

    def _fitness(self, scores: Floats) -> Floats:
        each = scores[:, None] + self.errors
        # Above the best, extrapolate with the slope over the best tenth.
        tenth = max(1, len(self.fitness) // 10)
        steep = 0.0
        if len(self.fitness) > tenth:
            steep = (self.fitness[-1] - self.fitness[-1 - tenth]) / (self.scores[-1] - self.scores[-1 - tenth])
        beyond = numpy.maximum(each - self.scores[-1], 0.0) * steep
        return (numpy.interp(each, self.scores, self.fitness) + beyond).mean(axis=1)
