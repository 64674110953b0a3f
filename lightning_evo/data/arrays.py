"""Images and labels of any origin as two tensors, and their split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_evo.genome import derive_seed

__all__ = ["ImageSet", "Splits", "pick_stratified", "split"]


@dataclass(frozen=True)
class ImageSet:
    """A whole data set in memory; :meth:`from_arrays` builds it from the usual contents of files.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64, from 0 to the number of classes − 1.
        classes: Class names, by label.
        test_start: Index of the first test image if the set has an official test split, which extends to N − 1.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    test_start: int | None = None

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any,
        test: tuple[Any, Any] | None = None,
        classes: tuple[str, ...] | None = None,
        size: int | None = None,
    ) -> ImageSet:
        """Bring arrays or tensors into shape.

        Args:
            images: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels; uint8, bool, or floats in [0, 1].
            labels: N labels: whole numbers (any, they become 0, 1, ...) or text.
            test: Images and labels of an official test split.
            classes: Class names, for labels that are 0 to ``len(classes) - 1``; default: the labels themselves.
            size: Resize to ``size`` x ``size`` pixels (bilinear, antialiased).

        Raises:
            ValueError: Shapes, types or lengths don't fit.
        """
        parts = [(images, labels), *([test] if test is not None else [])]
        pixels = [_resize(_pixels(part[0]), size) for part in parts]
        names = [np.asarray(part[1]).reshape(-1) for part in parts]
        for image, label in zip(pixels, names, strict=True):
            if len(image) != len(label):
                raise ValueError(f"{len(image)} images have {len(label)} labels")
            if label.dtype.kind not in "iuUb":
                raise ValueError(f"labels of type {label.dtype} are neither integers nor strings")
        if len({image.shape[1:] for image in pixels}) > 1:
            raise ValueError(f"training and test images differ in shape: {[tuple(i.shape[1:]) for i in pixels]}")
        found, index = np.unique(np.concatenate(names), return_inverse=True)
        if classes is None:
            classes = tuple(str(name) for name in found)
        elif found.dtype.kind in "iu" and found[0] >= 0 and found[-1] < len(classes):
            index = np.concatenate(names)
        else:
            raise ValueError(f"labels {found[:10]}... are not 0 to {len(classes) - 1}, for which there are class names")
        if len(classes) < 2:
            raise ValueError(f"the labels contain {len(classes)} class; at least 2 are required")
        return cls(
            images=torch.cat(pixels) if len(pixels) > 1 else pixels[0],
            labels=torch.from_numpy(index.astype(np.int64)),
            classes=classes,
            test_start=len(pixels[0]) if test is not None else None,
        )


@dataclass(frozen=True)
class Splits:
    """Indices of the splits of a set, and statistics of the training images.

    Args:
        train: Indices into the set.
        validation: Indices into the set.
        test: Indices into the set.
        mean: Mean per channel over the training images, with pixels from 0 to 255.
        std: Standard deviation per channel; 1 if a channel is constant.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]


def split(
    images: ImageSet,
    validation: float,
    test: float,
    seed: int,
    limits: tuple[int | None, int | None, int | None] = (None, None, None),
) -> Splits:
    """Split a set for good: the same arguments always give the same split, whatever else is seeded.

    Args:
        images: The set. An official test split is kept; only the rest is divided.
        validation: Share of the images (official test split aside) held out for validation.
        test: Share held out for testing where there is no official test split; unused otherwise.
        seed: Decides the split.
        limits: Most training, validation and test images to keep; ``None``: all.

    Raises:
        ValueError: A part would be empty.
    """
    labels = images.labels
    if images.test_start is None:
        count = len(labels)
        held_out, rest = pick_stratified(torch.arange(count), labels, round(test * count), _generator(seed, "test"))
    else:
        count = images.test_start
        held_out, rest = torch.arange(count, len(labels)), torch.arange(count)
    evaluated, trained = pick_stratified(rest, labels, round(validation * count), _generator(seed, "validation"))
    parts = []
    for name, part, limit in zip(("train", "validation", "test"), (trained, evaluated, held_out), limits, strict=True):
        if limit is not None and limit < len(part):
            # A random stream for each: how much is trained on doesn't change what is evaluated.
            part, _ = pick_stratified(part, labels, limit, _generator(seed, "limit", name))
        if len(part) == 0:
            raise ValueError(
                f"no images are left for the {name} split: {count} images, validation={validation}, test={test}"
            )
        parts.append(part)
    mean, std = _statistics(images.images, parts[0])
    return Splits(parts[0], parts[1], parts[2], mean, std)


def pick_stratified(
    candidates: Tensor, labels: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw ``count`` of ``candidates``, every class in proportion (to within one image).

    Shuffles, sorts by label and takes evenly spaced ones, which works for any class size.

    Args:
        candidates: (M,) indices into ``labels``.
        labels: (N,) labels.
        count: How many to draw, 0 to M.
        generator: Source of randomness.

    Returns:
        The drawn indices and the others, each ascending.
    """
    total = len(candidates)
    shuffled = candidates[torch.randperm(total, generator=generator)]
    ordered = shuffled[labels[shuffled].argsort(stable=True)]
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.arange(count) * total // max(1, count)] = True
    return ordered[drawn].sort().values, ordered[~drawn].sort().values


def _generator(seed: int, *purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


def _pixels(images: Any) -> Tensor:
    pixels = torch.as_tensor(np.asarray(images) if not isinstance(images, Tensor) else images)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.ndim == 4 and pixels.shape[-1] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise ValueError(f"images of shape {tuple(pixels.shape)} are not (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if pixels.dtype == torch.bool:
        pixels = pixels.to(torch.uint8) * 255
    elif pixels.is_floating_point():
        low, high = pixels.min().item(), pixels.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images of type {pixels.dtype} lie between {low} and {high}, not between 0 and 1")
        pixels = (pixels * 255).round().to(torch.uint8)
    elif pixels.dtype != torch.uint8:
        raise ValueError(f"images of type {pixels.dtype} are neither uint8, bool nor floating point")
    return pixels.contiguous()


def _resize(pixels: Tensor, size: int | None) -> Tensor:
    if size is None or pixels.shape[-2:] == (size, size):
        return pixels
    # In pieces, so that only one of them stands in memory as floats.
    return torch.cat(
        [
            F.interpolate(piece.float(), (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
            for piece in pixels.split(4096)
        ]
    )


def _statistics(images: Tensor, indices: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, exact: from the counts of the 256 pixel values."""
    means, deviations = [], []
    value = torch.arange(256, dtype=torch.float64)
    for channel in range(images.shape[1]):
        counts = torch.zeros(256, dtype=torch.float64)
        for piece in indices.split(8192):
            counts += torch.bincount(images[piece, channel].reshape(-1), minlength=256)
        mean = (counts @ value) / counts.sum()
        deviation = ((counts @ (value - mean) ** 2) / counts.sum()).sqrt().item()
        means.append(mean.item())
        deviations.append(deviation or 1.0)
    return tuple(means), tuple(deviations)
