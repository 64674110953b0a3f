import json
import random
from typing import get_args

import pytest
from genome_strategies import examples, seeds
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.functional.growth import Operation
from lightning_evo.genome import GrowthSteps, SearchSpace
from lightning_evo.genome.growth import GROWTH_OPERATIONS

PATH = "trainer.callbacks.StructuralGrowth.init_args.initial"


@st.composite
def growths(draw: st.DrawFn) -> GrowthSteps:
    most = draw(st.integers(1, 6))
    ratios = draw(st.lists(st.floats(1.01, 4.0), min_size=1, max_size=4, unique_by=lambda ratio: round(ratio, 3)))
    return GrowthSteps(
        draw(st.lists(st.sampled_from(GROWTH_OPERATIONS), min_size=1, unique=True)),
        max_steps=most,
        ratios=sorted(ratios),
        initial_steps=draw(st.integers(0, most)),
    )


def text(value) -> str:
    return json.dumps(value, sort_keys=True)


def test_the_gene_and_the_networks_know_the_same_operations():
    assert set(GROWTH_OPERATIONS) == set(get_args(Operation))


@examples
@given(growths(), seeds)
def test_samples_mutants_and_extremes_are_valid_and_json(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    assert len(value) <= gene.initial_steps
    for _ in range(12):
        gene.validate(value)
        assert json.loads(json.dumps(value)) == value
        value = gene.mutate(value, rng)
    for extreme in gene.extremes():
        gene.validate(extreme)


@examples
@given(growths(), seeds)
def test_a_mutant_differs_by_its_last_step_alone(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    for _ in range(12):
        before, copy = value, text(value)
        value = gene.mutate(value, rng)
        assert text(before) == copy
        assert text(value) != copy
        assert abs(len(value) - len(before)) <= 1
        kept = min(len(value), len(before)) - (len(value) == len(before))
        assert value[:kept] == before[:kept]


@examples
@given(growths(), seeds)
def test_the_same_random_stream_gives_the_same_steps(gene, seed):
    one, two = random.Random(seed), random.Random(seed)
    first, second = gene.sample(one), gene.sample(two)
    for _ in range(8):
        assert text(first) == text(second)
        first, second = gene.mutate(first, one), gene.mutate(second, two)


@examples
@given(growths(), seeds)
def test_decoding_inverts_encoding_exactly(gene, seed):
    rng = random.Random(seed)
    value = gene.sample(rng)
    for _ in range(8):
        encoded, one_hot = gene.encode(value), gene.one_hot(value)
        assert len(encoded) == gene.width
        assert len(one_hot) == gene.one_hot_width
        assert all(0 <= number <= 1 for number in [*encoded, *one_hot])
        assert text(gene.decode(encoded)) == text(value)
        assert len(gene.features(value)) == len(gene.feature_names)
        value = gene.mutate(value, rng)


@examples
@given(growths(), st.lists(st.floats(-3, 3), min_size=18, max_size=18))
def test_any_numbers_decode_to_valid_steps(gene, numbers):
    gene.validate(gene.decode(numbers[: gene.width]))


@examples
@given(growths(), seeds)
def test_two_parents_steps_are_not_mixed(gene, seed):
    rng = random.Random(seed)
    first, second = gene.mutate([], rng), gene.mutate([], rng)
    assert gene.crossover(first, second, rng) == (first, second)


def test_mutation_mostly_appends_sometimes_drops_and_rarely_alters():
    gene, rng = GrowthSteps(), random.Random(0)
    parent = gene.mutate(gene.mutate([], rng), rng)
    lengths = [len(gene.mutate(parent, rng)) for _ in range(2000)]
    shares = {length: lengths.count(length) / len(lengths) for length in (3, 2, 1)}
    assert shares[3] == pytest.approx(0.8, abs=0.03)
    assert shares[2] == pytest.approx(0.1, abs=0.03)
    assert shares[1] == pytest.approx(0.1, abs=0.03)


def test_a_mutation_can_be_asked_for_and_its_weights_can_be_given():
    gene, rng = GrowthSteps(mutations={"drop": 1.0}), random.Random(0)
    (step,) = gene.mutate([], rng)  # nothing else is possible
    assert gene.mutate([step], rng) == []
    assert gene.mutate([step], rng, "append")[0] == step
    (altered,) = gene.mutate([step], rng, "alter")
    assert altered != step


def test_every_first_candidate_is_the_start_network_unless_asked():
    rng = random.Random(0)
    assert all(GrowthSteps().sample(rng) == [] for _ in range(20))
    assert {len(GrowthSteps(initial_steps=2).sample(rng)) for _ in range(60)} == {0, 1, 2}


def test_pruning_keeps_the_inverse_of_a_ratio():
    gene, rng = GrowthSteps(["prune"], ratios=[1.25, 2.0]), random.Random(0)
    assert {gene.mutate([], rng)[0]["ratio"] for _ in range(40)} == {0.5, 0.8}


def test_features_count_operations_and_doublings():
    gene = GrowthSteps()
    steps = [
        {"operation": "widen", "place": 0.0, "ratio": 2.0},
        {"operation": "insert", "place": 0.5},
        {"operation": "widen", "place": 1.0, "ratio": 2.0},
    ]
    assert dict(zip(gene.feature_names, gene.features(steps), strict=True)) == {
        "widen": 2.0,
        "insert": 1.0,
        "residual": 0.0,
        "doublings": 2.0,
    }


def test_steps_by_hand_are_read_as_they_are_stored():
    gene = GrowthSteps()
    read = gene.read([{"operation": "widen", "place": 0}, {"place": 0.12345, "operation": "insert"}])
    assert read == [
        {"operation": "widen", "place": 0.0, "ratio": 1.5},
        {"operation": "insert", "place": 0.123},
    ]
    gene.validate(read)
    assert text(gene.canonical([{"operation": "widen", "place": 0}])) == text(read[:1])


def test_a_space_breeds_children_that_are_their_parent_plus_steps():
    space, rng = SearchSpace({PATH: GrowthSteps(mutations={"append": 1.0})}), random.Random(0)
    genome = space.sample(rng)
    for number in range(1, 5):
        child = space.mutate(genome, rng)
        assert child[PATH][:-1] == genome[PATH]
        assert len(child[PATH]) == number
        space.validate(child)
        assert space.decode(space.encode(child), rng) == child
        genome = child


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GrowthSteps([]), "non-empty list"),
        (lambda: GrowthSteps("widen"), "non-empty list"),
        (lambda: GrowthSteps(["widen", "widen"]), "each once"),
        (lambda: GrowthSteps(["deepen"]), "'deepen' is not one of insert, widen"),
        (lambda: GrowthSteps(max_steps=0), "max_steps: 0 is not at least 1"),
        (lambda: GrowthSteps(max_steps=2, initial_steps=3), "initial_steps: 3 is not from 0 to max_steps, 2"),
        (lambda: GrowthSteps(ratios=[]), "ratios"),
        (lambda: GrowthSteps(ratios=[1.0]), "ratios"),
        (lambda: GrowthSteps(ratios=[2.0, 1.5]), "ratios"),
        (lambda: GrowthSteps(ratios=[1.5, 1000.0]), "ratios"),
        (lambda: GrowthSteps(mutations={"grow": 1.0}), "'grow' is not one of append, drop, alter"),
        (lambda: GrowthSteps(mutations={"append": 0.0}), "must be weights"),
        (lambda: GrowthSteps(mutations={}), "must be weights"),
        (lambda: GrowthSteps(when={"model.kind": []}), r"when\.model\.kind"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("widen", "not a list of at most 6 steps"),
        ([{"operation": "insert", "place": 0.5}] * 7, "not a list of at most 6 steps"),
        (["widen"], "step 1: 'widen' is not a mapping"),
        ([{"place": 0.5}], "step 1: operation: None is not one of"),
        ([{"operation": "insert", "place": 0.5}, {"operation": "prune", "place": 0.5}], "step 2: operation: 'prune'"),
        (
            [{"operation": "widen", "layer": "net.0"}],
            r"step 1: 'layer' is not one of \['operation', 'place', 'ratio'\]",
        ),
        ([{"operation": "insert", "place": 0.5, "ratio": 2.0}], "'ratio' is not one of"),
        ([{"operation": "insert"}], "place: None is not a number from 0"),
        ([{"operation": "insert", "place": 1.5}], "place: 1.5 is not a number from 0"),
        ([{"operation": "insert", "place": True}], "place: True is not a number from 0"),
        ([{"operation": "widen", "place": 0.5, "ratio": 3.0}], r"ratio: 3.0 is not one of \[1.25, 1.5, 2.0\]"),
        ([{"operation": "widen", "place": 0.5, "ratio": "2"}], "ratio: '2' is not one of"),
        ([{"operation": "widen", "place": 0.5}], "is not in its stored form"),
        ([{"operation": "insert", "place": 0.123456}], "is not in its stored form"),
    ],
)
def test_steps_that_cannot_be_are_refused_with_what_was_given(value, message):
    with pytest.raises(ValueError, match=message):
        GrowthSteps().validate(value)
