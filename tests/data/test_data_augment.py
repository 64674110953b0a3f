import torch

from lightning_evo.data.augment import cutout, random_crop, random_flip


def numbered(count=40, height=6, width=5):
    return torch.arange(1, height * width + 1, dtype=torch.uint8).view(1, 1, height, width).repeat(count, 3, 1, 1)


def test_a_crop_moves_each_image_as_a_whole_and_fills_with_zeros():
    images = numbered()
    padded = torch.nn.functional.pad(images[0], (2, 2, 2, 2))
    possible = {tuple(padded[:, y : y + 6, x : x + 5].flatten().tolist()): (y, x) for y in range(5) for x in range(5)}
    moves = {possible[tuple(image.flatten().tolist())] for image in random_crop(images, 2)}
    assert len(moves) > 5


def test_a_flip_mirrors_about_half_of_the_images():
    image = numbered(1)[0]
    flipped = random_flip(numbered(200))
    mirrored = [torch.equal(after, image.flip(-1)) for after in flipped]
    assert 60 < sum(mirrored) < 140
    assert all(torch.equal(after, image) for after, mirror in zip(flipped, mirrored, strict=True) if not mirror)


def test_cutout_blanks_one_square_cut_at_the_edges():
    images = torch.ones(300, 2, 8, 8)
    holes = cutout(images, 4)[:, 0] == 0
    areas = holes.sum((1, 2))
    assert areas.max() == 16
    assert areas.min() >= 4
    for hole in holes:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
    assert images.min() == 1


def test_all_channels_of_an_image_change_alike():
    images = numbered().float()
    for changed in (random_crop(images, 2), random_flip(images), cutout(images, 3)):
        assert torch.equal(changed[:, 0], changed[:, 2])


def test_torchs_seed_decides_what_happens():
    def augmented(seed):
        torch.manual_seed(seed)
        return cutout(random_flip(random_crop(numbered(), 2)), 2)

    assert torch.equal(augmented(1), augmented(1))
    assert not torch.equal(augmented(1), augmented(2))


def test_nothing_asked_changes_nothing():
    images = numbered()
    assert torch.equal(random_crop(images, 0), images)
    assert torch.equal(cutout(images, 0), images)
