"""How does something for people to keep become a file? Whole or not at all, and never over what is there unasked."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_evo.utils.files import atomic_path

__all__ = ["check_target", "written_whole"]


def check_target(to: Path, option: str, overwrite: bool = False) -> None:
    """Refuse a place where no file can be written, before anything is computed.

    Args:
        to: The file to be written; its folder must be there.
        option: What the user calls it (``--csv``, ``to``), for the message.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ValueError: Naming the option, the path and what is wrong with it.
    """
    # os.path answers no where it may not look; Path's methods would raise.
    if os.path.isdir(to):
        raise ValueError(f"{option} {to}: is a directory; name a file")
    if not os.path.isdir(to.absolute().parent):
        raise ValueError(f"{option} {to}: there is no directory {to.absolute().parent}")
    if os.path.exists(to) and not overwrite:
        raise ValueError(f"{option} {to}: is there already; name another, or overwrite it (--overwrite)")


@contextmanager
def written_whole(to: Path, option: str, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes ``to`` when the block ends, and vanishes if it raises.

    Args:
        to: The file to be written.
        option: What the user calls it, for the message.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        ValueError: If it can't be written, or is there already.
    """
    check_target(to, option, overwrite)
    try:
        with atomic_path(to) as part:
            yield part
            check_target(to, option, overwrite)  # somebody else may have written it meanwhile
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise ValueError(f"{option} {to}: cannot be written ({reason})") from error
