"""What every gene keeps: the contract of ``Gene``, run for each row of the table in ``gene_contract.py``."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import random

import pytest
from gene_contract import GENES, REAL, SINGLE

from lightning_evo import genome
from lightning_evo.archive import Archive, ArchiveWriter, read_space
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Boolean, Gene, Genome, SearchSpace
from lightning_evo.genome.genes import identity

SEEDS = range(8)

every_gene = pytest.mark.parametrize("name", GENES)


def values(gene):
    """Samples, extremes and mutants."""
    found = [gene.sample(random.Random(seed)) for seed in SEEDS]
    found += gene.extremes()
    return found + [gene.mutate(value, random.Random(seed)) for seed, value in enumerate(list(found))]


def space_of(gene):
    switches = {"switch": Boolean()} if gene.when else {}
    return SearchSpace({**switches, "model.gene": gene})


def test_every_gene_that_ships_has_a_row():
    ships = {
        kind for name in genome.__all__ if inspect.isclass(kind := getattr(genome, name)) and issubclass(kind, Gene)
    }
    assert ships - {type(gene) for gene in GENES.values()} == {Gene}


@every_gene
def test_values_are_in_range_and_read_as_they_are_stored(name):
    gene = GENES[name]
    for value in values(gene):
        gene.validate(value)
        assert identity(gene.read(value)) == identity(value)


@every_gene
def test_the_seed_alone_decides(name):
    gene = GENES[name]
    state = random.getstate()
    for seed in SEEDS:
        first, second = random.Random(seed), random.Random(seed)
        one, other = gene.sample(first), gene.sample(second)
        assert identity(one) == identity(other)
        assert identity(gene.mutate(one, first)) == identity(gene.mutate(other, second))
        crossed = [list(map(identity, gene.crossover(one, gene.sample(rng), rng))) for rng in (first, second)]
        assert crossed[0] == crossed[1]
    assert random.getstate() == state, "no global randomness is used"


@every_gene
def test_a_mutant_differs_wherever_the_range_holds_another_value(name):
    gene = GENES[name]
    for seed in SEEDS:
        rng = random.Random(seed)
        value = gene.sample(rng)
        assert (identity(gene.mutate(value, rng)) == identity(value)) == (name in SINGLE)


@every_gene
def test_variation_leaves_the_parents_as_they_are(name):
    gene = GENES[name]
    rng = random.Random(0)
    first, second = gene.sample(rng), gene.sample(rng)
    before = json.dumps([first, second])
    gene.mutate(first, rng)
    children = gene.crossover(first, second, rng)
    assert json.dumps([first, second]) == before
    for child in children:
        gene.validate(child)


@every_gene
def test_values_are_json(name):
    for value in values(GENES[name]):
        assert identity(json.loads(json.dumps(value))) == identity(value)


@every_gene
def test_encoding_is_numbers_between_0_and_1_and_comes_back(name):
    gene = GENES[name]
    for value in values(gene):
        numbers = gene.encode(value)
        assert len(numbers) == gene.width
        assert all(0 <= number <= 1 for number in numbers)
        decoded = gene.decode(numbers)
        if isinstance(gene, REAL):
            assert decoded == pytest.approx(value, rel=1e-9)
        else:
            assert identity(decoded) == identity(value)


@every_gene
def test_any_numbers_decode_to_a_value_in_range(name):
    gene = GENES[name]
    for seed in SEEDS:
        rng = random.Random(seed)
        gene.validate(gene.decode([rng.uniform(-0.5, 1.5) for _ in range(gene.width)]))


@every_gene
def test_features_are_finite_numbers_with_names_of_their_own(name):
    gene = GENES[name]
    assert len(set(gene.feature_names)) == len(gene.feature_names)
    for value in values(gene):
        features, one_hot = gene.features(value), gene.one_hot(value)
        assert len(features) == len(gene.feature_names)
        assert all(math.isfinite(number) for number in features)
        assert len(one_hot) == gene.one_hot_width
        assert all(math.isfinite(number) for number in one_hot)


@every_gene
def test_the_canonical_value_is_in_range_and_stands_for_itself(name):
    gene = GENES[name]
    for value in values(gene):
        canonical = gene.canonical(value)
        gene.validate(canonical)
        assert identity(gene.canonical(canonical)) == identity(canonical)


@every_gene
def test_the_archive_rebuilds_the_gene(name, tmp_path):
    gene = GENES[name]
    space = space_of(gene)
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", json.loads(json.dumps({"evolution": {"space": describe(space)}})))
    with Archive(tmp_path) as archive:
        again = read_space(archive)
    assert describe(again) == describe(space)
    assert describe(gene)["class_path"] == f"lightning_evo.genome.{type(gene).__name__}"
    rebuilt = again["model.gene"]
    for seed in SEEDS:
        value = gene.sample(random.Random(seed))
        assert identity(rebuilt.sample(random.Random(seed))) == identity(value)
        assert identity(rebuilt.mutate(value, random.Random(seed))) == identity(gene.mutate(value, random.Random(seed)))
        assert rebuilt.features(value) == gene.features(value)


@every_gene
def test_workers_get_the_gene_as_it_is(name):
    gene = GENES[name]
    again = pickle.loads(pickle.dumps(gene))
    assert identity(again.sample(random.Random(1))) == identity(gene.sample(random.Random(1)))
    assert repr(again) == repr(gene)


@every_gene
def test_a_space_breeds_and_encodes_genomes_of_the_gene(name):
    space = space_of(GENES[name])
    for seed in SEEDS:
        rng = random.Random(seed)
        one, two = space.sample(rng), space.sample(rng)
        for each in (one, two, space.mutate(one, rng), *space.crossover(one, two, rng)):
            space.validate(each)
            assert Genome(json.loads(json.dumps(dict(each))), dict(each.rates)) == each
            assert len(space.features(each, inactive=0.0)) == len(space.features(one, inactive=0.0))
