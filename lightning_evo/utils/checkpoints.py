"""Reading of Lightning checkpoints: only tensors and plain data unless trusted, and once for all that need the same one."""

from __future__ import annotations

import io
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch

from lightning_evo.utils.files import digest_of
from lightning_evo.utils.text import storable

__all__ = ["Checkpoint", "DamagedCheckpoint", "Kind", "can_be_mapped", "check_whole", "kind_of", "read_checkpoint"]

Kind = Literal["plain", "objects", "damaged"]
"""What a checkpoint holds: tensors and plain data alone, other objects too, or nothing that can be read."""


class DamagedCheckpoint(Exception):
    """A checkpoint is no longer what its candidate left, though it was when the one that starts from it was submitted."""


def can_be_mapped(path: str | Path) -> bool:
    """Whether torch can map a file into memory: it can't where the path isn't UTF-8."""
    return storable(str(path)) == str(path)


def kind_of(path: str | Path) -> Kind:
    """What a checkpoint holds, found out without running any code in it, nor reading its tensors."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped(path))
    except pickle.UnpicklingError:
        return "objects" if zipfile.is_zipfile(path) else "damaged"
    except Exception:  # whatever reading a damaged file raises
        return "damaged"
    return "plain" if isinstance(held, dict) else "damaged"


class Checkpoint(dict[str, Any]):
    """The content of a checkpoint; not to be changed, as others may have been given the same.

    Attributes:
        plain: Whether it was read without unpickling anything but tensors and plain data.
    """

    plain: bool = True


_held: WeakValueDictionary[tuple[str, int, int], Checkpoint] = WeakValueDictionary()


def check_whole(path: str | Path, digest: str) -> None:
    """Raise :class:`DamagedCheckpoint` if a file doesn't hold what it should.

    Args:
        path: The file; one that is gone is as whole as it was.
        digest: The hash of its content, as :func:`~lightning_evo.utils.files.digest_of` gives it; empty: any.

    Raises:
        OSError: If it can't be read.
    """
    with suppress(FileNotFoundError):
        if digest and digest_of(Path(path)) != digest:
            raise DamagedCheckpoint(_damaged(path))


def _damaged(path: str | Path) -> str:
    return f"{path} has been damaged since the search looked at it"


def read_checkpoint(path: str | Path, trusted: bool = False, digest: str = "") -> Checkpoint:
    """Read a checkpoint onto the CPU. As long as somebody keeps what this returned, the same file isn't read again.

    Args:
        path: The file.
        trusted: Whether one that holds more than tensors and plain data may be unpickled, which can run any code in it.
        digest: The hash of what is read, see :func:`check_whole`; no byte is used that wasn't hashed.

    Raises:
        DamagedCheckpoint: If it has another hash.
        FileNotFoundError: If there is no such file.
        pickle.UnpicklingError: If it holds more than tensors and plain data and isn't trusted.
        ValueError: If it holds something other than a mapping.
        Exception: Whatever unpickling a damaged file, or foreign objects, raises.
    """
    status = Path(path).stat()
    key = (str(Path(path).absolute()), status.st_mtime_ns, status.st_size)
    found = _held.get(key)
    if found is not None and (found.plain or trusted):
        return found
    data, plain = Path(path).read_bytes() if digest else None, True
    if data is not None and digest_of(data) != digest:
        raise DamagedCheckpoint(_damaged(path))

    def source() -> Any:
        return path if data is None else io.BytesIO(data)

    try:
        content = torch.load(source(), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not trusted:
            raise
        content, plain = torch.load(source(), map_location="cpu", weights_only=False), False
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a checkpoint")
    checkpoint = Checkpoint(content)
    checkpoint.plain = plain
    _held[key] = checkpoint
    return checkpoint
