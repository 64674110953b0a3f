"""The order of images in an epoch, and each process's share: whole batches by index."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_evo.genome import derive_seed

__all__ = ["EpochBatches", "TensorBatches"]


class EpochBatches:
    """Index tensors of the batches of an epoch, for one of ``world_size`` processes.

    The batches of an epoch are as equal as possible: ``ceil(n / batch_size)`` batches whose sizes differ by at most
    one. So no image is dropped and there is no small last batch, whose noise would harm batch normalization.

    Shuffled (training): every process draws the same order from (``seed``, epoch) and takes its own equal share; up to
    ``world_size - 1`` images, different ones each time, are left out of an epoch. A batch of a single image is left out
    unless ``batch_size`` is 1, because batch normalization can't train on it.

    In order (evaluation): every image is used exactly once, in one of the processes, and all processes have the same
    number of batches, as DistributedDataParallel requires.

    Args:
        count: Number of images.
        batch_size: Maximum number of images in a batch, per process.
        shuffle: Whether to shuffle, for training.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        ValueError: ``batch_size`` is below 1 (below 2 for evaluation in several processes), or there are fewer images
            than processes.
    """

    def __init__(
        self, count: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        least = 1 if shuffle or world_size == 1 else 2
        if batch_size < least:
            raise ValueError(f"batch_size: {batch_size!r} is not at least {least}")
        if count < world_size:
            raise ValueError(f"{count} images are too few for {world_size} processes")
        self.count, self.batch_size, self.shuffle, self.seed = count, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        # The largest share of one process; while training, all shares are equal.
        self._share = count // world_size if shuffle else math.ceil(count / world_size)
        self._batches = math.ceil(self._share / batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; without a call, epochs follow one another."""
        self.epoch = epoch

    @property
    def sampler(self) -> EpochBatches:
        """Itself: Lightning calls ``set_epoch`` of ``loader.batch_sampler.sampler`` before every epoch."""
        return self

    def __len__(self) -> int:
        # The last batch is a smallest one. It holds a single image where an odd number is cut into pairs.
        alone = self.shuffle and self.batch_size > 1 and self._batches > 1 and self._share // self._batches == 1
        return self._batches - 1 if alone else self._batches

    def __iter__(self) -> Iterator[Tensor]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(self.count, generator=generator)[: self._share * self.world_size]
        else:
            order = torch.arange(self.count)
        yield from order[self.rank :: self.world_size].tensor_split(self._batches)[: len(self)]


class TensorBatches:
    """Iterable of the batches of an epoch, indexed from tensors that stay in place.

    Args:
        images: (N, ...) of the whole set, on any device.
        labels: (N,), on the same device.
        indices: Indices of the images in this split.
        batch_sampler: Positions in ``indices`` for each batch. Lightning sets its epoch through this attribute.
    """

    def __init__(self, images: Tensor, labels: Tensor, indices: Tensor, batch_sampler: EpochBatches) -> None:
        self._images, self._labels = images, labels
        self._indices = indices.to(images.device)
        self.batch_sampler = batch_sampler

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in self.batch_sampler:
            chosen = self._indices[positions.to(self._indices.device, non_blocking=True)]
            yield self._images[chosen], self._labels[chosen]
