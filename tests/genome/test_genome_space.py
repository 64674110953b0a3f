import json
import random

import pytest
from genome_strategies import examples, sample, seeds, spaces
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    Genome,
    Integer,
    Ordinal,
    SearchSpace,
    SpaceError,
    Uniform,
)

LADDER = (0.05, 0.1, 0.2, 0.4)


def equal(first, second):
    return json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)


def can_differ(space, genome):
    return any(len(space[path].extremes()) > 1 for path in genome)


@examples
@given(spaces(), seeds)
def test_samples_are_valid_and_survive_json(space, seed):
    genome = sample(space, seed)
    space.validate(genome)
    again = Genome.from_json(json.dumps(json.loads(genome.to_json())))
    assert again == genome
    assert hash(again) == hash(genome)
    assert again.to_json() == genome.to_json()
    space.validate(again)


@examples
@given(spaces(), seeds, st.one_of(st.none(), st.floats(0, 1)))
def test_mutants_are_valid_and_differ_wherever_the_space_allows(space, seed, rate):
    genome, rng = sample(space, seed), random.Random(seed)
    for _ in range(3):
        child = space.mutate(genome, rng, rate)
        space.validate(child)
        if can_differ(space, genome) and not any(isinstance(space[path], Uniform) for path in genome):
            assert child != genome
        genome = child


@examples
@given(spaces(), seeds)
def test_children_of_a_crossover_are_valid_and_take_every_value_from_a_parent(space, seed):
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    children = space.crossover(first, second, rng)
    for child in children:
        space.validate(child)
        for path, value in child.items():
            parents = [parent[path] for parent in (first, second) if path in parent]
            if parents and not isinstance(space[path], Bitstring):
                assert any(equal(value, inherited) for inherited in parents)


@examples
@given(spaces(), seeds)
def test_crossover_loses_no_value_of_a_gene_that_all_four_have(space, seed):
    rng = random.Random(seed)
    first, second = space.sample(rng), space.sample(rng)
    one, two = space.crossover(first, second, rng)
    for path, gene in space.items():
        if all(path in genome for genome in (first, second, one, two)) and not isinstance(gene, Bitstring):
            before = sorted([json.dumps(first[path], sort_keys=True), json.dumps(second[path], sort_keys=True)])
            if not gene.when:
                assert sorted(json.dumps(g[path], sort_keys=True) for g in (one, two)) == before


@examples
@given(spaces(), seeds)
def test_self_adaptive_mutants_are_valid_and_their_rates_stay_on_the_ladder(space, seed):
    genome, rng = sample(space, seed), random.Random(seed)
    for _ in range(6):
        before = genome.rates
        genome = space.mutate_self_adaptive(genome, rng, initial=0.2, ladder=LADDER)
        space.validate(genome)
        assert set(genome.rates.values()) <= set(LADDER)
        for path, rate in before.items():
            assert abs(LADDER.index(genome.rates[path]) - LADDER.index(rate)) <= 1
        assert Genome.from_json(genome.to_json()).rates == genome.rates


@examples
@given(spaces(), seeds)
def test_all_variation_is_decided_by_the_rng_and_leaves_the_global_one_alone(space, seed):
    def vary():
        rng = random.Random(seed)
        first, second = space.sample(rng), space.sample(rng)
        one, _ = space.crossover(first, second, rng)
        return space.mutate_self_adaptive(space.mutate(one, rng), rng).to_json()

    random.seed(1)
    state = random.getstate()
    once = vary()
    assert random.getstate() == state
    random.seed(2)
    assert vary() == once


@examples
@given(spaces(), seeds)
def test_inactive_genes_are_absent_encoded_as_told_and_no_difference(space, seed):
    rng = random.Random(seed)
    genome, other = space.sample(rng), space.sample(rng)
    columns, row = space.columns(), space.encode(genome, inactive=-7.0)
    for path in space:
        own = [number for column, number in zip(columns, row, strict=True) if column.split("[")[0] == path]
        assert (path in genome) == space.active(path, genome)
        assert all((number == -7.0) == (path not in genome) for number in own)
    assert all(path in genome or path in other for path in space.differences(genome, other))
    assert space.differences(genome, genome) == []


@examples
@given(spaces(), seeds)
def test_a_value_for_an_inactive_gene_is_dropped_and_makes_no_other_genome(space, seed):
    rng = random.Random(seed)
    genome = space.sample(rng)
    stuffed = {**{path: gene.sample(rng) for path, gene in space.items() if path not in genome}, **genome}
    assert space.complete(stuffed, rng) == genome
    if len(stuffed) > len(genome):
        with pytest.raises(SpaceError, match="does not hold"):
            space.validate(stuffed)


