import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_evo.data import Digits, ImageFolder, NpzImages, TorchvisionImages


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def counts(data):
    return [len(part) for part in (data.splits.train, data.splits.validation, data.splits.test)]


def test_digits_come_without_any_file_in_sixty_twenty_twenty():
    assert counts(Digits()) == [1079, 359, 359]
    assert Digits().images.images.unique().numel() == 17


@pytest.mark.parametrize("size", [16, 28, 32])
def test_digits_can_be_made_larger(size):
    assert Digits(size=size).image_size == size


# -- NumPy archives ----------------------------------------------------------------------------------------------------


def test_an_archive_with_train_and_test_arrays_keeps_its_test_split(tmp_path):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "a.npz", x_train=pixels(20, 6, 6), y_train=labels, x_test=pixels(4, 6, 6), y_test=labels[:4])
    data = NpzImages(str(tmp_path / "a.npz"))
    assert counts(data) == [16, 4, 4]
    assert data.splits.test.tolist() == [20, 21, 22, 23]


def test_several_archives_are_put_one_after_the_other(tmp_path):
    for at in range(3):
        np.savez(tmp_path / f"{at}.npz", x=np.full((10, 4, 4, 3), at, np.uint8), y=np.arange(10) % 5)
    data = NpzImages([str(tmp_path / f"{at}.npz") for at in range(2)], test_path=str(tmp_path / "2.npz"))
    assert data.images.images[:, 0, 0, 0].tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert counts(data) == [16, 4, 10]
    assert (data.in_channels, data.num_classes) == (3, 5)


def test_arrays_of_other_names_can_be_named(tmp_path):
    np.savez(tmp_path / "a.npz", x28=pixels(20, 4, 4) > 99, alphabet=np.array(["Greek", "Latin"] * 10))
    data = NpzImages(str(tmp_path / "a.npz"), images_key="x28", labels_key="alphabet")
    assert data.images.classes == ("Greek", "Latin")


def test_a_rewritten_archive_is_read_again(tmp_path):
    path = tmp_path / "a.npz"
    for value in (1, 2):
        np.savez(path, x=np.full((10, 4, 4), value, np.uint8), y=np.arange(10) % 2)
        os.utime(path, ns=(value, value))
        assert NpzImages(str(path)).images.images.unique().tolist() == [value]


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz: no such file; expected a \.npz"):
        NpzImages(str(tmp_path / "gone.npz")).setup("fit")


def test_an_archive_without_such_arrays_is_told_which_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", pictures=pixels(4, 4, 4))
    with pytest.raises(
        ValueError, match="contains the arrays pictures; expected 'x_train' and 'y_train' or 'x' and 'y'"
    ):
        NpzImages(str(tmp_path / "a.npz")).setup("fit")


@pytest.mark.parametrize("kind", ["text", "truncated", "lone"])
def test_what_is_no_archive_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "a.npz"
    np.savez(path, x=pixels(40, 8, 8), y=np.arange(40) % 2)
    if kind == "text":
        path.write_text("hello")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        with path.open("wb") as file:
            np.save(file, pixels(4, 4, 4))
    with pytest.raises(ValueError, match=r"a\.npz: can't be read as a \.npz"):
        NpzImages(str(path)).setup("fit")


def test_half_a_pair_of_names_and_no_path_are_refused(tmp_path):
    with pytest.raises(ValueError, match="give both or neither"):
        NpzImages("a.npz", images_key="x")
    with pytest.raises(ValueError, match="empty list"):
        NpzImages([])


# -- folders of pictures -----------------------------------------------------------------------------------------------


