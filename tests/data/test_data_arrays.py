import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.data import ImageSet
from lightning_evo.data.arrays import pick_stratified, split


def grey(count=100, side=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side), dtype=np.uint8)


def labelled(count=100, classes=4):
    return ImageSet.from_arrays(grey(count), np.arange(count) % classes)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 8, 9, 3), (5, 3, 8, 9)),
        ((5, 8, 9, 1), (5, 1, 8, 9)),
        ((5, 3, 8, 9), (5, 3, 8, 9)),
    ],
)
def test_images_of_the_usual_layouts_become_channels_first_bytes(shape, expected):
    found = ImageSet.from_arrays(np.zeros(shape, np.uint8), [0, 1, 0, 1, 0]).images
    assert tuple(found.shape) == expected
    assert found.dtype == torch.uint8


def test_floats_and_booleans_become_bytes():
    numbers = np.array([[[0.0, 1.0]], [[0.5, 0.2]]])
    assert ImageSet.from_arrays(numbers, [0, 1]).images.flatten().tolist() == [0, 255, 128, 51]
    assert ImageSet.from_arrays(numbers > 0.1, [0, 1]).images.flatten().tolist() == [0, 255, 255, 255]


def test_labels_of_any_name_are_counted_from_zero():
    found = ImageSet.from_arrays(grey(4), np.array(["cat", "ant", "cat", "bee"]))
    assert found.classes == ("ant", "bee", "cat")
    assert found.labels.tolist() == [2, 0, 2, 1]
    assert ImageSet.from_arrays(grey(3), [[7], [5], [7]]).labels.tolist() == [1, 0, 1]


def test_a_class_that_only_the_test_split_has_still_counts():
    found = ImageSet.from_arrays(grey(2), [0, 1], test=(grey(1), [2]))
    assert len(found.classes) == 3
    assert found.test_start == 2


def test_resizing_gives_squares_and_keeps_a_plain_image_plain():
    found = ImageSet.from_arrays(np.full((3, 8, 12, 3), 77, np.uint8), [0, 1, 0], size=16).images
    assert tuple(found.shape) == (3, 3, 16, 16)
    assert found.unique().tolist() == [77]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (grey(3), [0, 1], "3 images have 2 labels"),
        (grey(3), [0.5, 1.0, 1.0], "neither integers nor strings"),
        (grey(3), [1, 1, 1], "at least 2"),
        (np.zeros((3, 8)), [0, 1, 0], "are not"),
        (np.zeros((3, 8, 8, 2), np.uint8), [0, 1, 0], "are not"),
        (np.zeros((3, 8, 8), np.int64), [0, 1, 0], "int64 are neither"),
        (np.full((3, 8, 8), 2.0), [0, 1, 0], "not between 0 and 1"),
        (np.full((3, 8, 8), np.nan), [0, 1, 0], "not between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_said(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSet.from_arrays(images, labels)


def test_test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        ImageSet.from_arrays(grey(3), [0, 1, 0], test=(grey(3, side=5), [0, 1, 0]))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=120), st.floats(0, 1), st.integers(0, 3))
def test_a_stratified_draw_takes_every_class_in_proportion(labels, share, seed):
    labels, count = torch.tensor(labels), round(share * len(labels))
    drawn, rest = pick_stratified(torch.arange(len(labels)), labels, count, torch.Generator().manual_seed(seed))
    assert sorted([*drawn.tolist(), *rest.tolist()]) == list(range(len(labels)))
    assert len(drawn) == count
    for label in labels.unique():
        of_class = labels == label
        assert abs(of_class[drawn].sum() - count * of_class.sum() / len(labels)) <= 1


def test_a_split_is_decided_by_its_seed_alone():
    torch.manual_seed(1)
    first = split(labelled(), 0.2, 0.1, seed=5)
    torch.manual_seed(2)
    again, other = split(labelled(), 0.2, 0.1, seed=5), split(labelled(), 0.2, 0.1, seed=6)
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)
    assert torch.cat([first.train, first.validation, first.test]).sort().values.tolist() == list(range(100))
    assert [len(part) for part in (first.train, first.validation, first.test)] == [70, 20, 10]


def test_an_official_test_split_stays_as_it_is():
    found = ImageSet.from_arrays(grey(50), np.arange(50) % 2, test=(grey(10), np.arange(10) % 2))
    parts = split(found, 0.2, 0.5, seed=0)
    assert parts.test.tolist() == list(range(50, 60))
    assert len(parts.validation) == 10


def test_limits_shorten_their_own_part_alone():
    whole, short = split(labelled(), 0.2, 0.2, 0), split(labelled(), 0.2, 0.2, 0, (8, None, 4))
    assert [len(part) for part in (short.train, short.validation, short.test)] == [8, 20, 4]
    assert torch.equal(short.validation, whole.validation)
    assert set(short.train.tolist()) < set(whole.train.tolist())
    # How much is trained on may be a gene: what judges must not depend on it.
    both, one = split(labelled(), 0.2, 0.2, 0, (8, 6, None)), split(labelled(), 0.2, 0.2, 0, (None, 6, None))
    assert torch.equal(both.validation, one.validation)


def test_a_split_that_would_be_empty_is_refused():
    with pytest.raises(ValueError, match="no images are left for the validation split"):
        split(labelled(6), 0.01, 0.5, seed=0)


def test_statistics_are_those_of_the_training_images_alone():
    found = labelled()
    parts = split(found, 0.3, 0.2, seed=0)
    pixels = found.images[parts.train].double()
    assert parts.mean == (pytest.approx(pixels.mean().item()),)
    assert parts.std == (pytest.approx(pixels.std(correction=0).item()),)
    blank = ImageSet.from_arrays(np.zeros((10, 3, 3), np.uint8), np.arange(10) % 2)
    assert split(blank, 0.2, 0.2, seed=0).std == (1.0,)
