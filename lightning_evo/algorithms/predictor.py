"""The contract of predictors of fitness, which any algorithm can use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy
from numpy.typing import NDArray

from lightning_evo.genome import Genome, SearchSpace

__all__ = ["Measure", "Predictor"]

Measure = Callable[[Sequence[Genome]], Sequence[Mapping[str, float]]]
"""Measures zero-cost proxies: genomes -> for each, every proxy by name, NaN where it could not be measured."""


class Predictor(ABC):
    """Learns fitness from genomes; higher is better (hand in the negative of what is to be minimized).

    :mod:`lightning_evo.predictors` has several. One of your own implements :meth:`fit` and :meth:`predict`. :meth:`fit`
    starts afresh every time, and its arguments and :attr:`seed` alone must determine its result, or a resumed search would
    differ from an uninterrupted one. It runs in the controller, on the CPU.

    Keep constructor arguments under their own names: two searches are compared by them.
    """

    min_results: int = 10
    """The fewest results that :meth:`fit` accepts."""
    proxies: Sequence[str] = ()
    """Names of the zero-cost proxies that it needs (see :attr:`measure`); none by default."""

    space: SearchSpace
    seed: int
    measure: Measure | None = None
    """Measures :attr:`proxies` of genomes; ``None`` where no network can be built, as in the search of a plain function."""

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        """Set the search space, the seed and the measure of proxies, and forget what was learned.

        Raises:
            ValueError: If it doesn't support the space, or needs proxies and there is no ``measure``.
        """
        self.space, self.seed, self.measure = space, seed, measure
        if self.proxies and measure is None:
            raise ValueError(
                f"{type(self).__name__} needs zero-cost proxies ({', '.join(self.proxies)}), and nothing measures them here"
            )
        return self

    @abstractmethod
    def fit(self, genomes: Sequence[Genome], fitness: Sequence[float]) -> Self:
        """Learn from finished candidates, forgetting what was learned before.

        Args:
            genomes: The genomes, each once, in the order of their results.
            fitness: Finite numbers, higher is better.

        Raises:
            ValueError: If there are fewer than :attr:`min_results`.
        """

    @abstractmethod
    def predict(self, genomes: Sequence[Genome]) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64]]:
        """Predict the fitness of each genome.

        Returns:
            Means and standard deviations, each of shape (number of genomes,), in units of the fitness.

        Raises:
            RuntimeError: Before :meth:`fit`.
        """
