"""Random crop, flip and cutout for a whole batch, each image on its own, without a loop.

All draws come from torch's global generator of the images' device: torch's seed decides them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cutout", "random_crop", "random_flip"]


def random_crop(images: Tensor, padding: int) -> Tensor:
    """Pad each image with zeros on all sides and crop it back to its size at a random place.

    Args:
        images: (N, C, H, W), any type.
        padding: Pixels on each side, at least 0.

    Returns:
        (N, C, H, W): each image moved by up to ``padding`` pixels.
    """
    if padding == 0:
        return images
    count, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * padding + 1, (2, count), device=images.device)
    return windows[torch.arange(count, device=images.device), :, top, left]


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half; (N, C, H, W) -> (N, C, H, W)."""
    flips = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(flips, images.flip(-1), images)


def cutout(images: Tensor, size: int) -> Tensor:
    """Set a square to 0 in each image, centered on a random pixel and cut at the edges (DeVries and Taylor 2017).

    Args:
        images: (N, C, H, W), normalized so that 0 is the mean.
        size: Side of the square in pixels; 0 changes nothing.

    Returns:
        (N, C, H, W), a new tensor where ``size`` is above 0.
    """
    if size == 0:
        return images
    count, _, height, width = images.shape
    inside = []
    for side in (height, width):
        start = torch.randint(side, (count, 1), device=images.device) - size // 2
        position = torch.arange(side, device=images.device)
        inside.append((position >= start) & (position < start + size))
    return images.masked_fill((inside[0][:, None, :, None]) & (inside[1][:, None, None, :]), 0)
