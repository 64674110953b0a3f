import json
import random

import pytest
from templates_making import narrow_gene, wild_gene

from lightning_evo.genome import Genome, Layers, SearchSpace, SequenceGene, Template, Uniform
from lightning_evo.genome.templates import decode_layer, encode_layer
from lightning_evo.genome.templates.variation import CROSSOVERS, MUTATIONS, splice

SHAPE = [3, 16, 16]


def kinds(value):
    return [line.split()[0] for line in value]


def make(**options):
    return Layers(SHAPE, 10, **options)


def check(gene, value):
    """A value is JSON, in range, and says itself what it builds."""
    gene.validate(value)
    assert json.loads(json.dumps(value)) == value
    assert Template.parse(value, gene.input_shape, gene.num_classes).lines == value
    assert gene.canonical(value) == value


@pytest.mark.parametrize("seed", range(10))
def test_samples_mutants_children_and_extremes_are_repaired_and_in_range(seed):
    rng = random.Random(seed)
    gene = wild_gene(rng)
    for value in gene.extremes():
        check(gene, value)
    value = gene.sample(rng)
    for _ in range(10):
        check(gene, value)
        other = gene.sample(rng)
        for kind in CROSSOVERS:
            for child in gene.crossover(value, other, rng, kind):
                check(gene, child)
        for operation in MUTATIONS:
            check(gene, gene.mutate(value, rng, operation))
        value = gene.mutate(value, rng)


@pytest.mark.parametrize("operation", [None, *MUTATIONS])
def test_a_mutant_differs_from_its_parent(operation):
    gene, rng = make(), random.Random(0)
    for _ in range(200):
        value = gene.sample(rng)
        assert gene.mutate(value, rng, operation) != value


def test_the_only_template_there_is_mutates_to_itself():
    gene = make(
        max_conv=0,
        min_conv=0,
        max_linear=1,
        max_features=100,
        **{f"{name}_probability": 0.0 for name in ("activation", "norm", "max_pool", "avg_pool", "dropout")},
        linear_dropout_probability=0.0,
    )
    only = ["GlobalAvgPool (3, 1, 1)", "Flatten 3", "Linear 10"]
    assert gene.sample(random.Random(0)) == only
    assert gene.mutate(only, random.Random(0)) == only


def test_mutations_change_one_layer_and_what_follows_from_it():
    gene, rng = make(residual_probability=0.0), random.Random(1)
    change = {"insert": 1, "delete": -1}
    seen = {name: set() for name in MUTATIONS}
    for _ in range(200):
        value = gene.sample(rng)
        for name in MUTATIONS:
            seen[name].add(len(gene.mutate(value, rng, name)) - len(value))
    for name, by in change.items():
        assert by in seen[name]
    assert max(seen["duplicate"]) > 1
    assert 0 in seen["swap"] & seen["alter"]


def test_swapping_and_altering_keep_the_layers_kinds_or_their_places():
    gene, rng = make(residual_probability=0.0, global_pool_probability=0.0), random.Random(2)
    same = {"swap": 0, "alter": 0}
    for _ in range(200):
        value = gene.sample(rng)
        swapped, altered = gene.mutate(value, rng, "swap"), gene.mutate(value, rng, "alter")
        same["swap"] += sorted(kinds(swapped)) == sorted(kinds(value))
        same["alter"] += sum(a != b for a, b in zip(kinds(altered), kinds(value), strict=False)) <= 1
    assert min(same.values()) > 120


def test_counts_stay_within_their_limits_however_long_evolution_goes_on():
    gene = make(min_conv=2, max_conv=3, min_linear=2, max_linear=3, max_layers=12)
    rng = random.Random(0)
    value = gene.sample(rng)
    for _ in range(300):
        value = gene.mutate(value, rng)
        assert 2 <= kinds(value).count("Conv2d") <= 3
        assert 2 <= kinds(value).count("Linear") <= 3
        assert len(value) <= 12


def test_crossover_takes_from_both_parents_of_different_lengths():
    gene, rng = make(), random.Random(0)
    lengths, new = set(), 0
    for _ in range(200):
        first, second = gene.sample(rng), gene.sample(rng)
        for kind in CROSSOVERS:
            one, two = gene.crossover(first, second, rng, kind)
            new += one not in (first, second) or two not in (first, second)
            lengths.add((len(first), len(second), len(one), len(two)))
    assert new > 380
    assert len(lengths) > 100


