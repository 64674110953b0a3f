"""What does a predictor see of a genome? A row of numbers: its genes' features, counts over like genes, proxies."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.predictor import Measure
from lightning_evo.genome import Categorical, Genome, SearchSpace
from lightning_evo.genome.genes import identity

__all__ = ["PROXIES", "Features", "OwnFeatures", "check_proxies", "fill", "proxy_features", "remember"]

# -- Which zero-cost proxies are there, and how do their values become features? --

PROXIES = ("naswot", "synflow", "gradient_norm", "params", "flops")
"""What can be measured of an untrained candidate; what each means is said in :mod:`lightning_evo.functional.zero_cost`."""

_LOGARITHMS = ("synflow", "gradient_norm", "params", "flops")
"""Proxies that spread over orders of magnitude. The log-determinant of ``naswot`` is a logarithm already."""


def check_proxies(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: If one isn't a proxy.
    """
    if isinstance(names, str):
        raise ValueError(f"proxies {names!r} is not a list of names among {', '.join(PROXIES)}")
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"proxies: {name!r} is none of {', '.join(PROXIES)}")
    return tuple(dict.fromkeys(names))


def proxy_features(values: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The proxies as numbers of similar size: logarithms of those that spread over orders of magnitude; NaN stays.

    >>> proxy_features({"params": 999.0, "naswot": 12.5}, ["params", "naswot"])
    [6.907755278982137, 12.5]
    """
    row = []
    for name in names:
        value = float(values.get(name, math.nan))
        if not math.isfinite(value):
            row.append(math.nan)
        else:
            row.append(math.log1p(value) if name in _LOGARITHMS and value >= 0 else value)
    return row


T = TypeVar("T")

OwnFeatures = Callable[[Mapping[str, Any]], Sequence[float]]
"""From a genome to numbers, always as many."""


class Features:
    """Genomes as rows of numbers; NaN where a gene is not active or a proxy could not be measured.

    A row has

    - the features of every gene (:meth:`SearchSpace.features <lightning_evo.SearchSpace.features>`);
    - where several genes of unordered values have the same choices (the edges of a cell): how many of them take each
      choice, from which a few results already tell how good a choice is wherever it stands;
    - the zero-cost proxies, if any (see :func:`~lightning_evo.predictors.genomes.features.proxy_features`).

    What was computed is remembered, the last 20,000 rows: an archive is read at every refit.

    Args:
        space: The search space.
        proxies: Names of proxies.
        measure: What measures them.
        paths: Which genes; default: all.
        own: The user's own features of a genome, always as many; they take the place of the genes' and of the counts.

    Raises:
        ValueError: If ``own`` gives what isn't a row of numbers, or not always as many.
    """

    def __init__(
        self,
        space: SearchSpace,
        proxies: Sequence[str] = (),
        measure: Measure | None = None,
        paths: Sequence[str] | None = None,
        own: OwnFeatures | None = None,
    ) -> None:
        self.space, self.proxies, self.measure = space, tuple(proxies), measure
        self.paths = list(space) if paths is None else list(paths)
        self._own, self._own_width = own, 0
        if own is not None:
            self.paths = []
            self._own_width = len(self._owned(space.sample(random.Random(0))))
        self._alike = _alike(space, self.paths)
        self._rows: dict[Genome, NDArray[numpy.float64]] = {}
        self.names = space.feature_names(self.paths)
        self.names += [f"{_name(own)}[{i}]" for i in range(self._own_width)]
        for paths in self._alike:
            self.names += [f"count of {choice!r}" for choice in space[paths[0]].choices]  # type: ignore[attr-defined]
        self.names += self.proxies

    def rows(self, genomes: Sequence[Genome]) -> NDArray[numpy.float64]:
        """One row per genome, one column per name in :attr:`names`."""
        rows = {genome: self._rows[genome] for genome in genomes if genome in self._rows}
        new = list(dict.fromkeys(genome for genome in genomes if genome not in rows))
        measured = self.measure(new) if new and self.proxies and self.measure is not None else [{}] * len(new)
        for genome, values in zip(new, measured, strict=True):
            own = [] if self._own is None else self._owned(genome)
            row = [
                *self.space.features(genome, paths=self.paths),
                *own,
                *self._counts(genome),
                *proxy_features(values, self.proxies),
            ]
            rows[genome] = numpy.array(row, dtype=numpy.float64)
            remember(self._rows, genome, rows[genome])
        return numpy.array([rows[genome] for genome in genomes]).reshape(-1, len(self.names))

    def groups(self) -> list[list[int]]:
        """Columns that only mean something together: the one-hot columns of a gene, its bits, the counts of a group."""
        groups, at = [], 0
        for path in self.paths:
            gene = self.space[path]
            width = len(gene.feature_names)
            columns = list(range(at, at + width))
            # Whatever a gene says of itself beyond its encoding stands for itself, column by column.
            groups += [columns] if width == gene.one_hot_width else [[column] for column in columns]
            at += width
        groups += [[at + i] for i in range(self._own_width)]
        at += self._own_width
        for paths in self._alike:
            width = len(self.space[paths[0]].choices)  # type: ignore[attr-defined]
            groups.append(list(range(at, at + width)))
            at += width
        return groups + [[at + i] for i in range(len(self.proxies))]

    def _owned(self, genome: Genome) -> list[float]:
        assert self._own is not None
        try:
            row = [float(number) for number in self._own(genome)]
        except Exception as error:
            raise ValueError(f"features: {_name(self._own)} fails on {genome}: {error}") from error
        if self._own_width and len(row) != self._own_width:
            raise ValueError(
                f"features: {_name(self._own)} gives {len(row)} numbers for {genome}, and gave {self._own_width} before"
            )
        return row

    def _counts(self, genome: Genome) -> list[float]:
        counts: list[float] = []
        for paths in self._alike:
            group = [0.0] * len(self.space[paths[0]].choices)  # type: ignore[attr-defined]
            for path in paths:
                if path in genome:
                    group[self.space[path].index(genome[path])] += 1.0  # type: ignore[attr-defined]
            counts += group
        return counts


def fill(rows: NDArray[numpy.float64], learned: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """``rows`` with a number below all others of its column in place of NaN, which every tree can split off.

    Args:
        rows: (n, columns).
        learned: The rows learned from, which decide the numbers.
    """
    finite = numpy.where(numpy.isfinite(learned), learned, math.inf)
    lowest = finite.min(axis=0, initial=math.inf)
    return numpy.where(numpy.isfinite(rows), rows, numpy.where(numpy.isfinite(lowest), lowest - 1.0, 0.0))


def remember(store: dict[Genome, T], genome: Genome, value: T, most: int = 20_000) -> None:
    """Keep a value, and forget the oldest where there are more than ``most``: children outnumber results by far."""
    store[genome] = value
    if len(store) > most:
        del store[next(iter(store))]


def _name(function: object) -> str:
    return getattr(function, "__name__", repr(function))


def _alike(space: SearchSpace, paths: Sequence[str]) -> list[list[str]]:
    """Paths of unordered genes with the same choices, two or more."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        gene = space[path]
        if isinstance(gene, Categorical):
            groups.setdefault(identity(gene.choices), []).append(path)
    return [paths for paths in groups.values() if len(paths) > 1]
