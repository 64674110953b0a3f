"""On what is a model trained? Image sets held in memory as tensors, split once, batched and augmented without a loop.

The classes are imported when first asked for: each needs a library (scikit-learn, torchvision) the others don't.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
