"""What is built? Image classifiers: on any backbone, of a 20-bit chromosome, of a list of layers.

The classes are imported when first asked for, so that ``lightning_evo.models.chromosome`` needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_evo.models.bitstring_cnn import BitstringCNN, ChromosomeNetwork
    from lightning_evo.models.chromosome import Decoded, canonical_chromosome, decode
    from lightning_evo.models.classifier import Classifier
    from lightning_evo.models.image_classifier import ImageClassifier
    from lightning_evo.models.template_net import TemplateNet, TemplateNetwork

__all__ = [
    "BitstringCNN",
    "ChromosomeNetwork",
    "Classifier",
    "Decoded",
    "ImageClassifier",
    "TemplateNet",
    "TemplateNetwork",
    "canonical_chromosome",
    "decode",
]

_HOME = {
    "BitstringCNN": "bitstring_cnn",
    "ChromosomeNetwork": "bitstring_cnn",
    "Classifier": "classifier",
    "Decoded": "chromosome",
    "ImageClassifier": "image_classifier",
    "TemplateNet": "template_net",
    "TemplateNetwork": "template_net",
    "canonical_chromosome": "chromosome",
    "decode": "chromosome",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
