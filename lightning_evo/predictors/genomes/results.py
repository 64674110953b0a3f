"""Which results does a predictor learn from, and on which scale? Checked, bounded in number, stretched where it matters."""

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
    """The fitness as an array.

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
        raise ValueError(f"{name}.fit: the fitness {worst} is not finite; leave failed candidates out")
    return values


def keep(fitness: Floats, most: int) -> NDArray[numpy.intp]:
    """Indices of the results to learn from, ascending: all, or the best half of ``most`` and an even sample of the rest.

    The rest is sampled at even distances in the order of fitness, so that the whole range stays known; ties are
    decided by age.

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
    """The error of a prediction before anything was learned."""
    return RuntimeError(f"{type(predictor).__name__}.predict: call fit first")


@dataclass(frozen=True)
class Scale:
    """The scale on which fitness is learned: normal scores, by rank.

    Accuracies have a heavy lower tail (trainings that failed, near chance) that would take up most of a squared error, and
    lie close together where they are good, where a search must tell them apart. On this scale a result's value is the
    quantile of the normal distribution at its rank.

    Args:
        fitness: The fitness learned from, ascending, each once.
        scores: Their normal scores, standardised.
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
        ranks = counts.cumsum() - counts / 2  # ties share the middle of theirs
        normal = NormalDist()
        scores = numpy.array([normal.inv_cdf(rank / len(fitness)) for rank in ranks])
        all_scores = scores[index]
        return cls(unique, (scores - all_scores.mean()) / (all_scores.std() or 1.0), numpy.zeros(1))

    def to(self, fitness: Floats) -> Floats:
        """Fitness -> scores, standardised, higher is better."""
        return numpy.interp(fitness, self.fitness, self.scores)

    def learn(self, errors: Floats) -> Self:
        """The same scale, which knows how far off predictions are (true less predicted; NaN is left out)."""
        known = numpy.sort(errors[numpy.isfinite(errors)])
        # A hundred of them say as much as all.
        some = known[numpy.unique(numpy.linspace(0, len(known) - 1, 100).astype(int))] if len(known) else numpy.zeros(1)
        return replace(self, errors=some)

    def back(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations on this scale -> in units of fitness.

        A mean is that of the fitness over all known errors: the fitness in the middle of the scores is not the mean of the
        fitness. The order stays. The deviation is the upward one, so that an upper bound ``mean + std`` is that of this
        scale: what may be much worse than predicted, but hardly better, isn't worth a try.
        """
        middle = self._fitness(mean)
        return middle, self._fitness(mean + std) - middle

    def _fitness(self, scores: Floats) -> Floats:
        each = scores[:, None] + self.errors
        # Above the best it goes on as steeply as over the best tenth.
        tenth = max(1, len(self.fitness) // 10)
        steep = 0.0
        if len(self.fitness) > tenth:
            steep = (self.fitness[-1] - self.fitness[-1 - tenth]) / (self.scores[-1] - self.scores[-1 - tenth])
        beyond = numpy.maximum(each - self.scores[-1], 0.0) * steep
        return (numpy.interp(each, self.scores, self.fitness) + beyond).mean(axis=1)
