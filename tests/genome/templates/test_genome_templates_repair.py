import math
import random

import pytest
from templates_making import wild_gene, wild_layers

from lightning_evo.genome import Template
from lightning_evo.genome.templates import Layer, Limits, repair
from lightning_evo.genome.templates.repair import projection_stride


def repaired(lines, shape=(3, 8, 8), classes=10, **limits):
    return Template.parse(lines, shape, classes, Limits(**limits)).lines


def kinds(lines):
    return [line.split()[0] for line in lines]


@pytest.mark.parametrize("seed", range(20))
def test_repair_is_idempotent_and_keeps_to_the_limits_whatever_it_is_given(seed):
    rng = random.Random(seed)
    gene = wild_gene(rng)
    for _ in range(30):
        wished = wild_layers(rng)
        once = repair(wished, gene.input_shape, gene.num_classes, gene.limits)
        assert repair(once.layers, gene.input_shape, gene.num_classes, gene.limits) == once
        # Without limits, it is left as it is.
        assert repair(once.layers, gene.input_shape, gene.num_classes) == once
        assert repair(wished, gene.input_shape, gene.num_classes, gene.limits) == once
        names = [layer.kind for layer in once.layers]
        assert gene.min_conv <= names.count("Conv2d") <= gene.max_conv
        assert gene.min_linear <= names.count("Linear") <= gene.max_linear
        assert len(names) <= gene.max_layers
        assert names.count("Flatten") == 1
        flatten = names.index("Flatten")
        assert names.index("Linear") == flatten + 1
        assert names[-1] == "Linear"
        assert once.shapes[-1] == (gene.num_classes,)
        before = once.shapes[flatten - 1] if flatten else tuple(gene.input_shape)
        assert once.shapes[flatten][0] <= gene.max_features or before[1:] == (1, 1)
        assert all(min(shape) >= 1 for shape in once.shapes)


@pytest.mark.parametrize("seed", range(5))
def test_repair_without_limits_is_idempotent(seed):
    rng = random.Random(seed)
    for _ in range(100):
        shape = [rng.randint(1, 3), rng.randint(1, 30), rng.randint(1, 30)]
        once = repair(wild_layers(rng), shape, 10)
        assert repair(once.layers, shape, 10) == once


def test_channels_follow_and_the_head_ends_at_the_classes():
    assert repaired(["Conv2d 16 kernel=3", "ReLU", "Linear 32"]) == [
        "Conv2d (16, 8, 8) kernel=3 stride=1",
        "ReLU (16, 8, 8)",
        "Flatten 1024",
        "Linear 32",
        "Linear 10",
    ]
    assert repaired([]) == ["Flatten 192", "Linear 10"]
    assert repaired(["Linear 10", "ReLU", "Dropout"]) == ["Flatten 192", "Linear 10"]


def test_kernels_and_strides_shrink_to_the_map():
    assert repaired(["Conv2d 4 kernel=9 stride=9"], (1, 3, 5))[0] == "Conv2d (4, 1, 2) kernel=5 stride=3"
    assert repaired(["Conv2d 4 kernel=7"], (1, 1, 1))[0] == "Conv2d (4, 1, 1) kernel=1 stride=1"
    # Where the range holds a kernel that fits, it is taken.
    assert repaired(["Conv2d 4 kernel=9"], (1, 2, 2), kernels=(1, 5, 9))[0] == "Conv2d (4, 2, 2) kernel=1 stride=1"


def test_pooling_that_would_vanish_or_changes_nothing_is_dropped():
    pools = ["MaxPool2d kernel=3", "AvgPool2d kernel=3", "MaxPool2d kernel=1 stride=1", "GlobalAvgPool"]
    assert repaired(pools, (3, 8, 8)) == [
        "MaxPool2d (3, 2, 2) kernel=3 stride=3",
        "GlobalAvgPool (3, 1, 1)",
        "Flatten 3",
        "Linear 10",
    ]


def test_flatten_stands_before_the_first_linear_layer_and_nowhere_else():
    lines = ["Flatten", "Conv2d 4", "Flatten", "Dropout", "Linear 8", "Conv2d 4", "MaxPool2d", "Flatten", "ReLU"]
    assert kinds(repaired(lines)) == ["Conv2d", "Dropout", "Flatten", "Linear", "ReLU", "Linear"]


