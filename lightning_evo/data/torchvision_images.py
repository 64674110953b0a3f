"""Data sets that torchvision knows by name."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_evo.data.arrays import ImageSet
from lightning_evo.data.images import TensorImages
from lightning_evo.data.pictures import stack_pictures

__all__ = ["TorchvisionImages"]

_FLAG = ({"train": True}, {"train": False})
_SPLIT = ({"split": "train"}, {"split": "test"})
_SPLIT_VAL = ({"split": "train"}, {"split": "val"})
_TRAINVAL = ({"split": "trainval"}, {"split": "test"})
_WHOLE: tuple[dict[str, Any], ...] = ({},)

# How each data set's constructor is asked for its training part and its official test part.
_PARTS: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _FLAG),
    **dict.fromkeys(("Country211", "DTD", "Flowers102", "Food101", "GTSRB", "PCAM", "RenderedSST2"), _SPLIT),
    **dict.fromkeys(("STL10", "SVHN", "StanfordCars"), _SPLIT),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), _SPLIT_VAL),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _TRAINVAL),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _WHOLE),
}


class TorchvisionImages(TensorImages):
    """Any of torchvision's classification data sets, by the name of its class.

    Args:
        dataset: For example ``FashionMNIST``, ``CIFAR10``, ``SVHN`` or ``EuroSAT``.
        root: torchvision's folder for the set.
        download: Download missing files; one process at a time, so candidates can start concurrently.
        dataset_args: Additional arguments of the class, such as ``{split: letters}`` for ``EMNIST``.
        common: The arguments of :class:`~lightning_evo.data.TensorImages`; ``size`` is required if image sizes differ.

    Raises:
        ValueError: torchvision has no classification data set of this name.
        FileNotFoundError: The set is not under ``root`` and ``download`` is off.
    """

    def __init__(
        self,
        dataset: str,
        root: str = "data",
        download: bool = False,
        dataset_args: Mapping[str, Any] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if dataset not in _PARTS:
            close = difflib.get_close_matches(dataset, _PARTS, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(close)}? " if close else ""
            raise ValueError(
                f"dataset: {dataset!r} is not among torchvision's: {hint}choose from {', '.join(sorted(_PARTS))}"
            )
        self._dataset, self._root, self._download = dataset, Path(root).expanduser(), download
        self._dataset_args = dict(dataset_args or {})

    def source(self) -> Hashable:
        return self._dataset, str(self._root.resolve()), repr(sorted(self._dataset_args.items()))

    def prepare_data(self) -> None:
        """Have the set downloaded by one process before the others ask for it."""
        if self._download:
            _ = self.images

    def load(self) -> ImageSet:
        sets = [self._open(part) for part in _PARTS[self._dataset]]
        train, *test = [self._arrays(part) for part in sets]
        classes = getattr(sets[0], "classes", None)
        # Some sets name their classes in another order or number than their labels count (EMNIST's letters from 1).
        fits = classes is not None and set(np.unique(train[1])) == set(range(len(classes)))
        names = tuple(str(name) for name in classes) if classes is not None and fits else None
        return ImageSet.from_arrays(*train, test=test[0] if test else None, classes=names, size=self.size)

    def _open(self, part: Mapping[str, Any]) -> Any:
        from torchvision import datasets

        build = getattr(datasets, self._dataset)
        arguments = {"root": str(self._root), **part, **self._dataset_args}
        try:
            return build(**arguments)
        except (RuntimeError, FileNotFoundError, OSError) as error:
            if not self._download:
                raise FileNotFoundError(
                    f"{self._root}: expected torchvision's {self._dataset} there ({str(error).splitlines()[0]}); "
                    "set download: true to fetch it"
                ) from error
        # torch itself depends on filelock.
        from filelock import FileLock

        self._root.mkdir(parents=True, exist_ok=True)
        with FileLock(self._root / f".{self._dataset}.lock"):
            return build(**arguments, download=True)

    def _arrays(self, found: Any) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels, as they lie in memory where torchvision keeps them there, else read one by one."""
        pixels, labels = getattr(found, "data", None), getattr(found, "targets", getattr(found, "labels", None))
        if pixels is not None and labels is not None:
            pixels, labels = np.asarray(pixels), np.asarray(labels)
            if pixels.ndim in (3, 4) and labels.ndim == 1:
                return pixels, labels
        targets: list[int] = []

        def pictures() -> Any:
            for at in range(len(found)):
                picture, target = found[at]
                targets.append(int(target))
                yield picture

        return stack_pictures(pictures(), self.size), np.array(targets)
