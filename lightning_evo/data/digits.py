"""The 1,797 handwritten digits that come with scikit-learn: a set that needs no file."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from lightning_evo.data.arrays import ImageSet
from lightning_evo.data.images import TensorImages

__all__ = ["Digits"]


class Digits(TensorImages):
    """scikit-learn's bundled handwritten digits: 1,797 gray images of 8 x 8 pixels, 10 classes, no official test split.

    Takes the arguments of :class:`~lightning_evo.data.TensorImages`; ``size`` 16, 28 or 32 makes them larger. With the
    default shares, 1,079 are for training, 359 for validation, and 359 for the test of the winner.

    >>> digits = Digits()
    >>> digits.num_classes, digits.in_channels, digits.image_size
    (10, 1, 8)
    """

    def source(self) -> Hashable:
        return ()

    def load(self) -> ImageSet:
        from sklearn.datasets import load_digits

        digits = load_digits()
        # The 17 shades, 0 to 16, spread over a byte.
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
        return ImageSet.from_arrays(pixels, digits.target, size=self.size)