def test_children_of_homologous_crossover_are_about_as_long_as_their_parents():
    gene = make(crossovers={"homologous": 1.0}, residual_probability=0.0)
    first = gene.template(["Conv2d 8", "ReLU", "Conv2d 16", "ReLU", "Conv2d 32", "ReLU", "Linear 32", "ReLU"]).lines
    second = gene.template(["Conv2d 8", "ReLU", "Conv2d 16", "ReLU", "Linear 64", "ReLU"]).lines
    rng = random.Random(0)
    children = [child for _ in range(100) for child in gene.crossover(first, second, rng)]
    assert {len(child) for child in children} <= set(range(len(second), len(first) + 1))
    assert len({json.dumps(child) for child in children}) > 2


def test_a_template_crossed_with_itself_stays():
    gene, rng = make(), random.Random(0)
    value = gene.sample(rng)
    assert gene.crossover(value, value, rng) == (value, value)


def test_weights_decide_which_mutations_and_crossovers_there_are():
    gene, rng = make(mutations={"insert": 1.0, "alter": 0.0}), random.Random(0)
    for _ in range(50):
        value = gene.sample(rng)
        if len(value) < gene.max_layers - 1:
            assert len(gene.mutate(value, rng)) >= len(value) - 1


def test_probabilities_of_zero_take_layers_out_of_the_search():
    off = ("norm", "max_pool", "avg_pool", "dropout", "linear_dropout", "residual", "depthwise", "group")
    gene = make(activations=["ELU"], **{f"{name}_probability": 0.0 for name in off})
    rng, found = random.Random(0), set()
    value = gene.sample(rng)
    for _ in range(200):
        value = gene.mutate(value, rng)
        found.update(kinds(value))
        assert "depthwise" not in str(value)
        assert "groups" not in str(value)
    assert found == {"Conv2d", "ELU", "GlobalAvgPool", "Flatten", "Linear"}


def test_joins_behind_a_change_keep_what_they_add():
    layers = list(make().template(["Conv2d 8", "ReLU", "Conv2d 8", "ReLU", "Residual back=2"]).layers)
    added = splice(layers, 3, 0, layers[1:2])
    assert added[5].back == 3
    removed = splice(layers, 3, 1, [])
    assert removed[3].back == 1
    assert splice(layers, 0, 0, layers[1:2])[5].back == 2
    assert splice(layers, 2, 1, [])[3].back == 1


@pytest.mark.parametrize("seed", range(10))
def test_bits_come_back_and_any_numbers_are_a_template(seed):
    rng = random.Random(seed)
    gene = wild_gene(rng)
    for _ in range(10):
        value = gene.sample(rng)
        rows = gene.bits(value)
        assert [len(row) for row in rows] == [gene.bit_width] * len(value)
        assert [decode_layer(row) for row in rows] == list(gene.template(value).layers)
        numbers = gene.encode(value)
        assert len(numbers) == gene.width == gene.max_layers * gene.bit_width
        assert gene.decode(numbers) == value
        gene.validate(gene.decode([rng.uniform(-1, 2) for _ in range(gene.width)]))
    gene.validate(gene.decode([0.0] * gene.width))


def test_it_is_what_a_recurrent_predictor_reads():
    assert isinstance(make(), SequenceGene)
    assert not isinstance(Uniform(0.0, 1.0), SequenceGene)


def test_features_are_finite_numbers_with_names_of_their_own():
    rng = random.Random(0)
    names = make().feature_names
    assert len(names) == len(set(names)) > 50
    for _ in range(200):
        gene = narrow_gene(rng, [rng.randint(1, 3), rng.randint(1, 60), rng.randint(1, 60)])
        row = gene.features(gene.sample(rng))
        assert len(row) == len(names)
        assert all(abs(number) < 1e6 for number in row)


def test_features_count_and_follow_paths():
    gene = make()
    value = gene.template(
        ["Conv2d 8 stride=2", "ReLU", "BatchNorm2d", "Conv2d 8", "Residual back=1", "Conv2d 16", "Residual back=1"]
    ).lines
    row = dict(zip(gene.feature_names, gene.features(value), strict=True))
    assert row["count_Conv2d"] == 3
    assert row["count_BatchNorm2d"] == 1
    assert row["count_projections"] == 1
    # One way adds the second convolution's input as it is; the other passes a projection.
    assert (row["path_longest"], row["path_shortest"]) == (4, 3)
    assert row["side_first"] == 8
    assert row["log_reduction"] == 1
    assert row["receptive_field"] == 3 + 2 * 2 + 2 * 2
    assert row["channels_last"] == 4
    template = gene.template(value)
    assert 10 ** row["log_params"] == pytest.approx(1 + template.params)
    assert 10 ** row["log_flops"] == pytest.approx(1 + template.flops)


