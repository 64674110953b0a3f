"""Recognition of what this user's own searches have made, by a key that lies outside of every run.

The key is drawn once and kept in the user's state directory. Whatever a search makes that may later be unpickled, or names
code to be imported, is marked with it: so the mark holds wherever a run is moved or copied to, and for this content alone.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

__all__ = ["is_own", "key_name", "mark", "state_directory"]

_KEY_FILE = "key"
_BYTES = 32


def mark(content: str) -> str:
    """The mark of a content that this user made, such as the hash of a file: its HMAC under the user's key."""
    return hmac.digest(_key(state_directory()), content.encode(), "sha256").hex()


def is_own(content: str, marked: str | None) -> bool:
    """Whether a mark was made by this user for this content.

    >>> is_own("a hash", mark("a hash")), is_own("another", mark("a hash")), is_own("a hash", None)
    (True, False, False)
    """
    return isinstance(marked, str) and marked.isascii() and hmac.compare_digest(mark(content), marked)


def key_name() -> str:
    """A name for this user's key that says nothing of it: where several users mark one thing, each finds its own mark."""
    return mark("the name of this key")[:16]


def state_directory() -> Path:
    """Where the key lies: ``lightning-evo`` in ``XDG_STATE_HOME``, else where the platform keeps an application's state."""
    if given := os.environ.get("XDG_STATE_HOME"):
        home = Path(given)
    elif sys.platform == "darwin":
        home = Path(os.path.expanduser("~/Library/Application Support"))
    else:
        home = Path(os.path.expanduser("~/.local/state"))
    return home / "lightning-evo"


@cache
def _key(directory: Path) -> bytes:
    """The user's key, drawn at its first use. Where none can be kept, it holds for this process alone."""
    path = directory / _KEY_FILE
    with suppress(OSError):
        if not directory.is_absolute():
            raise OSError(f"{directory}: no home directory")
        if (known := _read(path)) is None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _draw(path)
            known = _read(path)
        if known is not None:
            return known
    return secrets.token_bytes(_BYTES)


def _read(path: Path) -> bytes | None:
    """The key in a file; ``None`` where there is none. One that others could have written isn't used."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError(f"{path}: is not this user's own file")
        key = os.read(descriptor, _BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != _BYTES:
        raise OSError(f"{path}: is not a key")
    return key


def _draw(path: Path) -> None:
    """Write a new key, readable by this user alone, unless another process does so first."""
    part = path.with_name(f"{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_BYTES))
        os.fsync(descriptor)
        with suppress(FileExistsError):
            try:
                os.link(part, path)
            except PermissionError:  # a file system without hard links
                part.rename(path)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
