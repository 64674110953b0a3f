"""How is a file written so that it is there whole, or not at all? Under another name first, and then renamed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["copy_whole", "save_whole", "write_whole"]


def write_whole(text: str, to: Path) -> Path:
    """Write a text file; returns its path."""
    return _whole(to, lambda part: part.write_text(text))


def copy_whole(source: Path, to: Path) -> Path:
    """Copy a file's content; returns the copy's path."""
    return _whole(to, lambda part: shutil.copyfile(source, part))


def save_whole(held: Any, to: Path) -> Path:
    """``torch.save`` an object; returns the file's path."""
    return _whole(to, lambda part: torch.save(held, part))


def _whole(to: Path, write: Callable[[Path], Any]) -> Path:
    part = to.with_name(f"{to.name}.part")
    write(part)
    part.replace(to)
    return to
