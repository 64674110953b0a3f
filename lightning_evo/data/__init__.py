"""Image sets held in memory as tensors, split once, and batched and augmented without a loop over images.

The classes are imported when first asked for: each needs a library (scikit-learn, torchvision) the others don't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.data.arrays import ImageSet
    from lightning_evo.data.digits import Digits
    from lightning_evo.data.folder import ImageFolder
    from lightning_evo.data.images import TensorImages
    from lightning_evo.data.npz import NpzImages
    from lightning_evo.data.torchvision_images import TorchvisionImages

__all__ = ["Digits", "ImageFolder", "ImageSet", "NpzImages", "TensorImages", "TorchvisionImages"]

_HOME = {
    "Digits": "digits",
    "ImageFolder": "folder",
    "ImageSet": "arrays",
    "NpzImages": "npz",
    "TensorImages": "images",
    "TorchvisionImages": "torchvision_images",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
