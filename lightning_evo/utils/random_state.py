"""Isolation of Python's and NumPy's global random states; ``random_state_torch`` adds torch's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy

__all__ = ["preserved_random_state"]


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Put the global random states of ``random`` and NumPy back at the end of the block.

    They are shared by all threads.
    """
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
