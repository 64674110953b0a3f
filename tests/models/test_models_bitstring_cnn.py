import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_evo.models import BitstringCNN, ChromosomeNetwork
from lightning_evo.models.chromosome import LENGTH, canonical_chromosome, decode

pytestmark = pytest.mark.usefixtures("plain_convolutions")

PHENOTYPES = sorted({canonical_chromosome(format(number, "020b")) for number in range(0, 2**20, 2)})
SIZES = [8, 9, 15, 28, 32, 64, 96, 224]
SMALL = {"widths": (2, 3, 4, 5), "max_width": 12, "head": (6,)}
chromosomes = st.text("01", min_size=LENGTH, max_size=LENGTH)


def build(bits, size, channels=1, **options):
    return ChromosomeNetwork(decode(bits), 10, channels, size, **options)


def runs_on_meta(bits, size, channels):
    with torch.device("meta"):
        return build(bits, size, channels)(torch.empty(2, channels, size, size)).shape == (2, 10)


def test_phenotypes_from_all_over_build_and_run_at_all_sizes():
    cases = zip(PHENOTYPES[::37], itertools.cycle(itertools.product(SIZES, (1, 3))), strict=False)
    for bits, (size, channels) in cases:
        assert runs_on_meta(bits, size, channels), (bits, size, channels)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("sizes", [[8], SIZES])
def test_every_phenotype_builds_and_runs(sizes):
    shapes_differ = [bits for bits in PHENOTYPES if decode(bits).activation == "relu"]
    for bits, (size, channels) in zip(shapes_differ, itertools.cycle(itertools.product(sizes, (1, 3))), strict=False):
        scores = build(bits, size, channels, **SMALL)(torch.randn(2, channels, size, size))
        assert scores.shape == (2, 10), (bits, size, channels)
        assert torch.isfinite(scores).all(), (bits, size, channels)


@settings(max_examples=40, deadline=None)
@given(chromosomes, st.sampled_from([8, 11, 28, 33, 56]), st.sampled_from([1, 3]))
def test_any_chromosome_computes_finite_scores_and_gradients(bits, size, channels):
    network = build(bits, size, channels, **SMALL)
    scores = network(torch.randn(3, channels, size, size))
    scores.square().sum().backward()
    assert scores.shape == (3, 10)
    assert torch.isfinite(scores).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@settings(max_examples=5, deadline=None)
@given(chromosomes)
def test_any_chromosome_runs_at_224_pixels(bits):
    assert build(bits, 224, 3, **SMALL).eval()(torch.randn(1, 3, 224, 224)).shape == (1, 10)


@settings(max_examples=30, deadline=None)
@given(chromosomes, chromosomes, st.sampled_from([8, 32, 224]))
def test_chromosomes_with_one_canonical_form_build_the_identical_network(bits, noise, size):
    depth = 2 + int(bits[:2], 2)
    unread = {2, 5, 8, 11, 19, *range(12 + depth, 19)}
    twin = "".join(noise[at] if at in unread else bit for at, bit in enumerate(bits))
    assert canonical_chromosome(twin) == canonical_chromosome(bits)
    with torch.device("meta"):
        first, second = build(bits, size), build(twin, size)
    assert repr(first) == repr(second)
    assert shapes(first) == shapes(second)


@pytest.mark.parametrize("every", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_chromosomes_with_different_canonical_forms_build_different_networks(every):
    chosen = PHENOTYPES[::every]
    built = {repr(build(bits, 224, widths=(2, 3, 4, 5), head=())) for bits in chosen}
    assert len(built) == len(chosen)


def shapes(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("pooling", range(4))
def test_pooling_halves_the_map_until_one_pixel_is_left(pooling):
    bits = "11" + "0" * 7 + format(pooling, "02b") + "0" * 9
    network = build(bits, 8, widths=(1, 1, 1, 1)).eval()
    maps, sides = torch.zeros(1, 1, 8, 8), []
    for block in network.features:
        maps = block(maps)
        sides.append(maps.shape[-1])
    assert sides == [4, 2, 1, 1, 1]


def test_a_kernel_cut_on_a_small_map_computes_what_the_whole_kernel_would():
    bits = "00011" + "0" * 7 + "11" + "0" * 6  # kernel 9, one convolution per block; the second map is 4 x 4
    network = build(bits, 8, **SMALL).eval()
    cut = network.features[1][0]
    assert cut.kernel_size == (7, 7)
    whole = torch.nn.Conv2d(cut.in_channels, cut.out_channels, 9, padding="same", bias=False)
    with torch.no_grad():
        whole.weight[:, :, 1:-1, 1:-1] = cut.weight
    maps = torch.randn(2, cut.in_channels, 4, 4)
    torch.testing.assert_close(whole(maps), cut(maps))


@pytest.mark.parametrize("activation", range(4))
def test_pooling_before_the_activation_gives_what_pooling_after_it_would(activation):
    network = build("0" * 6 + format(activation, "02b") + "0" * 4 + "11" + "0" * 6, 8, **SMALL).eval()
    convolution, norm, *rest = network.features[0]
    act = next(layer for layer in rest if not isinstance(layer, (torch.nn.MaxPool2d, torch.nn.Dropout)))
    maps = torch.randn(2, 1, 8, 8)
    expected = torch.nn.functional.max_pool2d(act(norm(convolution(maps))), 2)
    torch.testing.assert_close(network.features[0](maps), expected)


def test_widths_double_from_block_to_block_up_to_the_most_allowed():
    network = build("11" + "0" * 18, 32, widths=(1, 2, 3, 4), max_width=20)
    assert [block[0].out_channels for block in network.features] == [4, 8, 16, 20, 20]


def test_images_that_are_not_square_are_classified_too():
    assert build("0" * 20, 12, 3, **SMALL)(torch.randn(2, 3, 12, 20)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [1, 2, 3]}, "four numbers"),
        ({"widths": [0, 2, 3, 4]}, "at least 1"),
        ({"image_size": 0}, "image_size: 0"),
        ({"in_channels": 0}, "in_channels: 0"),
        ({"max_width": 0}, "max_width: 0"),
        ({"grid": 0}, "grid: 0"),
        ({"head": [0]}, "below 1"),
        ({"chromosome": "01"}, "20 characters"),
    ],
)
def test_a_wrong_argument_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        BitstringCNN(**options)


def test_its_arguments_travel_with_the_checkpoint(tmp_path):
    import lightning as L

    model = BitstringCNN("01" + "0" * 18, image_size=8, lr=0.02, schedule="linear", **SMALL)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = BitstringCNN.load_from_checkpoint(tmp_path / "model.ckpt")
    assert again.hparams == model.hparams
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.eval()(images), model.eval()(images))