def test_a_norm_restores_the_signal_that_depth_takes():
    def signal(lines):
        gene = make(max_conv=9)
        return dict(zip(gene.feature_names, gene.features(gene.template(lines).lines), strict=True))

    plain = signal(["Conv2d 16", "ReLU"] * 6)
    normed = signal(["Conv2d 16", "BatchNorm2d", "ReLU"] * 6)
    assert plain["signal_scores"] < normed["signal_scores"] - 2
    assert plain["longest_without_norm"] == 7
    assert normed["longest_without_norm"] == 1


def test_a_space_describes_its_layers_by_features_named_after_the_path():
    space = SearchSpace({"model.layers": make(), "lr": Uniform(0.0, 1.0)})
    genome = space.sample(random.Random(0))
    names = space.feature_names()
    assert names[-1] == "lr"
    assert names[0].startswith("model.layers[count_")
    assert len(space.features(genome)) == len(names)
    assert Genome.from_json(genome.to_json()) == genome


def test_the_same_seed_gives_the_same_templates():
    def templates(seed):
        gene, rng = make(), random.Random(seed)
        first, second = gene.sample(rng), gene.sample(rng)
        return [first, second, *gene.crossover(first, second, rng), gene.mutate(first, rng)]

    assert templates(3) == templates(3)
    assert templates(3) != templates(4)


def test_the_smallest_and_the_largest_template_are_among_the_extremes():
    gene = make(min_conv=1, max_conv=4, max_linear=2)
    sizes = [gene.template(value).params for value in gene.extremes()]
    assert sizes[0] == min(sizes)
    assert sizes[1] == max(sizes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Conv2d 16", "is not a list of lines"),
        (["Conv2d 16"], "layer 1: 'Conv2d 16' doesn't fit here; repaired, the line is 'Conv2d .16, 16, 16."),
        (["Conv2d (16, 16, 16) kernel=9 stride=1", "Flatten 4096", "Linear 10"], "repaired, the line is .*kernel=7"),
        (
            ["Conv2d (16, 16, 16) kernel=3 stride=1", "Flatten 4096"],
            "2 layers; repaired, there are 3, the last 'Linear",
        ),
        (["Bogus"], "'Bogus' is not a kind of layer"),
    ],
)
def test_a_value_that_is_not_repaired_or_out_of_range_is_refused_with_what_it_should_be(value, message):
    with pytest.raises(ValueError, match=message):
        make().validate(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": [1, 0, 8]}, "input_shape"),
        ({"num_classes": 1}, "num_classes: 1"),
        ({"num_classes": 70000}, "num_classes: Linear: out 70000 does not fit"),
        ({"min_conv": 7}, "min_conv: 7 is not at most max_conv 6"),
        ({"min_linear": 0}, "min_linear: 0"),
        ({"max_layers": 3}, "max_layers: 3 is not at least 4"),
        ({"channels": [5000]}, "channels: Conv2d: out 5000 does not fit"),
        ({"channels": []}, "channels"),
        ({"channels": [0]}, "channels: 0 is not an integer of at least 1"),
        ({"kernels": [3, 1]}, "kernels: .* ascending"),
        ({"slopes": [0.0001]}, "slopes: LeakyReLU: slope 0.0001 does not fit"),
        ({"rates": [0.0, 0.5]}, "rates: 0.0 is not a share between 0 and 1"),
        ({"max_back": 64}, "max_back: Residual: back 64"),
        ({"activations": ["Relu"]}, "activations: .'Relu'. is not a list of ReLU"),
        ({"activations": "ReLU"}, "activations"),
        ({"norms": []}, "norms"),
        ({"norm_probability": 2.0}, "norm_probability: 2.0"),
        ({"mutations": {"inset": 1.0}}, "mutations: .*'inset'"),
        ({"crossovers": {"one_point": 0.0}}, "crossovers"),
    ],
)
def test_ranges_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Layers(**{"input_shape": SHAPE, "num_classes": 10, **options})


def test_layers_are_bits_that_say_which_kind_they_are():
    gene = make()
    value = gene.sample(random.Random(0))
    for row, line in zip(gene.bits(value), value, strict=True):
        layer = decode_layer(row)
        assert layer.kind == line.split()[0]
        assert encode_layer(layer) == row


@pytest.mark.slow
def test_ten_thousand_templates_keep_every_promise():
    rng = random.Random(0)
    for _ in range(100):
        gene = wild_gene(rng)
        for _ in range(100):
            value = gene.sample(rng)
            check(gene, value)
            assert gene.decode(gene.encode(value)) == value
            assert len(gene.features(value)) == len(gene.feature_names)
            check(gene, gene.mutate(value, rng))
            for child in gene.crossover(value, gene.sample(rng), rng):
                check(gene, child)
