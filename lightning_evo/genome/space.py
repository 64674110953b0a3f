"""The search space: which genes are active, and how whole genomes are sampled, varied and encoded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from lightning_evo.genome.genes import Gene, Value, identity
from lightning_evo.genome.genome import Genome
from lightning_evo.genome.representation import html_table
from lightning_evo.utils.text import storable

__all__ = ["RATES_OF_RATES", "SearchSpace", "SpaceError"]

RATES_OF_RATES = ""
"""The key under which a genome keeps the rate at which its mutation rates change (``_mu_`` in Gesmundo 2023)."""

DEFAULT_LADDER = tuple(round(0.02 * step, 2) for step in range(1, 16))
"""Mutation rates of Gesmundo 2023, arXiv:2302.02721: 0.02, 0.04, ..., 0.30."""


class SpaceError(ValueError):
    """A search space or genome that cannot be used; the message names config path, value and what is accepted."""


class SearchSpace(Mapping[str, Gene]):
    """Config path -> gene, with conditional genes resolved.

    Args:
        genes: Config path (dotted; list elements by index or class name) -> gene.

    Raises:
        SpaceError: If there is no gene, a key is no path, or a condition names an unknown gene, an impossible value, or goes
            in a circle.

    >>> from lightning_evo.genome import Categorical, Integer
    >>> space = SearchSpace({
    ...     "model.kind": Categorical(["conv", "linear"]),
    ...     "model.kernel": Integer(1, 7, step=2, when={"model.kind": ["conv"]}),
    ... })
    >>> sorted(space.complete({"model.kind": "linear", "model.kernel": 3}, random.Random(0)))
    ['model.kind']
    """

    def __init__(self, genes: Mapping[str, Gene]) -> None:
        if not genes:
            raise SpaceError("the search space is empty: give at least one config path with a gene")
        for path in genes:
            if not isinstance(path, str) or not path.strip() or "\0" in path:
                raise SpaceError(f"{path!r} is not a config path, such as model.init_args.lr")
        for path in genes:
            if storable(path) != path:
                raise SpaceError(f"{storable(path)}: a gene's name is no Unicode text, or contains NUL")
        self._genes = dict(genes)
        self._order = self._resolve_order()

    # -- mapping -------------------------------------------------------------------------------------------------------

    def __getitem__(self, path: str) -> Gene:
        return self._genes[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._genes)

    def __len__(self) -> int:
        return len(self._genes)

    def __repr__(self) -> str:
        return f"SearchSpace({self._genes!r})"

    def _repr_html_(self) -> str:
        return html_table(["gene", "values"], [(path, repr(gene)) for path, gene in self._genes.items()])

    # -- making and changing genomes -----------------------------------------------------------------------------------

    def active(self, path: str, values: Mapping[str, Value]) -> bool:
        """Whether the gene at ``path`` is switched on by ``values`` (which must hold the genes it depends on)."""
        return all(
            parent in values
            and self.active(parent, values)
            and any(identity(values[parent]) == identity(v) for v in on)
            for parent, on in self._genes[path].when.items()
        )

    def sample(self, rng: random.Random) -> Genome:
        """A genome drawn from the whole space."""
        return self.complete({}, rng)

    def complete(
        self, values: Mapping[str, Value], rng: random.Random, rates: Mapping[str, float] | None = None
    ) -> Genome:
        """Make a genome of ``values``: inactive genes dropped, active genes that have no value sampled."""
        kept: dict[str, Value] = {}
        for path in self._order:
            if self.active(path, kept):
                kept[path] = values[path] if path in values else self._genes[path].sample(rng)
        return Genome({path: kept[path] for path in self._genes if path in kept}, rates)

    def mutate(self, genome: Genome, rng: random.Random, rate: float | None = None) -> Genome:
        """Mutate each active gene with probability ``rate``; one gene at random where that changed nothing.

        Args:
            genome: The parent.
            rng: Source of all randomness.
            rate: Probability per gene; default one gene in the number of active genes.

        Returns:
            A child that differs from the parent wherever the space allows it.
        """
        rate = 1 / len(genome) if rate is None else rate
        child = self._mutate_at(genome, [path for path in genome if rng.random() < rate], rng, genome.rates)
        for path in rng.sample(list(genome), len(genome)):
            if child != genome:
                break
            child = self._mutate_at(genome, [path], rng, genome.rates)
        return child

    def mutate_self_adaptive(
        self,
        genome: Genome,
        rng: random.Random,
        initial: float = 0.2,
        ladder: Sequence[float] = DEFAULT_LADDER,
    ) -> Genome:
        """Mutate each active gene at the rate the genome itself carries for it; the rates mutate too.

        The rule of Gesmundo 2023 (``_mu_``, https://arxiv.org/abs/2302.02721): with the probability that the genome
        keeps under ``""``, a gene's rate first steps to a neighbor on ``ladder``; then the gene mutates with its rate.
        The rate of rates is itself such a gene and steps along the same ladder. A child may equal its parent; the
        algorithm then breeds again.

        Args:
            genome: The parent; rates it doesn't carry yet start at ``initial``.
            rng: Source of all randomness.
            initial: Rate of a gene that has none yet.
            ladder: The rates that exist, ascending; each in (0, 1].
        """
        rates = dict(genome.rates)
        rate_of_rates = rates.setdefault(RATES_OF_RATES, initial)
        hit = []
        for path in [RATES_OF_RATES, *genome]:
            # A key of its own for the rate at which the rate of rates mutates: "" has a rate like every gene.
            key = path or f"{RATES_OF_RATES}."
            rates.setdefault(key, rate_of_rates)
            if rng.random() < rate_of_rates:
                rates[key] = _ladder_step(rates[key], ladder, rng)
            if rng.random() < rates[key]:
                if path == RATES_OF_RATES:
                    rates[RATES_OF_RATES] = _ladder_step(rate_of_rates, ladder, rng)
                else:
                    hit.append(path)
        return self._mutate_at(genome, hit, rng, rates)

    def crossover(self, first: Genome, second: Genome, rng: random.Random, swap: float = 0.5) -> tuple[Genome, Genome]:
        """Uniform crossover: each gene that both parents have swaps with probability ``swap``.

        A gene that recombines within itself (:class:`~lightning_evo.genome.Bitstring`) does so as well. A gene only one
        parent has goes along with the gene that switches it on.
        """
        return self.crossover_within(first, second, rng, lambda gene, a, b: gene.crossover(a, b, rng), swap)

    def crossover_within(
        self,
        first: Genome,
        second: Genome,
        rng: random.Random,
        within: Callable[[Gene, Value, Value], tuple[Value, Value]],
        swap: float = 0.5,
    ) -> tuple[Genome, Genome]:
        """:meth:`crossover` where ``within`` says how a gene recombines: (gene, value, value) -> two values."""
        one, two = dict(first), dict(second)
        rates_one, rates_two = dict(first.rates), dict(second.rates)
        for path in self._order:
            if path in first and path in second:
                one[path], two[path] = within(self._genes[path], one[path], two[path])
            if rng.random() < swap:
                for a, b in ((one, two), (rates_one, rates_two)):
                    _swap(a, b, path)
        # A child lacks a value where it now has the switch of one parent and the absent gene of the other: take what
        # the parents have before drawing anew.
        for child in (one, two):
            for path in self._order:
                if path not in child:
                    source = first if path in first else second
                    if path in source:
                        child[path] = source[path]
        return self.complete(one, rng, rates_one), self.complete(two, rng, rates_two)

    def _mutate_at(
        self, genome: Genome, paths: Sequence[str], rng: random.Random, rates: Mapping[str, float]
    ) -> Genome:
        changed = {path: self._genes[path].mutate(genome[path], rng) for path in paths}
        return self.complete({**genome, **changed}, rng, rates)

    # -- checking ------------------------------------------------------------------------------------------------------

    def validate(self, genome: Mapping[str, Value]) -> None:
        """Raise :class:`SpaceError` unless ``genome`` holds a value in range for exactly the active genes."""
        for path in genome:
            if path not in self._genes:
                raise SpaceError(f"{path}: not in the search space, which has {', '.join(self._genes)}")
            if not self.active(path, genome):
                raise SpaceError(
                    f"{path}: has the value {genome[path]!r} although {self._genes[path].when} does not hold"
                )
        for path in self._order:
            if self.active(path, genome):
                if path not in genome:
                    raise SpaceError(f"{path}: has no value")
                try:
                    self._genes[path].validate(genome[path])
                except ValueError as error:
                    raise SpaceError(f"{path}: {error}") from None

    def phenotype(self, genome: Mapping[str, Value]) -> str:
        """A text that is equal for genomes known to build the same network (see ``Gene.canonical``)."""
        return identity({path: self._genes[path].canonical(value) for path, value in genome.items()})

    def differences(self, first: Mapping[str, Value], second: Mapping[str, Value]) -> list[str]:
        """Config paths at which two genomes differ; inactive genes don't count."""
        return [
            path
            for path in self._genes
            if (path in first) != (path in second)
            or (path in first and identity(first[path]) != identity(second[path]))
        ]

    # -- encoding ------------------------------------------------------------------------------------------------------

    def encode(self, genome: Mapping[str, Value], one_hot: bool = False, inactive: float = 0.0) -> list[float]:
        """The genome as a fixed number of numbers in [0, 1].

        Args:
            genome: What to encode.
            one_hot: Give unordered values a column each; default: their index.
            inactive: What stands in the columns of a gene that is not active (NaN suits tree models).

        Returns:
            One number per name in :meth:`columns`.
        """
        row: list[float] = []
        for path, gene in self._genes.items():
            width = gene.one_hot_width if one_hot else gene.width
            if path not in genome:
                row.extend([inactive] * width)
            else:
                row.extend(gene.one_hot(genome[path]) if one_hot else gene.encode(genome[path]))
        return row

    def features(
        self, genome: Mapping[str, Value], inactive: float = math.nan, paths: Sequence[str] | None = None
    ) -> list[float]:
        """What a predictor should know of the genome, one number per name in :meth:`feature_names`.

        Args:
            genome: What to describe.
            inactive: What stands for a gene that is not active (default NaN, which tree models take as it is).
            paths: Of which genes; default: all.
        """
        row: list[float] = []
        for path in self._genes if paths is None else paths:
            gene = self._genes[path]
            row.extend(gene.features(genome[path]) if path in genome else [inactive] * len(gene.feature_names))
        return row

    def feature_names(self, paths: Sequence[str] | None = None) -> list[str]:
        """Names of the numbers :meth:`features` gives: the config path, with the gene's own name in brackets."""
        chosen = self._genes if paths is None else paths
        return [f"{path}[{name}]" if name else path for path in chosen for name in self._genes[path].feature_names]

    def decode(self, numbers: Sequence[float], rng: random.Random) -> Genome:
        """The genome nearest to ``numbers`` (the order of :meth:`encode` without one-hot)."""
        values, at = {}, 0
        for path, gene in self._genes.items():
            values[path] = gene.decode(numbers[at : at + gene.width])
            at += gene.width
        return self.complete(values, rng)

    def columns(self, one_hot: bool = False) -> list[str]:
        """Names of the numbers :meth:`encode` gives: the config path, with an index where a gene has several."""
        names: list[str] = []
        for path, gene in self._genes.items():
            width = gene.one_hot_width if one_hot else gene.width
            names.extend([path] if width == 1 else [f"{path}[{i}]" for i in range(width)])
        return names

    def _resolve_order(self) -> list[str]:
        """The paths with every gene after those it depends on."""
        order: list[str] = []
        visiting: list[str] = []

        def visit(path: str) -> None:
            if path in order:
                return
            if path in visiting:
                raise SpaceError(f"{path}: its conditions form a cycle: {' -> '.join([*visiting, path])}")
            visiting.append(path)
            for parent, accepted in self._genes[path].when.items():
                if parent not in self._genes:
                    raise SpaceError(
                        f"{path}.when: {parent!r} is not a gene of this space, which has {list(self._genes)}"
                    )
                for value in accepted:
                    try:
                        self._genes[parent].validate(value)
                    except ValueError as error:
                        raise SpaceError(f"{path}.when.{parent}: {error}") from None
                visit(parent)
            visiting.pop()
            order.append(path)

        for path in self._genes:
            visit(path)
        return order


def _swap(first: dict, second: dict, key: str) -> None:
    """Exchange what two mappings hold under ``key``, absence included."""
    one, two = first.pop(key, _ABSENT), second.pop(key, _ABSENT)
    if two is not _ABSENT:
        first[key] = two
    if one is not _ABSENT:
        second[key] = one


_ABSENT = object()


def _ladder_step(rate: float, ladder: Sequence[float], rng: random.Random) -> float:
    """One step up or down the ladder from the rung nearest to ``rate``, staying at the ends (clamped)."""
    at = min(range(len(ladder)), key=lambda i: abs(ladder[i] - rate))
    return ladder[min(len(ladder) - 1, max(0, at + rng.choice((-1, 1))))]
