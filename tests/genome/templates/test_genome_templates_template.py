import random

import pytest
from templates_making import wild_layers

from lightning_evo.genome import Template

LINES = ["Conv2d 8 stride=2", "LeakyReLU", "Residual back=2", "LayerNorm", "Linear 32", "PReLU"]

LISTING = """\
Conv2d     (8, 4, 4)  kernel=3 stride=2  # 224 parameters
LeakyReLU  (8, 4, 4)  slope=0.01
Residual   (8, 4, 4)  back=2             # 24 parameters, 1x1 convolution with stride 2
LayerNorm  (8, 4, 4)                     # 16 parameters
Flatten    128
Linear     32                            # 4,128 parameters
PReLU      32                            # 1 parameter
Linear     10                            # 330 parameters
# total: 4,723 parameters, 16,512 FLOPs forward"""


@pytest.fixture
def template():
    return Template.parse(LINES, [3, 8, 8], 10)


def test_it_prints_layer_shape_numbers_and_parameters_in_columns(template):
    assert str(template) == LISTING


def test_what_it_prints_and_its_lines_are_read_back():
    rng = random.Random(0)
    for _ in range(200):
        shape = [rng.randint(1, 3), rng.randint(1, 40), rng.randint(1, 40)]
        template = Template(wild_layers(rng), shape, 10)
        assert Template.parse(str(template), shape, 10) == template
        assert Template.parse(template.lines, shape, 10).lines == template.lines


def test_equal_templates_are_equal_and_cannot_be_changed(template):
    again = Template.parse(template.lines, (3, 8, 8), 10)
    assert again == template
    assert hash(again) == hash(template)
    assert again != Template.parse(LINES, (3, 8, 8), 11)
    assert len(template) == len(template.lines) == len(template.shapes)
    with pytest.raises(AttributeError):
        template.layers = ()


def test_its_repr_makes_it_anew(template):
    assert eval(repr(template)) == template


def test_sizes_add_up_over_layers(template):
    assert template.params == sum(template.layer_params) == 4723
    assert template.flops == sum(template.layer_flops)
