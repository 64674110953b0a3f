import random

import pytest
from templates_making import wild_layers

from lightning_evo.genome.templates import BIT_WIDTH, ENCODING_VERSION, Layer, decode_layer, encode_layer
from lightning_evo.genome.templates.encoding import read_layer
from lightning_evo.genome.templates.repair import repair


def text(layer):
    return "".join(map(str, encode_layer(layer)))


def test_version_1_of_the_layout_is_what_the_table_says():
    assert ENCODING_VERSION == 1
    assert BIT_WIDTH == 32
    known = {
        Layer("Conv2d", 32, 3, 1): "10000000 000000100000 0010 000 0 0000",
        Layer("Conv2d", 4095, 16, 8, 16): "10000000 111111111111 1111 111 0 1111",
        Layer("Conv2d", 8, 5, 2, 0): "10000000 000000001000 0100 001 1 0000",
        Layer("MaxPool2d", kernel=2, stride=2): "01000000 100000000000 0001 001 00000",
        Layer("AvgPool2d", kernel=3, stride=1): "01000000 010000000000 0010 000 00000",
        Layer("GlobalAvgPool"): "01000000 001000000000 0000 000 00000",
        Layer("Flatten"): "00100000 000000000000 0000 000 00000",
        Layer("Linear", 1024): "00010000 0000010000000000 00000000",
        Layer("BatchNorm2d"): "00001000 100000000000000000000000",
        Layer("LayerNorm"): "00001000 010000000000000000000000",
        Layer("ReLU"): "00000100 100000 0000000000 00000000",
        Layer("LeakyReLU", slope=0.01): "00000100 010000 0000001010 00000000",
        Layer("PReLU"): "00000100 001000 0000000000 00000000",
        Layer("ELU"): "00000100 000100 0000000000 00000000",
        Layer("GELU"): "00000100 000010 0000000000 00000000",
        Layer("SiLU"): "00000100 000001 0000000000 00000000",
        Layer("Dropout", rate=0.5): "00000010 000000 0111110100 00000000",
        Layer("Residual", back=3): "00000001 000011 000000000000000000",
    }
    assert {layer: text(layer) for layer in known} == {layer: bits.replace(" ", "") for layer, bits in known.items()}


def test_every_layer_of_repaired_templates_comes_back_exactly():
    rng = random.Random(0)
    for _ in range(200):
        for layer in repair(wild_layers(rng), (3, 20, 20), 10).layers:
            bits = encode_layer(layer)
            assert len(bits) == BIT_WIDTH
            assert set(bits) <= {0, 1}
            assert decode_layer(bits) == layer


def test_every_slope_and_rate_in_thousandths_comes_back_exactly():
    for thousandths in range(1, 1000):
        for layer in (Layer("Dropout", rate=thousandths / 1000), Layer("LeakyReLU", slope=thousandths / 1000)):
            assert decode_layer(encode_layer(layer)) == layer


def test_zeros_are_padding():
    assert decode_layer([0] * 32) is None


@pytest.mark.parametrize("bits", [[1] * 32, [0, 0, 0, 1] + [0] * 28, [0] * 31 + [1], [1] + [0] * 7, [0, 1] + [0] * 30])
def test_bits_that_are_no_layer_are_refused(bits):
    with pytest.raises(ValueError, match="is not a layer in encoding 1"):
        decode_layer(bits)


def test_any_numbers_are_read_as_some_layer_or_padding():
    rng = random.Random(0)
    for _ in range(300):
        layer = read_layer([rng.random() for _ in range(32)])
        assert layer is None or repair([layer], (3, 8, 8), 10)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Layer("Conv2d", 4096, 3, 1), "Conv2d: out 4096 does not fit its 12 bits: 0 to 4095"),
        (Layer("Conv2d", 8, 17, 1), "kernel 17 does not fit its 4 bits: 1 to 16"),
        (Layer("Conv2d", 8, 3, 9), "stride 9"),
        (Layer("Conv2d", 34, 3, 1, 17), "groups 17"),
        (Layer("Linear", 65536), "out 65536"),
        (Layer("LeakyReLU", slope=0.0005), "slope 0.0005 does not fit its 10 bits: 0 to 1.023 in steps of 0.001"),
        (Layer("Residual", back=64), "back 64"),
    ],
)
def test_a_number_that_does_not_fit_is_refused_with_its_range(layer, message):
    with pytest.raises(ValueError, match=message):
        encode_layer(layer)
