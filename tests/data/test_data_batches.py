import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.data.batches import EpochBatches, TensorBatches

counts, sizes, worlds = st.integers(1, 300), st.integers(1, 70), st.integers(1, 5)


def all_ranks(count, batch_size, shuffle, world, epoch=0):
    ranks = []
    for rank in range(world):
        batches = EpochBatches(count, batch_size, shuffle, seed=3, rank=rank, world_size=world)
        batches.set_epoch(epoch)
        ranks.append(list(batches))
        assert len(ranks[-1]) == len(batches)
    return ranks


@given(counts, sizes, worlds)
def test_training_shares_are_disjoint_equal_and_leave_out_next_to_nothing(count, size, world):
    count = max(count, world)
    ranks = all_ranks(count, size, True, world)
    seen = torch.cat([torch.cat(batches) for batches in ranks])
    assert len(seen.unique()) == len(seen)
    assert len({tuple(len(batch) for batch in batches) for batches in ranks}) == 1
    assert count - len(seen) < world or (size == 2 and count - len(seen) < 2 * world)


@given(counts, sizes, worlds)
def test_evaluation_sees_every_image_once_in_equally_many_batches(count, size, world):
    count, size = max(count, world), max(size, 2)
    ranks = all_ranks(count, size, False, world)
    assert torch.cat([torch.cat(batches) for batches in ranks]).sort().values.tolist() == list(range(count))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) > 0 for batches in ranks for batch in batches)


@given(counts, sizes)
def test_batches_of_an_epoch_are_of_even_size_and_never_too_large(count, size):
    lengths = [len(batch) for batch in EpochBatches(count, size, shuffle=True)]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(2, 300), st.integers(2, 70))
def test_no_training_batch_holds_a_single_image(count, size):
    assert min(len(batch) for batch in EpochBatches(count, size, shuffle=True)) > 1


def test_every_epoch_has_another_order_that_its_seed_decides():
    first, again, other = (EpochBatches(50, 50, True, seed=seed) for seed in (1, 1, 2))
    epochs = [next(iter(first)).tolist() for _ in range(3)]
    assert len({tuple(order) for order in epochs}) == 3
    assert [next(iter(again)).tolist() for _ in range(3)] == epochs
    assert next(iter(other)).tolist() != epochs[0]
    again.set_epoch(1)
    assert next(iter(again)).tolist() == epochs[1]


def test_impossible_batches_are_refused():
    with pytest.raises(ValueError, match="batch_size: 0"):
        EpochBatches(10, 0, shuffle=True)
    with pytest.raises(ValueError, match="batch_size: 1 is not at least 2"):
        EpochBatches(10, 1, shuffle=False, world_size=2)
    with pytest.raises(ValueError, match="3 images are too few for 4 processes"):
        EpochBatches(3, 1, shuffle=True, world_size=4)


def test_batches_hold_the_images_the_indices_name_and_copies_of_them():
    images, labels = torch.arange(20).view(10, 2), torch.arange(10)
    [(found, names)] = TensorBatches(images, labels, torch.tensor([7, 3]), EpochBatches(2, 8, shuffle=False))
    assert names.tolist() == [7, 3]
    assert found.tolist() == [[14, 15], [6, 7]]
    found.zero_()
    assert images[7].tolist() == [14, 15]
