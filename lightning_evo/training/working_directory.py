"""A working directory for each candidate, in which the config's relative paths keep their meaning."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_evo.training.blueprint import Blueprint
from lightning_evo.training.request import TrainingRequest

__all__ = ["anchored", "launch_directory", "working_in"]


@contextmanager
def working_in(directory: str | None) -> Iterator[None]:
    """Have a directory be the working directory within the block, if one is given.

    What is imported from the working directory is still imported from the earlier one.

    Raises:
        RuntimeError: In a thread, as threads share their process's.
    """
    if directory is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("workers.chdir: candidates in threads have one working directory; leave it out")
    before, imported_from = os.getcwd(), list(sys.path)
    os.makedirs(directory, exist_ok=True)
    sys.path[:] = [os.path.join(before, place) for place in sys.path]
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = imported_from


def launch_directory(request: TrainingRequest) -> str:
    """The directory that relative paths of a candidate's config mean; to be asked for before :func:`working_in`."""
    return request.launched_in or os.getcwd()


def anchored(blueprint: Blueprint, config: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The config with absolute paths where it has relative ones.

    A text is a path where its argument is typed so, or called so (``root``, ``save_dir``, ``output_folder``), or where it
    looks like one (``data/train.csv``) and there is such a file.

    Args:
        blueprint: The LightningCLI that reads the config.
        config: A complete config, plain data; it isn't changed.
        base: The directory that they are relative to.
    """
    return {
        key: _anchored(value, typed, key, base)
        for (key, value), typed in zip(config.items(), _beside(config, blueprint.parse(config).as_dict()), strict=True)
    }


_DIRECTORY = re.compile(r"(^|_)(dir|dirs|dirpath|directory|folder|root)$")
_SQLITE = re.compile(r"(sqlite:///)(?!/|:memory:)(.+)")
_FILE = re.compile(r"(file:)(?!/)(.+)")


def _anchored(value: Any, typed: Any, name: str, base: str) -> Any:
    if isinstance(value, Mapping):
        pairs = zip(value.items(), _beside(value, typed), strict=True)
        return {key: each if key == "class_path" else _anchored(each, by, str(key), base) for (key, each), by in pairs}
    if isinstance(value, list):
        types = typed if isinstance(typed, (list, tuple)) and len(typed) == len(value) else [None] * len(value)
        return [_anchored(each, by, name, base) for each, by in zip(value, types, strict=True)]
    if not isinstance(value, str) or not value or len(value) > 4096 or "\0" in value or "${" in value:
        return value  # an interpolation is resolved later, of values that are anchored themselves
    for place in (_SQLITE, _FILE):
        if found := place.fullmatch(value):
            return found[1] + os.path.normpath(os.path.join(base, found[2]))
    if os.path.isabs(value) or "://" in value or value.startswith("~"):
        return value
    there = os.path.normpath(os.path.join(base, value))
    looks = ("/" in value or "." in value) and os.path.lexists(there)
    return there if looks or isinstance(typed, os.PathLike) or _DIRECTORY.search(name) else value


def _beside(config: Mapping[str, Any], typed: Any) -> list[Any]:
    """What the parser has made of each of a mapping's values, as far as that is known."""
    return [typed.get(key) if isinstance(typed, Mapping) else None for key in config]
