"""Image classifiers: on any backbone, from a 20-bit chromosome, from a list of layers; and a small network.

The classes are imported when first asked for, so that ``lightning_evo.models.chromosome`` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_evo.utils.lazy import lazily

if TYPE_CHECKING:
    from lightning_evo.models.bitstring_cnn import BitstringCNN, ChromosomeNetwork
    from lightning_evo.models.chromosome import Decoded, canonical_chromosome, decode
    from lightning_evo.models.classifier import Classifier
    from lightning_evo.models.convnet import ConvNet
    from lightning_evo.models.image_classifier import ImageClassifier
    from lightning_evo.models.template_net import TemplateNet, TemplateNetwork

__all__ = [
    "BitstringCNN",
    "ChromosomeNetwork",
    "Classifier",
    "ConvNet",
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
    "ConvNet": "convnet",
    "Decoded": "chromosome",
    "ImageClassifier": "image_classifier",
    "TemplateNet": "template_net",
    "TemplateNetwork": "template_net",
    "canonical_chromosome": "chromosome",
    "decode": "chromosome",
}

if not TYPE_CHECKING:  # or every name would be there, as Any
    __getattr__, __dir__ = lazily(__name__, _HOME)