def test_norms_fit_their_place():
    lines = ["BatchNorm2d", "LayerNorm", "Conv2d 4", "LayerNorm", "Linear 8", "BatchNorm2d", "Linear 1", "LayerNorm"]
    assert kinds(repaired(lines)) == [
        "BatchNorm2d",
        "Conv2d",
        "LayerNorm",
        "Flatten",
        "Linear",
        "LayerNorm",
        "Linear",
        "Linear",
    ]


def test_the_first_of_several_activations_in_a_row_stays():
    assert repaired(["ReLU", "GELU", "ELU"])[:2] == ["ReLU (3, 8, 8)", "Flatten 192"]


def test_groups_divide_the_channels():
    assert repaired(["Conv2d 6", "Conv2d 9 groups=4"])[1] == "Conv2d (9, 8, 8) kernel=3 stride=1 groups=3"
    assert repaired(["Conv2d 8", "Conv2d 12 groups=5"])[1] == "Conv2d (12, 8, 8) kernel=3 stride=1 groups=4"
    assert repaired(["Conv2d 7", "Conv2d 9 groups=5"])[1] == "Conv2d (9, 8, 8) kernel=3 stride=1"


def test_a_depthwise_convolution_has_the_channels_of_its_input():
    assert repaired(["Conv2d 8", "Conv2d 99 depthwise"])[1] == "Conv2d (8, 8, 8) kernel=3 stride=1 depthwise"
    assert repaired(["Conv2d 8", "Conv2d 8 groups=8"])[1] == "Conv2d (8, 8, 8) kernel=3 stride=1 depthwise"
    assert repaired(["Conv2d 6 depthwise"], (1, 8, 8))[0] == "Conv2d (6, 8, 8) kernel=3 stride=1"


def test_a_join_adds_as_is_or_through_a_convolution_or_is_dropped():
    template = Template.parse(
        ["Conv2d 4", "ReLU", "Conv2d 4", "Residual back=2", "Conv2d 8 stride=2", "Residual back=1", "Residual back=1"],
        (3, 8, 8),
        10,
    )
    assert kinds(template.lines)[3:7] == ["Residual", "Conv2d", "Residual", "Flatten"]
    assert template.projection(3) is None
    assert template.sources[3] == 1
    assert template.projection(5) == (4, 8, 2)


@pytest.mark.parametrize(
    "lines",
    [
        ["Conv2d 4", "Residual back=2"],  # reaches beyond the image
        ["Conv2d 4", "ReLU", "Dropout", "Residual back=2"],  # bridges no weights
        ["Conv2d 4 kernel=2", "Residual back=1"],  # shapes cannot agree
        ["Conv2d 4", "Linear 8", "Residual back=2"],  # a map and a vector
        ["Linear 8", "Linear 9", "Residual back=1"],  # two widths
    ],
)
def test_a_join_that_cannot_be_is_dropped(lines):
    assert "Residual" not in kinds(repaired(lines))


def test_a_join_keeps_its_source_when_layers_between_are_dropped():
    lines = ["Conv2d 4", "Conv2d 4", "MaxPool2d kernel=99", "ReLU", "GELU", "Flatten", "Residual back=5"]
    assert repaired(lines)[3] == "Residual (4, 8, 8) back=2"
    assert repaired(lines, max_back=1)[3] != "Residual (4, 8, 8) back=2"