@examples
@given(spaces(), seeds)
def test_decoding_inverts_encoding_of_whole_genomes(space, seed):
    genome = sample(space, seed)
    again = space.decode(space.encode(genome), random.Random(0))
    assert list(again) == list(genome)
    for path in genome:
        if isinstance(space[path], Uniform):
            assert again[path] == pytest.approx(genome[path])
        else:
            assert equal(again[path], genome[path])


@examples
@given(spaces(), seeds, st.booleans())
def test_columns_name_each_number_once(space, seed, one_hot):
    columns = space.columns(one_hot)
    assert len(set(columns)) == len(columns) == len(space.encode(sample(space, seed), one_hot))


def test_a_gene_switched_on_by_mutation_gets_a_value_and_one_switched_off_loses_it():
    space = SearchSpace({"kind": Categorical(["a", "b"]), "size": Integer(1, 9, when={"kind": ["b"]})})
    on = space.mutate(Genome({"kind": "a"}), random.Random(0))
    assert on["kind"] == "b"
    assert 1 <= on["size"] <= 9
    off = space.complete({**on, "kind": "a"}, random.Random(0))
    assert dict(off) == {"kind": "a"}


def test_mutation_passes_over_genes_that_have_one_value_only():
    space = SearchSpace({"fixed": Categorical(["only"]), "free": Boolean()})
    for seed in range(30):
        assert space.mutate(Genome({"fixed": "only", "free": False}), random.Random(seed), rate=0.0)["free"] is True


def test_crossover_takes_a_conditional_value_along_with_its_switch():
    space = SearchSpace({"kind": Categorical(["a", "b"]), "size": Integer(1, 10**9, when={"kind": ["b"]})})
    first, second = Genome({"kind": "a"}), Genome({"kind": "b", "size": 123456789})
    for seed in range(30):
        for child in space.crossover(first, second, random.Random(seed)):
            assert dict(child) in ({"kind": "a"}, {"kind": "b", "size": 123456789})


def test_rates_are_inherited_by_crossover():
    space = SearchSpace({"a": Boolean(), "b": Boolean()})
    first = Genome({"a": True, "b": True}, {"": 0.1, "a": 0.2, "b": 0.2})
    second = Genome({"a": False, "b": False}, {"": 0.3, "a": 0.4, "b": 0.4})
    for seed in range(10):
        one, two = space.crossover(first, second, random.Random(seed))
        for path in ("a", "b"):
            assert one.rates[path] == (0.2 if one[path] else 0.4)
            assert {one.rates[path], two.rates[path]} == {0.2, 0.4}


def test_canonical_bitstrings_share_a_phenotype_but_not_a_genome():
    space = SearchSpace({"bits": Bitstring(4, canonical=lambda bits: bits[:2] + "00")})
    first, second = Genome({"bits": "0111"}), Genome({"bits": "0100"})
    assert first != second
    assert space.phenotype(first) == space.phenotype(second) != space.phenotype(Genome({"bits": "1100"}))


def test_a_condition_on_a_switched_off_gene_does_not_hold():
    space = SearchSpace(
        {
            "a": Boolean(),
            "b": Boolean(when={"a": [True]}),
            "c": Boolean(when={"b": [True]}),
        }
    )
    assert not space.active("c", {"a": False, "b": True})
    assert dict(space.complete({"a": False, "b": True, "c": True}, random.Random(0))) == {"a": False}


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({}, "empty"),
        ({"a": Boolean(when={"b": [True]})}, r"a\.when: 'b' is not a gene"),
        ({"a": Boolean(), "b": Boolean(when={"a": ["yes"]})}, r"b\.when\.a: 'yes'"),
        ({"a": Boolean(when={"b": [True]}), "b": Boolean(when={"a": [True]})}, "form a cycle"),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_path(genes, message):
    with pytest.raises(SpaceError, match=message):
        SearchSpace(genes)


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ({"kind": "a", "other": 1}, "other: not in the search space"),
        ({"kind": "a", "size": 3}, "size: has the value 3"),
        ({"kind": "b"}, "size: has no value"),
        ({"kind": "b", "size": 10}, "size: 10 is not in 1..9"),
        ({}, "kind: has no value"),
    ],
)
def test_a_genome_that_does_not_fit_is_refused_by_path(genome, message):
    space = SearchSpace({"kind": Categorical(["a", "b"]), "size": Integer(1, 9, when={"kind": ["b"]})})
    with pytest.raises(SpaceError, match=message):
        space.validate(genome)


def test_genomes_are_immutable_and_picklable():
    import pickle

    genome = Genome({"a": [1, 2]}, {"a": 0.1})
    with pytest.raises(TypeError):
        genome["a"] = 3
    again = pickle.loads(pickle.dumps(genome))
    assert again == genome
    assert again.rates == {"a": 0.1}


def test_ordinal_choices_may_depend_on_each_other_by_value_not_by_type():
    space = SearchSpace({"n": Ordinal([1, 2]), "flag": Boolean(when={"n": [1]})})
    assert not space.active("flag", {"n": True})
    assert space.active("flag", {"n": 1})
