import json
import math
import random

import pytest
from genome_strategies import bitstrings, examples, finite_genes, genes, integers, reals, seeds
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.genome import Bitstring, Boolean, Categorical, GrowthSteps, Integer, LogUniform, Ordinal, Uniform


def several_values(gene):
    return len({json.dumps(value, sort_keys=True) for value in gene.extremes()}) > 1


@examples
@given(genes(), seeds)
def test_samples_mutants_and_extremes_are_valid(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    gene.validate(value)
    for _ in range(5):
        value = gene.mutate(value, rng)
        gene.validate(value)
    for extreme in gene.extremes():
        gene.validate(extreme)


@examples
@given(st.one_of(finite_genes(), integers(), bitstrings()), seeds)
def test_a_mutant_differs_wherever_the_range_holds_another_value(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    assert (json.dumps(gene.mutate(value, rng)) != json.dumps(value)) == several_values(gene)


@examples
@given(genes(), seeds)
def test_encoding_gives_width_numbers_between_0_and_1_for_every_value(gene, seed):
    for value in [gene.sample(random.Random(seed)), *gene.extremes()]:
        for numbers, width in ((gene.encode(value), gene.width), (gene.one_hot(value), gene.one_hot_width)):
            assert len(numbers) == width
            assert all(-1e-12 <= number <= 1 + 1e-12 for number in numbers)


@examples
@given(st.one_of(finite_genes(), integers(), bitstrings()), seeds)
def test_decoding_inverts_encoding_exactly_for_discrete_genes(gene, seed):
    for value in [gene.sample(random.Random(seed)), *gene.extremes()]:
        assert json.dumps(gene.decode(gene.encode(value))) == json.dumps(value)


@examples
@given(reals(), seeds)
def test_decoding_inverts_encoding_of_real_genes_up_to_rounding(gene, seed):
    for value in [gene.sample(random.Random(seed)), *gene.extremes()]:
        assert math.isclose(gene.decode(gene.encode(value)), value, rel_tol=1e-9)


@examples
@given(genes(), st.lists(st.floats(-10, 10), min_size=24, max_size=24))
def test_any_numbers_decode_to_a_valid_value(gene, numbers):
    gene.validate(gene.decode(numbers[: gene.width]))


@examples
@given(st.lists(st.integers(), min_size=2, max_size=9, unique=True), seeds)
def test_ordinal_mutation_steps_to_a_neighbour(choices, seed):
    gene, rng = Ordinal(choices), random.Random(seed)
    value = gene.sample(rng)
    assert abs(choices.index(gene.mutate(value, rng)) - choices.index(value)) == 1


@examples
@given(integers(), seeds)
def test_integer_mutation_reaches_at_most_its_fraction_of_the_range_or_one_step(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    moved = gene.mutate(value, rng)
    if not gene.log:
        assert abs(moved - value) <= max(gene.step, gene.mutation * (gene.high - gene.low) + gene.step / 2)
    elif abs(moved - value) > gene.step:  # what was rounded to `moved` lay up to half a step nearer
        nearer = moved + math.copysign(gene.step / 2, value - moved)
        assert abs(math.log(nearer / value)) <= gene.mutation * math.log(gene.high / gene.low) + 1e-9


def test_log_integer_mutation_too_small_to_reach_a_neighbour_steps_to_one():
    gene = Integer(16, 64, log=True, mutation=0.001)
    assert {gene.mutate(32, random.Random(seed)) for seed in range(50)} == {31, 33}


@examples
@given(st.integers(-20, 20), st.integers(0, 60), st.integers(1, 9), seeds)
def test_integer_values_count_in_steps_from_low(low, width, step, seed):
    gene = Integer(low, low + width, step=step)
    value = gene.sample(random.Random(seed))
    assert (value - low) % step == 0
    assert gene.high <= low + width


def test_log_integer_samples_small_and_large_values_alike():
    gene, rng = Integer(1, 1024, log=True), random.Random(0)
    values = [gene.sample(rng) for _ in range(4000)]
    assert 0.4 < sum(value < 32 for value in values) / len(values) < 0.6


def test_log_uniform_samples_each_decade_alike():
    gene, rng = LogUniform(1e-4, 1.0), random.Random(0)
    values = [gene.sample(rng) for _ in range(4000)]
    assert 0.45 < sum(value < 1e-2 for value in values) / len(values) < 0.55


@examples
@given(bitstrings(), seeds)
def test_bitstring_children_hold_each_position_of_one_of_the_parents(gene, seed):
    rng = random.Random(seed)
    first, second = gene.sample(rng), gene.sample(rng)
    one, two = gene.crossover(first, second, rng)
    for a, b, c, d in zip(first, second, one, two, strict=True):
        assert sorted((a, b)) == sorted((c, d))


def test_bitstring_mutation_flips_one_bit_in_length_on_average():
    gene, rng = Bitstring(20), random.Random(0)
    flips = [sum(a != b for a, b in zip("0" * 20, gene.mutate("0" * 20, rng), strict=True)) for _ in range(3000)]
    assert min(flips) == 1
    assert 1.2 < sum(flips) / len(flips) < 1.5  # one on average, and one where none was hit (36 %)


def test_boolean_mutation_flips():
    assert Boolean().mutate(True, random.Random(0)) is False


def test_one_true_and_one_point_zero_are_three_values():
    gene = Categorical([1, True, 1.0])
    assert [gene.index(value) for value in (1, True, 1.0)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical([]), "non-empty list"),
        (lambda: Categorical("abc"), "non-empty list"),
        (lambda: Categorical([1, 2, 1]), "twice"),
        (lambda: Integer(3, 2), "low: 3 is not at most high 2"),
        (lambda: Integer(0, 9, step=0), "step: 0"),
        (lambda: Integer(0, 9, log=True), "at least 1"),
        (lambda: Integer(1, 9, mutation=0), "mutation: 0"),
        (lambda: Uniform(1.0, 1.0), "low: 1.0 is not below high 1.0"),
        (lambda: Uniform(0.0, math.inf), "finite"),
        (lambda: LogUniform(0.0, 1.0), "low: 0.0 is not above 0"),
        (lambda: Bitstring(0), "length: 0"),
        (lambda: Bitstring(4, flip=0.0), "flip: 0.0"),
        (lambda: Boolean(when={"model.kind": []}), r"when\.model\.kind"),
        (lambda: Boolean(when={"model.kind": "conv"}), r"when\.model\.kind"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("gene", "value"),
    [
        (Categorical(["a"]), "b"),
        (Categorical(["a"]), {1, 2}),
        (Integer(0, 8, step=2), 3),
        (Integer(0, 8), True),
        (Integer(0, 8), 2.0),
        (Uniform(0.0, 1.0), 1.5),
        (Uniform(0.0, 1.0), "0.5"),
        (Uniform(0.0, 1.0), math.nan),
        (Boolean(), 1),
        (Bitstring(3), "01"),
        (Bitstring(3), "01x"),
        (Bitstring(3), 10),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_was_given(gene, value):
    with pytest.raises(ValueError, match=r"not|neither"):
        gene.validate(value)


def test_a_mutation_in_a_range_without_measure_takes_no_memory():
    gene = Integer(-(10**30), 10**30)
    assert all(gene.validate(gene.mutate(0, random.Random(seed))) is None for seed in range(20))


@pytest.mark.parametrize("made", [lambda: Bitstring(10**30), lambda: GrowthSteps(max_steps=10**30)])
def test_lengths_that_no_memory_holds_are_refused(made):
    with pytest.raises(ValueError, match="is not at most"):
        made()
