"""Which results does a predictor learn from, and on which scale? Checked, bounded in number, stretched where it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    """The scale on which fitness is learned: logarithmic in the distance to the best.

    Accuracies have a heavy lower tail (trainings that failed, near chance) that would take up most of a squared error,
    while a search must tell good candidates apart. On this scale a candidate's value is ``-log(margin + best - fitness)``,
    the margin being :attr:`MARGIN` times the distance of the best from the median, and standardised.

    Args:
        best: The best fitness learned from.
        margin: What keeps the best itself finite.
        mean: Of the logarithms.
        std: Of the logarithms.
        errors: Errors on this scale of predictions of results that were not learned from.

    Source:
        Duan 1983, Smearing Estimate: A Nonparametric Retransformation Method, for the way back.
    """

    best: float
    margin: float
    mean: float
    std: float
    errors: tuple[float, ...] = (0.0,)

    MARGIN = 0.1

    @classmethod
    def of(cls, fitness: Floats) -> Self:
        """The scale of some results."""
        best = float(fitness.max())
        distance = best - float(numpy.median(fitness)) or best - float(fitness.min())
        margin = cls.MARGIN * distance if distance > 0 else 1.0
        logarithms = -numpy.log(margin + best - fitness)
        return cls(best, margin, float(logarithms.mean()), float(logarithms.std()) or 1.0)

    def to(self, fitness: Floats) -> Floats:
        """Fitness -> standardised numbers, higher is better."""
        return (-numpy.log(self.margin + self.best - fitness) - self.mean) / self.std

    def learn(self, errors: Floats) -> Self:
        """The same scale, which knows how far off predictions are (true less predicted; NaN is left out)."""
        known = numpy.sort(errors[numpy.isfinite(errors)])
        # A hundred of them say as much as all.
        some = known[numpy.unique(numpy.linspace(0, len(known) - 1, 100).astype(int))] if len(known) else [0.0]
        return replace(self, errors=tuple(float(error) for error in some))

    def back(self, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations on this scale -> in units of fitness.

        A mean is that of the fitness over all known errors: what lies in the middle of a logarithmic scale is not the mean
        of what it stands for. The order stays. The deviation is the upward one, so that an upper bound ``mean + std`` is
        that of this scale: what may be much worse than predicted, but hardly better, isn't worth a try.
        """
        middle = self._fitness(mean)
        return middle, self._fitness(mean + std) - middle

    def _fitness(self, scaled: Floats) -> Floats:
        logarithms = (scaled[:, None] + numpy.array(self.errors)) * self.std + self.mean
        return self.best + self.margin - numpy.exp(numpy.clip(-logarithms, -700, 700)).mean(axis=1)
