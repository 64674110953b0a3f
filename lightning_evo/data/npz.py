"""Images in NumPy archives."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from lightning_evo.data.arrays import ImageSet
from lightning_evo.data.images import TensorImages

__all__ = ["NpzImages"]

_TRAIN_NAMES = (("x_train", "y_train"), ("x", "y"))
_TEST_NAMES = (("x_test", "y_test"), ("x", "y"))


class NpzImages(TensorImages):
    """Images and labels from one or several ``.npz`` files.

    Args:
        path: A file, or several files to concatenate. Images are (N, H, W), (N, H, W, C) or (N, C, H, W), as in
            :meth:`~lightning_evo.data.ImageSet.from_arrays`.
        test_path: A file with an official test split. Without it, ``x_test`` and ``y_test`` of ``path`` are that split
            if they exist; otherwise a share is held out.
        images_key: Name of the images in every file; default: ``x_train`` (``x_test``) or else ``x``.
        labels_key: Name of the labels in every file; default: ``y_train`` (``y_test``) or else ``y``.
        options: The arguments of :class:`~lightning_evo.data.TensorImages`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file isn't an ``.npz`` or doesn't contain these arrays; lists those it contains.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        test_path: str | None = None,
        images_key: str | None = None,
        labels_key: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if (images_key is None) != (labels_key is None):
            raise ValueError(f"images_key {images_key!r} and labels_key {labels_key!r}: give both or neither")
        self._paths = [Path(p).expanduser() for p in ([path] if isinstance(path, (str, Path)) else path)]
        if not self._paths:
            raise ValueError("path: an empty list; at least one .npz file is required")
        self._test_path = None if test_path is None else Path(test_path).expanduser()
        self._keys = None if images_key is None or labels_key is None else ((images_key, labels_key),)

    def source(self) -> Hashable:
        paths = [*self._paths, *([self._test_path] if self._test_path else [])]
        return len(self._paths), self._keys, tuple(_stamp(path) for path in paths)

    def load(self) -> ImageSet:
        parts = [_read(path, self._keys or _TRAIN_NAMES) for path in self._paths]
        if self._test_path is not None:
            tests = [_read(self._test_path, self._keys or _TEST_NAMES)]
        elif self._keys is None:
            tests = [_read(path, _TEST_NAMES[:1]) for path in self._paths if _holds(path, "x_test")]
        else:
            tests = []
        return ImageSet.from_arrays(*_joined(parts), test=_joined(tests) if tests else None, size=self.size)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _stamp(path: Path) -> tuple[str, int, int]:
    """A file's identity: rewritten, it is read again."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected a .npz with images and labels") from None
    return str(path.resolve()), found.st_mtime_ns, found.st_size


def _holds(path: Path, name: str) -> bool:
    with np.load(path, allow_pickle=False) as file:
        return name in file


def _read(path: Path, choices: tuple[tuple[str, str], ...]) -> tuple[np.ndarray, np.ndarray]:
    """The first pair of ``choices`` that the file holds."""
    try:
        with np.load(path, allow_pickle=False) as file:
            for images, labels in choices:
                if images in file and labels in file:
                    return file[images], file[labels]
            held = ", ".join(file.files)
    # A lone .npy array is no context manager (TypeError, AttributeError in older Pythons).
    except (OSError, ValueError, EOFError, TypeError, AttributeError, BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: can't be read as a .npz of images and labels ({error})") from error
    wanted = " or ".join(f"{images!r} and {labels!r}" for images, labels in choices)
    raise ValueError(f"{path}: contains the arrays {held}; expected {wanted}")
