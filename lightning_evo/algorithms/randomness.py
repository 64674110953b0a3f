"""Random streams derived from the seed, which leave the global random states unchanged."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy

from lightning_evo.genome import derive_seed
from lightning_evo.utils.random_state import preserved_random_state

__all__ = ["streams"]


@contextmanager
def streams(rng: random.Random, *parts: object) -> Iterator[None]:
    """Seed ``rng``, Python's global ``random`` and NumPy's global state from ``parts``; restore the globals afterwards.

    DEAP's operators draw from the global ones. They are shared by all threads, so breed in one thread. The three
    streams differ: with one seed for all, the choice of a parent and of the gene that mutates would be correlated.
    """
    with preserved_random_state():
        rng.seed(derive_seed(*parts))
        random.seed(derive_seed(*parts, "random"))
        numpy.random.seed(derive_seed(*parts, "numpy"))
        yield
