"""The journal: every event once more, as one JSON line each, in a file that only grows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lightning_evo.archive.errors import ArchiveError, Damaged, translated_file
from lightning_evo.archive.events import Event
from lightning_evo.utils import __version__
from lightning_evo.utils.files import atomic_path

__all__ = ["Header", "Journal", "Tail", "encoded"]

JOURNAL_VERSION = 3
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Header:
    """A journal's first line: which run it belongs to, and when that was created (seconds since the epoch)."""

    run: str
    created: float


@dataclass(frozen=True)
class Tail:
    """How a journal ends.

    Args:
        last: Sequence number of the last whole event; 0 where there is none.
        whole: Length in bytes up to the end of the last whole line.
        incomplete: Bytes after it: a line cut off in the middle.
    """

    last: int
    whole: int
    incomplete: int


class Journal:
    """The file ``journal.jsonl``: a header line, then one line per event.

    Each line names its own sequence number and, as ``after``, that of the line before it, so that a lost line shows.
    A line is in the kernel's hands when :meth:`append` returns: the death of the process doesn't lose it.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._size = 0
        self._last = 0

    # -- reading -------------------------------------------------------------------------------------------------------

    def header(self) -> Header | None:
        """The header; ``None`` where the file doesn't exist or its first line isn't whole.

        Raises:
            Damaged: If the first line is no header.
            ArchiveError: If a later version wrote it.
        """
        try:
            with self.path.open("rb") as file:
                line = file.readline()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not line.endswith(b"\n"):
            return None
        record = self._parsed(line, 0)
        if record["kind"] != "journal" or not {"run", "created", "version"} <= set(record):
            raise Damaged(f"{self.path}: damaged (its first line is not a journal's)")
        if record["version"] > JOURNAL_VERSION:
            raise ArchiveError(
                f"{self.path}: has journal version {record['version']}; lightning-evo {__version__} knows versions up "
                f"to {JOURNAL_VERSION}. Upgrade it: pip install --upgrade lightning-evo"
            )
        return Header(record["run"], record["created"])

    def tail(self) -> Tail:
        """How the file ends, read from its last blocks alone; it must have a header.

        Raises:
            Damaged: If the last whole line isn't an event.
        """
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start, block = size, b""
            # Until the block holds a whole line: two line ends, or the file's beginning and one.
            while start > 0 and block.count(b"\n") < 2:
                start = max(0, size - max(_BLOCK, 2 * (size - start)))
                file.seek(start)
                block = file.read(size - start)
        end = block.rfind(b"\n") + 1
        begin = block.rfind(b"\n", 0, end - 1) + 1
        record = self._parsed(block[begin:end], start + begin)
        return Tail(record["sequence"], start + end, size - (start + end))

    def read(self, after: int = 0) -> Iterator[Event]:
        """The events with a sequence number above ``after``; a line cut off at the end is left out.

        Raises:
            Damaged: At a line that can't be read or doesn't follow the one before it.
        """
        with self.path.open("rb") as file:
            offset = self._offset(file, after)
            file.seek(offset)
            previous: int | None = None
            for line in file:
                if not line.endswith(b"\n"):
                    return
                event = self._parsed(line, offset)
                if event["kind"] != "journal":
                    if event["after"] != previous if previous is not None else event["after"] > after:
                        raise Damaged(f"{self.path}: damaged (events are missing before byte {offset})")
                    previous = event["sequence"]
                    if event["sequence"] > after:
                        yield event
                offset += len(line)

    def _offset(self, file: BinaryIO, after: int) -> int:
        """Start of a line at or before the first event above ``after``, found from the end of the file backwards."""
        size = file.seek(0, os.SEEK_END)
        start = size
        while start > 0:
            start = max(0, size - max(_BLOCK, 2 * (size - start)))
            if start == 0:
                break
            file.seek(start)
            skipped = file.readline()
            line = file.readline()
            if line.endswith(b"\n") and self._parsed(line, start + len(skipped))["sequence"] <= after:
                return start + len(skipped)
        return 0

    def _parsed(self, line: bytes, offset: int) -> Event:
        try:
            record = json.loads(line)
            if isinstance(record["sequence"], int) and isinstance(record["kind"], str):
                return record
        except (ValueError, KeyError, TypeError):
            pass
        raise Damaged(f"{self.path}: damaged (the line at byte {offset} is not an event: {line[:40]!r})")

    # -- writing -------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Get ready to append; a line cut off at the end is removed."""
        self.close()
        tail = self.tail()
        with translated_file(self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            os.ftruncate(self._descriptor, tail.whole)
        self._size, self._last = tail.whole, tail.last

    def append(self, event: Event) -> None:
        """Add one event; the file is left as it was where that fails."""
        assert self._descriptor is not None, "the journal is open while its writer is"
        line = _line(event, self._last)
        with translated_file(self.path):
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
            except BaseException:
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(line)
        self._last = event["sequence"]

    def rewrite(self, header: Header, events: Iterable[Event]) -> None:
        """Write the whole file anew, under a temporary name and then in place of the old one."""
        self.close()
        with translated_file(self.path), atomic_path(self.path, sync=True) as part, part.open("wb") as file:
            first = {"sequence": 0, "kind": "journal", "version": JOURNAL_VERSION, **vars(header)}
            file.write(encoded(first) + b"\n")
            last = 0
            for event in events:
                file.write(_line(event, last))
                last = event["sequence"]

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def encoded(record: Any) -> bytes:
    """A record as one line of JSON, NaN and infinities as Python's ``json`` writes them."""
    return json.dumps(record, separators=(",", ":")).encode()


def _line(event: Event, after: int) -> bytes:
    return encoded({"sequence": event["sequence"], "after": after, **event}) + b"\n"