def test_a_projection_exists_exactly_where_a_convolution_of_one_pixel_gives_that_shape():
    for before in range(1, 14):
        for after in range(1, 15):
            strides = [s for s in range(1, before + 1) if (before - 1) // s + 1 == after]
            assert projection_stride((2, before, before), (3, after, after)) == (strides[0] if strides else 0)
    assert projection_stride((1, 8, 4), (1, 4, 2)) == 2
    assert projection_stride((1, 8, 4), (1, 4, 4)) == 0
    assert projection_stride((1, 9, 1), (1, 1, 1)) == 9


def test_missing_layers_are_added_and_surplus_ones_dropped_from_the_end():
    assert kinds(repaired(["ReLU"], min_conv=2, min_linear=3)) == ["ReLU", *["Conv2d"] * 2, "Flatten", *["Linear"] * 3]
    lines = ["Conv2d 4", "ReLU", "Conv2d 5", "Conv2d 6", "Linear 7", "Linear 8"]
    assert kinds(repaired(lines, max_conv=2, max_linear=2)) == [
        "Conv2d",
        "ReLU",
        "Conv2d",
        "Flatten",
        "Linear",
        "Linear",
    ]
    assert kinds(repaired(lines, max_layers=7)) == ["Conv2d", "Conv2d", "Conv2d", "Flatten", *["Linear"] * 3]
    assert kinds(repaired(lines, max_layers=5, min_conv=1)) == ["Conv2d", "Flatten", *["Linear"] * 3]
    assert kinds(repaired(lines, max_layers=4)) == ["Flatten", *["Linear"] * 3]
    assert kinds(repaired(lines, max_layers=3)) == ["Flatten", "Linear", "Linear"]


def test_too_many_features_are_averaged_first():
    assert repaired(["Conv2d 16"], (1, 32, 32), max_features=4096)[1:] == [
        "GlobalAvgPool (16, 1, 1)",
        "Flatten 16",
        "Linear 10",
    ]
    assert repaired(["Conv2d 4"], (1, 32, 32), max_features=4096)[1] == "Flatten 4096"


def test_numbers_move_to_the_nearest_in_range():
    lines = ["Conv2d 50 kernel=4", "LeakyReLU slope=0.3", "Dropout rate=0.9", "Linear 5"]
    limits = {"channels": (16, 64), "kernels": (1, 5), "slopes": (0.1, 0.2), "rates": (0.1, 0.5), "widths": (8, 9)}
    assert repaired(lines, **limits) == [
        "Conv2d (64, 8, 8) kernel=5 stride=1",
        "LeakyReLU (64, 8, 8) slope=0.2",
        "Dropout (64, 8, 8) rate=0.5",
        "Flatten 4096",
        "Linear 8",
        "Linear 10",
    ]


def test_kinds_that_are_not_allowed_are_dropped():
    lines = ["Conv2d 4", "BatchNorm2d", "ReLU", "GELU", "MaxPool2d", "Linear 8", "BatchNorm2d", "Dropout"]
    assert kinds(repaired(lines, kinds=frozenset(["GELU", "BatchNorm2d"]))) == [
        "Conv2d",
        "BatchNorm2d",
        "GELU",
        "Flatten",
        "Linear",
        "Linear",
    ]


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ([1, 0, 8], 10, r"input_shape: \[1, 0, 8\] is not \[channels, height, width\]"),
        ([8, 8], 10, "input_shape"),
        ([1, 8.0, 8], 10, "input_shape"),
        (8, 10, r"input_shape: \[8\]"),
        ([1, 8, 8], 1, "num_classes: 1 is not an integer of at least 2"),
        ([1, 8, 8], True, "num_classes: True"),
    ],
)
def test_what_no_repair_can_save_is_one_clear_error(shape, classes, message):
    with pytest.raises(ValueError, match=message):
        repair([Layer("ReLU")], shape, classes)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_conv": 3, "max_conv": 2}, "min_conv: 3 is not at most max_conv 2"),
        ({"min_linear": 3, "max_linear": 2}, "min_linear: 3 is not at most max_linear 2"),
        ({"min_linear": 0}, "min_linear: 0 is not at least 1"),
        ({"min_conv": -1}, "min_conv: -1 is not at least 0"),
        ({"min_conv": 2, "max_layers": 4}, "max_layers: 4 is not at least 5"),
        ({"max_features": 0}, "max_features: 0"),
        ({"channels": ()}, "channels"),
        ({"kernels": (3, 1)}, "ascending"),
        ({"widths": (8, 8)}, "ascending"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        Limits(**limits)


@pytest.mark.parametrize("side", [1, 2, 3, 224, 1000])
def test_any_input_of_a_pixel_and_more_admits_a_network(side):
    rng = random.Random(side)
    for _ in range(20):
        found = repair(wild_layers(rng), (1, side, rng.choice([1, side])), 2)
        assert math.prod(found.shapes[-1]) == 2