def draw(path, value, size=(6, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_a_folder_per_class_becomes_a_set(tmp_path):
    for at in range(10):
        draw(tmp_path / "dog" / f"{at}.png", (at, 0, 0))
        draw(tmp_path / "cat" / "deeper" / f"{at}.bmp", (0, at, 0))
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    data = ImageFolder(str(tmp_path))
    assert data.images.classes == ("cat", "dog")
    assert counts(data) == [12, 4, 4]
    assert data.images.images[data.images.labels == 1, 0, 0, 0].tolist() == list(range(10))


def test_train_and_test_folders_keep_their_split_and_pictures_are_resized(tmp_path):
    for name in ("a", "b"):
        for at in range(5):
            draw(tmp_path / "train" / name / f"{at}.png", 7, size=(6 + at, 9), mode="L")
        draw(tmp_path / "test" / name / "0.png", 7, mode="L")
    data = ImageFolder(str(tmp_path), channels=1, size=8)
    assert (data.in_channels, data.image_size) == (1, 8)
    assert counts(data) == [8, 2, 2]


def test_pictures_of_different_sizes_need_a_size(tmp_path):
    draw(tmp_path / "a" / "0.png", 7, mode="L")
    draw(tmp_path / "b" / "0.png", 7, size=(9, 9), mode="L")
    with pytest.raises(ValueError, match="set size"):
        ImageFolder(str(tmp_path)).setup("fit")


def test_a_missing_or_empty_folder_and_a_broken_picture_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: expected one folder per class"):
        ImageFolder(str(tmp_path / "gone")).setup("fit")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="expected one folder per class"):
        ImageFolder(str(tmp_path)).setup("fit")
    (tmp_path / "a" / "broken.png").write_text("hello")
    with pytest.raises(ValueError, match=r"broken\.png: can't be read as an image"):
        ImageFolder(str(tmp_path)).setup("fit")


def test_a_test_class_that_is_never_trained_on_is_refused(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        draw(tmp_path / part / name / "0.png", 7, mode="L")
    with pytest.raises(ValueError, match=r"lacks: \['c'\]"):
        ImageFolder(str(tmp_path)).setup("fit")


# -- torchvision -------------------------------------------------------------------------------------------------------


def write_mnist(root, name="FashionMNIST"):
    """Lay a tiny set out as torchvision's own files."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 20), ("t10k", 10)):
        images, labels = pixels(count, 28, 28), np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            with (raw / f"{stem}-{kind}-ubyte").open("wb") as file:
                file.write(struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape))
                file.write(array.tobytes())


@pytest.mark.parametrize("download", [False, True])
def test_a_set_that_lies_there_is_read_with_its_classes_and_test_split(tmp_path, download):
    write_mnist(tmp_path)
    data = TorchvisionImages("FashionMNIST", root=str(tmp_path), download=download)
    data.prepare_data()
    assert counts(data) == [16, 4, 10]
    assert data.images.classes[-1] == "Ankle boot"
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
    torch.testing.assert_close(data.images.images[:20, 0], torch.from_numpy(pixels(20, 28, 28)))


def test_a_set_that_torchvision_reads_picture_by_picture_is_read_too(tmp_path):
    for at in range(20):
        draw(tmp_path / "eurosat" / "2750" / ("Forest" if at % 2 else "River") / f"{at}.jpg", (at, at, at))
    data = TorchvisionImages("EuroSAT", root=str(tmp_path), size=8)
    assert data.images.classes == ("Forest", "River")
    assert counts(data) == [12, 4, 4]
    assert data.image_size == 8


def test_an_unknown_set_is_refused_with_close_names():
    with pytest.raises(ValueError, match="'FashonMNIST' is not among torchvision's: did you mean FashionMNIST"):
        TorchvisionImages("FashonMNIST")


def test_a_missing_set_is_named_with_where_it_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected torchvision's MNIST there .* set download: true"):
        TorchvisionImages("MNIST", root=str(tmp_path)).setup("fit")


def test_further_arguments_reach_torchvision(tmp_path):
    raw = tmp_path / "EMNIST" / "raw"
    write_mnist(tmp_path, "EMNIST")
    for file in list(raw.iterdir()):
        stem = "train" if file.name.startswith("train") else "test"
        file.rename(raw / f"emnist-digits-{stem}-{file.name.split('-', 1)[1]}")
    data = TorchvisionImages("EMNIST", root=str(tmp_path), dataset_args={"split": "digits"})
    assert counts(data) == [16, 4, 10]
