"""The common part of all image sets: loading once, one split for all candidates, batches on the device, augmentation."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

from lightning_evo._compat.lightning import overfit_batches_of
from lightning_evo.data.arrays import ImageSet, Splits, split
from lightning_evo.data.augment import cutout, random_crop, random_flip
from lightning_evo.data.batches import EpochBatches, TensorBatches
from lightning_evo.genome import derive_seed

__all__ = ["TensorImages"]


class TensorImages(L.LightningDataModule, ABC):
    """A labeled image set in memory as bytes; the base class of the built-in data modules.

    For a custom data set, subclass it and implement :meth:`source` and :meth:`load`. Batches are indexed as bytes, and
    normalized to floats on the device, in ``on_after_batch_transfer``, where training images are also augmented. Loaded
    sets are kept for the next candidate in the same process (the two most recently used).

    ``num_classes``, ``in_channels`` and ``image_size`` can be linked to a model; reading them loads the set.

    Args:
        batch_size: Training images per batch and device; see :class:`~lightning_evo.data.batches.EpochBatches`.
        eval_batch_size: Validation and test images per batch and device.
        validation: Share of the images (without an official test split) held out for validation, in (0, 1).
        test: Share held out for testing if the set has no official test split, in (0, 1).
        seed: Seed of the split and, together with torch's seed, of the order of the training images. It is deliberately
            not the global seed: candidates have different global seeds but must see the same split.
        size: Resize all images to ``size`` x ``size``; default: original size.
        limit_train: Maximum number of training images, with classes in proportion; default: all.
        limit_validation: The same for validation.
        limit_test: The same for testing.
        crop_padding: Augmentation: shift each image by up to this many pixels.
        flip: Augmentation: mirror half of the images horizontally.
        cutout: Augmentation: blank out a square of this side in pixels in each image.
        resident: Keep the whole set on the training device as bytes instead of sending every batch there.

    Raises:
        ValueError: A number is out of its range, or a split would be empty.
    """

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        validation: float = 0.2,
        test: float = 0.2,
        seed: int = 0,
        size: int | None = None,
        limit_train: int | None = None,
        limit_validation: int | None = None,
        limit_test: int | None = None,
        crop_padding: int = 0,
        flip: bool = False,
        cutout: int = 0,
        resident: bool = False,
    ) -> None:
        super().__init__()
        for name, share in (("validation", validation), ("test", test)):
            if not 0 < share < 1:
                raise ValueError(f"{name}: {share!r} is not a share between 0 and 1")
        counts = {
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
            "size": size,
            "limit_train": limit_train,
            "limit_validation": limit_validation,
            "limit_test": limit_test,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name}: {count!r} is not at least 1")
        for name, pixels in (("crop_padding", crop_padding), ("cutout", cutout)):
            if pixels < 0:
                raise ValueError(f"{name}: {pixels!r} is not at least 0")
        self.batch_size, self.eval_batch_size, self.seed, self.size = batch_size, eval_batch_size, seed, size
        self.crop_padding, self.flip, self.cutout, self.resident = crop_padding, flip, cutout, resident
        self._split = (validation, test, seed, (limit_train, limit_validation, limit_test))
        self._resident: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._scale: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def source(self) -> Hashable:
        """What decides the content of the set (arguments, files' sizes and times): equal sources are loaded once."""

    @abstractmethod
    def load(self) -> ImageSet:
        """Read the whole set, resized to ``self.size`` where that is set.

        Raises:
            FileNotFoundError: Something is missing; names the path and what is expected there.
        """

    # -- what a model must know ----------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.images.classes)

    @property
    def in_channels(self) -> int:
        """Channels of the images: 1 or 3."""
        return self.images.images.shape[1]

    @property
    def image_size(self) -> int:
        """The images' side in pixels; the smaller one where they are not square."""
        return min(self.images.images.shape[2:])

    @cached_property
    def images(self) -> ImageSet:
        """The whole set, shared by all data modules of the same source: not to be changed."""
        return _sets.get(self._key, self.load)

    @cached_property
    def splits(self) -> Splits:
        """Which images serve for training, validation and testing."""
        return _splits.get((self._key, self._split), lambda: split(self.images, *self._split))

    # -- Lightning's hooks ---------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Load and split, so that what is missing or wrong is known before training starts."""
        _ = self.splits

    def train_dataloader(self) -> TensorBatches:
        # Lightning's overfit_batches wants the same batches in every epoch.
        shuffle = self.trainer is None or not overfit_batches_of(self.trainer)
        return self._batches(self.splits.train, self.batch_size, shuffle)

    def val_dataloader(self) -> TensorBatches:
        return self._batches(self.splits.validation, self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> TensorBatches:
        return self._batches(self.splits.test, self.eval_batch_size, shuffle=False)

    def predict_dataloader(self) -> TensorBatches:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        training = self.trainer is not None and self.trainer.training
        # Under `precision: bf16-true` and the like the model's weights, and so its inputs, are not float32.
        module = self.trainer.lightning_module if self.trainer is not None else None
        dtype = module.dtype if module is not None and isinstance(module.dtype, torch.dtype) else torch.float32
        return self.prepare(images, augment=training, dtype=dtype), labels

    def teardown(self, stage: str) -> None:
        """Give the device's memory back."""
        self._resident.clear()
        self._scale.clear()

    def prepare(self, images: Tensor, augment: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
        """Bytes (N, C, H, W) as the loaders give them -> normalized numbers on the same device, augmented if asked."""
        if augment:
            images = random_crop(images, self.crop_padding)
            if self.flip:
                images = random_flip(images)
        if images.device not in self._scale:
            mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (self.splits.mean, self.splits.std))
            self._scale[images.device] = mean.to(images.device), std.reciprocal().to(images.device)
        mean, factor = self._scale[images.device]
        images = images.float().sub_(mean).mul_(factor)
        return (cutout(images, self.cutout) if augment else images).to(dtype)

    def _batches(self, indices: Tensor, batch_size: int, shuffle: bool) -> TensorBatches:
        images, labels = self.images.images, self.images.labels
        rank, world_size, seed = 0, 1, torch.initial_seed()
        if self.trainer is not None:
            strategy = self.trainer.strategy
            # Which share is this process's: none but its own under DDP, all of the data under `strategy: swarm`.
            share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
            rank, world_size = share["rank"], share["num_replicas"]
            # Processes may be seeded differently (or not at all); the order is one for all of them, unless the strategy
            # has each take its own.
            seed = strategy.broadcast(seed)
            seed = share.get("seed", seed)
            if self.resident:
                images, labels = self._on_device(strategy.root_device)
        sampler = EpochBatches(len(indices), batch_size, shuffle, derive_seed(self.seed, seed), rank, world_size)
        return TensorBatches(images, labels, indices, sampler)

    def _on_device(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._resident:
            self._resident[device] = self.images.images.to(device), self.images.labels.to(device)
        return self._resident[device]

    @cached_property
    def _key(self) -> Hashable:
        return type(self).__module__, type(self).__qualname__, self.size, self.source()


T = TypeVar("T")


class _Recent:
    """The last few things made, by key; safe to ask from several threads."""

    def __init__(self, size: int) -> None:
        self._size, self._kept, self._lock = size, OrderedDict[Hashable, Any](), threading.RLock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]


_sets = _Recent(2)
_splits = _Recent(8)
