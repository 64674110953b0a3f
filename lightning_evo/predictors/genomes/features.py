"""Genomes as rows of numbers: the genes' features, counts over genes with the same choices, and zero-cost proxies."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy
from numpy.typing import NDArray

from lightning_evo.algorithms.predictor import Measure
from lightning_evo.genome import Categorical, Genome, SearchSpace, Value
from lightning_evo.genome.genes import identity

__all__ = ["PROXIES", "Features", "OwnFeatures", "check_proxies", "fill", "proxy_features", "remember"]

PROXIES = ("naswot", "synflow", "gradient_norm", "params", "flops")
"""What can be measured of an untrained candidate; :mod:`lightning_evo.functional.zero_cost` describes each."""

_LOGARITHMS = ("synflow", "gradient_norm", "params", "flops")
"""Proxies that span orders of magnitude. The log-determinant of ``naswot`` is a logarithm already."""

T = TypeVar("T")

OwnFeatures = Callable[[Mapping[str, Any]], Sequence[float]]
"""A function from a genome to numbers, always the same number of them."""


class Features:
    """Genomes as rows of numbers; NaN where a gene is not active or a proxy could not be measured.

    A row has

    - the features of every gene (:meth:`SearchSpace.features <lightning_evo.SearchSpace.features>`);
    - where several genes of unordered values have the same choices (the edges of a cell), the number of them that take
      each choice: a few results already tell how good a choice is wherever it occurs;
    - the zero-cost proxies, if any (see :func:`~lightning_evo.predictors.genomes.features.proxy_features`).

    The last 20,000 rows are cached, as all results are read again at every refit.

    Args:
        space: The search space.
        proxies: Names of proxies.
        measure: Measures the proxies.
        paths: The genes to use (default: all).
        own: The user's own features of a genome, always the same number; they replace those of the genes and the counts.

    Raises:
        ValueError: If ``own`` returns anything but numbers, or not always the same number of them.
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
            self._own_width = len(self._own_features(space.sample(random.Random(0))))
        self._groups = _same_choices(space, self.paths)
        self._rows: dict[Genome, NDArray[numpy.float64]] = {}
        self.names = space.feature_names(self.paths)
        self.names += [f"{_name(own)}[{i}]" for i in range(self._own_width)]
        for genes in self._groups:
            self.names += [f"count of {choice!r}" for choice in _choices(genes)]
        self.names += self.proxies

    def rows(self, genomes: Sequence[Genome]) -> NDArray[numpy.float64]:
        """One row per genome, one column per name in :attr:`names`."""
        rows = {genome: self._rows[genome] for genome in genomes if genome in self._rows}
        new = list(dict.fromkeys(genome for genome in genomes if genome not in rows))
        measured = self.measure(new) if new and self.proxies and self.measure is not None else [{}] * len(new)
        for genome, values in zip(new, measured, strict=True):
            own = [] if self._own is None else self._own_features(genome)
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
        """Columns that belong together: the one-hot columns of a gene, its bits, the counts of a group."""
        groups, at = [], 0
        for path in self.paths:
            gene = self.space[path]
            width = len(gene.feature_names)
            columns = list(range(at, at + width))
            # Features of a gene beyond its encoding are independent of each other.
            groups += [columns] if width == gene.one_hot_width else [[column] for column in columns]
            at += width
        groups += [[at + i] for i in range(self._own_width)]
        at += self._own_width
        for genes in self._groups:
            width = len(_choices(genes))
            groups.append(list(range(at, at + width)))
            at += width
        return groups + [[at + i] for i in range(len(self.proxies))]

    def _own_features(self, genome: Genome) -> list[float]:
        assert self._own is not None
        try:
            row = [float(number) for number in self._own(genome)]
        except Exception as error:
            raise ValueError(f"features: {_name(self._own)} fails on {genome}: {error}") from error
        if self._own_width and len(row) != self._own_width:
            raise ValueError(
                f"features: {_name(self._own)} returns {len(row)} numbers for {genome}, but {self._own_width} for others"
            )
        return row

    def _counts(self, genome: Genome) -> list[float]:
        counts: list[float] = []
        for genes in self._groups:
            group = [0.0] * len(_choices(genes))
            for path, gene in genes.items():
                if path in genome:
                    group[gene.index(genome[path])] += 1.0
            counts += group
        return counts


def check_proxies(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names, each once.

    Raises:
        ValueError: If one isn't a proxy.
    """
    if isinstance(names, str):
        raise ValueError(f"proxies: {names!r} is not a list of names among {', '.join(PROXIES)}")
    for name in names:
        if name not in PROXIES:
            raise ValueError(f"proxies: {name!r} is not one of {', '.join(PROXIES)}")
    return tuple(dict.fromkeys(names))


def proxy_features(values: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """The proxies as numbers of similar size: logarithms of those that span orders of magnitude; NaN stays.

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


def fill(rows: NDArray[numpy.float64], learned: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """Replace NaN by a number below all others of its column, which every tree can split off.

    Args:
        rows: (n, columns).
        learned: The rows learned from, which determine those numbers.
    """
    finite = numpy.where(numpy.isfinite(learned), learned, math.inf)
    lowest = finite.min(axis=0, initial=math.inf)
    return numpy.where(numpy.isfinite(rows), rows, numpy.where(numpy.isfinite(lowest), lowest - 1.0, 0.0))


def remember(store: dict[Genome, T], genome: Genome, value: T, most: int = 20_000) -> None:
    """Cache a value, and drop the oldest beyond ``most``: children outnumber results by far."""
    store[genome] = value
    if len(store) > most:
        del store[next(iter(store))]


def _name(function: object) -> str:
    return getattr(function, "__name__", repr(function))


def _same_choices(space: SearchSpace, paths: Sequence[str]) -> list[dict[str, Categorical]]:
    """Groups of two or more unordered genes with the same choices, each by path."""
    groups: dict[str, dict[str, Categorical]] = {}
    for path in paths:
        gene = space[path]
        if isinstance(gene, Categorical):
            groups.setdefault(identity(gene.choices), {})[path] = gene
    return [genes for genes in groups.values() if len(genes) > 1]


def _choices(genes: Mapping[str, Categorical]) -> list[Value]:
    return next(iter(genes.values())).choices
