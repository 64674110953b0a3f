"""Checksums: of a JSON object as its own last field, and of a file."""

from __future__ import annotations

import zlib
from pathlib import Path

__all__ = ["checksum_holds", "file_crc32", "with_checksum"]

_FIELD = b',"crc32":"'
_LENGTH = len(_FIELD) + len(b'00000000"}')
_BLOCK = 1 << 20


def with_checksum(text: bytes) -> bytes:
    """Add to the text of a JSON object the checksum of all that stands before it.

    Args:
        text: One that has a field at least, without white space after its last brace.

    >>> with_checksum(b'{"a": 1}')
    b'{"a": 1,"crc32":"7aa88204"}'
    """
    body = text[:-1]
    return b'%s,"crc32":"%08x"}' % (body, zlib.crc32(body))


def checksum_holds(text: bytes) -> bool | None:
    """Whether a text is just as :func:`with_checksum` gave it; ``None`` where it ends in no checksum.

    >>> checksum_holds(b'{"a": 1,"crc32":"7aa88204"}'), checksum_holds(b'{"a": 2,"crc32":"7aa88204"}')
    (True, False)
    """
    body, end = text[:-_LENGTH], text[-_LENGTH:]
    if not end.startswith(_FIELD):
        return None
    return end == b'%s%08x"}' % (_FIELD, zlib.crc32(body))


def file_crc32(path: Path) -> int:
    """The CRC-32 of a file's content; raises ``OSError`` where it can't be read."""
    crc = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
