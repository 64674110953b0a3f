"""Pictures of any mode and size as one array."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

__all__ = ["stack_pictures"]


def stack_pictures(pictures: Iterable[Image.Image], size: int | None, channels: int | None = None) -> np.ndarray:
    """Convert and resize pictures one after the other, so that only the result stands in memory.

    Args:
        pictures: What PIL opened.
        size: Side in pixels to resize to; ``None``: keep the size, which must then be the same for all.
        channels: 1 for gray, 3 for color; ``None``: as the first picture has it.

    Returns:
        (N, H, W) or (N, H, W, 3), uint8.

    Raises:
        ValueError: The pictures differ in size and ``size`` is not set, or there are none.
    """
    arrays: list[np.ndarray] = []
    for picture in pictures:
        if channels is None:
            channels = 1 if picture.mode in ("1", "L") else 3
        picture = picture.convert("L" if channels == 1 else "RGB")
        if size is not None:
            picture = picture.resize((size, size), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(picture))
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"image {len(arrays) - 1} has shape {arrays[-1].shape} and the first one {arrays[0].shape}; set size"
            )
    if not arrays:
        raise ValueError("there are no images")
    return np.stack(arrays)
