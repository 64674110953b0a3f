"""Images in one folder per class."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightning_evo.data.arrays import ImageSet
from lightning_evo.data.images import TensorImages
from lightning_evo.data.pictures import stack_pictures

__all__ = ["ImageFolder"]

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class ImageFolder(TensorImages):
    """Image files in one folder per class, decoded once into memory.

    ``root/cat/1.png``, ``root/dog/2.jpg``: the classes are the folders' names in order. If ``root`` has a folder
    ``train`` and a folder ``test`` or ``val``, these contain the classes, and the latter is the official test split.

    Args:
        root: The folder.
        channels: 3 for color, 1 for grayscale.
        common: The arguments of :class:`~lightning_evo.data.TensorImages`; ``size`` is required if image sizes differ.

    Raises:
        FileNotFoundError: ``root`` is missing or has no folders with images.
        ValueError: An image can't be read, or image sizes differ and ``size`` is not set.
    """

    def __init__(self, root: str, channels: Literal[1, 3] = 3, **common: Any) -> None:
        super().__init__(**common)
        if channels not in (1, 3):
            raise ValueError(f"channels: {channels!r} is not 1 or 3")
        self._root, self._channels = Path(root).expanduser(), channels

    def source(self) -> Hashable:
        files = [file for part in self._parts() for _, file in self._files(part)]
        return str(self._root.resolve()), self._channels, tuple((str(f), f.stat().st_mtime_ns) for f in files)

    def load(self) -> ImageSet:
        parts = [self._files(part) for part in self._parts()]
        names = sorted({name for name, _ in parts[0]})
        arrays = []
        for files in parts:
            unknown = sorted({name for name, _ in files} - set(names))
            if unknown:
                raise ValueError(f"{self._root}: the test folder has classes that the training folder lacks: {unknown}")
            pictures = stack_pictures(_opened(file for _, file in files), self.size, self._channels)
            arrays.append((pictures, np.array([names.index(name) for name, _ in files])))
        return ImageSet.from_arrays(*arrays[0], test=arrays[1] if len(arrays) > 1 else None, classes=tuple(names))

    def _parts(self) -> list[Path]:
        train = self._root / "train"
        tests = [folder for name in ("test", "val") if (folder := self._root / name).is_dir()]
        return [train, tests[0]] if train.is_dir() and tests else [self._root]

    def _files(self, folder: Path) -> list[tuple[str, Path]]:
        """Each picture with its class, in a fixed order."""
        found = [
            (path.relative_to(folder).parts[0], path)
            for path in sorted(folder.glob("*/**/*"))
            if path.suffix.lower() in _SUFFIXES
        ]
        if not found:
            raise FileNotFoundError(
                f"{folder}: expected one folder per class with images ({', '.join(sorted(_SUFFIXES))})"
            )
        return found


def _opened(files: Iterator[Path]) -> Iterator[Image.Image]:
    for file in files:
        try:
            with Image.open(file) as picture:
                picture.load()
                yield picture
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{file}: can't be read as an image ({error})") from error
