"""What must a predictor be able to do, so that any algorithm can use it? Fit results, and predict with an uncertainty."""

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
    """Learns fitness from genomes; higher is better (hand in the negative of what is to be minimised).

    The predictors that ship are in :mod:`lightning_evo.predictors`; an algorithm is handed one. A user's own implements
    :meth:`fit` and :meth:`predict`. :meth:`fit` starts afresh every time and is decided by its arguments and
    :attr:`seed` alone, or a resumed search would not equal an undisturbed one. It runs in the controller, on the CPU.

    Constructor arguments are kept under their own names, by which two searches are compared.
    """

    min_results: int = 10
    """How many results :meth:`fit` needs at least."""
    proxies: Sequence[str] = ()
    """Names of the zero-cost proxies it wants measured (see :attr:`measure`); none by default."""

    space: SearchSpace
    seed: int
    measure: Measure | None = None
    """Measures :attr:`proxies` of genomes; ``None`` where nothing can be built (a plain function is searched)."""

    def bind(self, space: SearchSpace, seed: int = 0, measure: Measure | None = None) -> Self:
        """Set the search space, the seed of everything random, and what measures proxies; forget what was learned.

        Raises:
            ValueError: If it can do nothing with such a space, or needs proxies and there is no ``measure``.
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
            genomes: What was trained, each once, in the order of their results.
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
            RuntimeError: If nothing was learned yet.
        """
