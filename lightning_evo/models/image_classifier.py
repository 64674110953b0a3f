"""Any torch or torchvision network as a classifier that LightningCLI can configure."""

from __future__ import annotations

import difflib
import warnings
from typing import Any

from torch import nn

from lightning_evo.models.classifier import Classifier

__all__ = ["ImageClassifier"]


class ImageClassifier(Classifier):
    """Any torch or torchvision network as an image classifier.

    Args:
        backbone: The name of a torchvision classification model (``resnet18``), built with fresh weights and
            ``num_classes`` outputs; or a module (in YAML a ``class_path``) that returns (N, ``num_classes``).
        num_classes: Number of classes.
        in_channels: Channels of the images. If not 3, the first convolution of a torchvision model is replaced.
        small_images: For a torchvision ResNet: a first convolution of 3 x 3 without stride and no first max-pooling, as
            is usual for images of 32 x 32 and below.
        training: The arguments of :class:`Classifier`: ``optimizer``, ``lr``, ``schedule`` and so on.

    A backbone passed as a module in Python isn't saved with the hyperparameters: pass it again to
    ``ImageClassifier.load_from_checkpoint(path, backbone=...)``. One that comes from a config is rebuilt.

    Raises:
        ValueError: No torchvision classification model has this name, or it has no such first layers to replace.

    >>> ImageClassifier("resnet18", num_classes=4, in_channels=1).network.conv1.in_channels
    1
    """

    def __init__(
        self,
        backbone: nn.Module | str = "resnet18",
        num_classes: int = 10,
        in_channels: int = 3,
        small_images: bool = False,
        **training: Any,
    ) -> None:
        network = (
            backbone
            if isinstance(backbone, nn.Module)
            else _torchvision_model(backbone, num_classes, in_channels, small_images)
        )
        super().__init__(network, num_classes, **training)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute 'backbone' is an instance of `nn.Module`")
            self.save_hyperparameters()
        # From a config the hyperparameter is the config's section (plain data, worth keeping), from Python the module.
        if isinstance(self.hparams.get("backbone"), nn.Module):
            del self.hparams["backbone"]  # Lightning 2.5 adds to what was saved before
            self.save_hyperparameters(ignore=["backbone"])


def _torchvision_model(name: str, num_classes: int, in_channels: int, small_images: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise ValueError(
            f"backbone: {name!r} is not a torchvision classification model; close names: {', '.join(close) or 'none'}"
        )
    # The two Inception models give auxiliary scores in training and warn unless told how to initialize.
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if small_images:
        if not isinstance(network, models.ResNet):
            raise ValueError(f"small_images: {name!r} is not a ResNet; leave small_images out")
        network.conv1 = nn.Conv2d(in_channels, network.conv1.out_channels, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif in_channels != 3:
        path, first = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
        parent, _, attribute = path.rpartition(".")
        setattr(network.get_submodule(parent), attribute, _with_channels(first, in_channels))
    return network


def _with_channels(layer: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """The same convolution for another number of input channels."""
    geometry: dict[str, Any] = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    return nn.Conv2d(in_channels, layer.out_channels, **geometry, bias=layer.bias is not None)
