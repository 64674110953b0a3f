"""Random genes, search spaces with conditions, and genomes, for property tests."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st

from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    Gene,
    Genome,
    Integer,
    LogUniform,
    Ordinal,
    SearchSpace,
    Uniform,
)

JSON_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)


def finite_genes(when: dict | None = None) -> st.SearchStrategy[Gene]:
    """Genes with few values, on which others can depend."""
    choices = st.lists(JSON_VALUES, min_size=1, max_size=4, unique_by=repr)
    return st.one_of(
        choices.map(lambda c: Categorical(c, when=when)),
        choices.map(lambda c: Ordinal(c, when=when)),
        st.just(Boolean(when=when)),
    )


@st.composite
def integers(draw: st.DrawFn, when: dict | None = None) -> Integer:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -50, 200))
    high = low + draw(st.integers(0, 2000))
    step = draw(st.integers(1, 7))
    return Integer(low, high, step=step, log=log, mutation=draw(st.floats(0.001, 1.0)), when=when)


@st.composite
def reals(draw: st.DrawFn, when: dict | None = None) -> Uniform:
    low, width = draw(st.floats(1e-6, 1e3)), draw(st.floats(1e-3, 1e3))
    kind = draw(st.sampled_from([Uniform, LogUniform]))
    step = draw(st.one_of(st.none(), st.floats(0.01, 1.0).map(lambda part: part * width)))
    return kind(low, low + width, mutation=draw(st.floats(0.01, 1.0)), when=when, step=step)


def bitstrings(when: dict | None = None) -> st.SearchStrategy[Bitstring]:
    return st.integers(1, 24).map(lambda length: Bitstring(length, when=when))


def genes(when: dict | None = None) -> st.SearchStrategy[Gene]:
    return st.one_of(finite_genes(when), integers(when), reals(when), bitstrings(when))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """One to seven genes, in any order; about half of them depend on one or two of the others."""
    made: dict[str, Gene] = {}
    for i in range(draw(st.integers(1, 7))):
        switches = [path for path, gene in made.items() if isinstance(gene, (Categorical, Ordinal, Boolean))]
        when: dict[str, list] = {}
        if switches and draw(st.booleans()):
            for path in draw(st.lists(st.sampled_from(switches), min_size=1, max_size=2, unique=True)):
                gene = made[path]
                values = gene.choices if isinstance(gene, (Categorical, Ordinal)) else [False, True]
                when[path] = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2, unique_by=repr))
        made[f"model.gene_{i}"] = draw(genes(when or None))
    order = draw(st.permutations(list(made)))
    return SearchSpace({path: made[path] for path in order})


seeds = st.integers(0, 2**32 - 1)


def sample(space: SearchSpace, seed: int) -> Genome:
    return space.sample(random.Random(seed))


examples = settings(max_examples=40, deadline=None)
"""Few enough for a loaded machine; a slow example is no failure."""
