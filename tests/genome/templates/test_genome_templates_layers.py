import random

import pytest
from templates_making import wild_layer

from lightning_evo.genome.templates import Layer, parse_layers
from lightning_evo.genome.templates.layers import KINDS, write_layer


def test_a_written_layer_is_read_back_whatever_its_numbers():
    rng = random.Random(0)
    for _ in range(500):
        layer = wild_layer(rng)
        shape = (layer.out or 5, 3, 4) if layer.kind != "Linear" else (layer.out,)
        assert parse_layers([write_layer(layer, shape)]) == [layer]


@pytest.mark.parametrize(
    ("line", "layer"),
    [
        ("Conv2d 16", Layer("Conv2d", 16, 3, 1)),
        ("Conv2d (16, 8, 8) kernel=5 stride=2 groups=4", Layer("Conv2d", 16, 5, 2, 4)),
        ("  Conv2d(16,8,8)   depthwise kernel=5 ", Layer("Conv2d", 16, 5, 1, 0)),
        ("MaxPool2d", Layer("MaxPool2d", kernel=2, stride=2)),
        ("AvgPool2d kernel=3", Layer("AvgPool2d", kernel=3, stride=3)),
        ("MaxPool2d (16, 4, 4) kernel=3 stride=1 # 0 parameters", Layer("MaxPool2d", kernel=3, stride=1)),
        ("Linear 64", Layer("Linear", 64)),
        ("Flatten 1024", Layer("Flatten")),
        ("LeakyReLU", Layer("LeakyReLU", slope=0.01)),
        ("LeakyReLU 64 slope=1e-3", Layer("LeakyReLU", slope=0.001)),
        ("Dropout rate=0.25", Layer("Dropout", rate=0.25)),
        ("Residual back=3", Layer("Residual", back=3)),
    ],
)
def test_lines_written_by_hand_may_leave_out_what_follows_from_the_rest(line, layer):
    assert parse_layers([line]) == [layer]


def test_empty_lines_and_remarks_are_no_layers():
    assert parse_layers("\n# a remark\nReLU # another\n\n") == [Layer("ReLU")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Conv2D 16", "'Conv2D' is not a kind of layer; did you mean Conv2d"),
        ("Bogus", "'Bogus' is not a kind of layer; Conv2d, MaxPool2d"),
        ("Conv2d", "Conv2d needs its channels, at least 1, as in 'Conv2d 16'"),
        ("Conv2d ()", "needs its channels"),
        ("Linear 0", "Linear needs its width"),
        ("Conv2d 16 kernel=x", "kernel: 'x' is not an integer"),
        ("Conv2d 16 kernel=0", "kernel: 0 is not at least 1"),
        (
            "Conv2d 16 size=3",
            "'size=3' is not an argument of Conv2d, which accepts kernel=..., stride=..., groups=..., depthwise",
        ),
        ("Conv2d 16 kernel=3 kernel=5", "kernel is given twice"),
        ("Conv2d 16 groups=2 depthwise", "groups is given twice"),
        ("ReLU slope=0.1", "'slope=0.1' is not an argument of ReLU, which accepts none"),
        ("Dropout rate=1", "not in"),
        ("LeakyReLU slope=nan", "not finite"),
        ("LeakyReLU slope=a", "slope: 'a' is not a number"),
        ("-", "a layer is its kind"),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_its_number_and_what_is_accepted(line, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_layers(["ReLU", line])
    assert str(error.value).startswith(f"layer 2 ({line!r}): ")


@pytest.mark.parametrize("lines", [3, None, [1], ["ReLU", None]])
def test_what_is_no_list_of_lines_is_refused(lines):
    with pytest.raises(ValueError, match=r"is not a (list of lines|line of text)"):
        parse_layers(lines)


def test_every_kind_can_be_written_by_its_name_alone_but_those_with_a_size():
    for kind in KINDS:
        assert parse_layers([f"{kind} 8" if kind in ("Conv2d", "Linear") else kind])[0].kind == kind
