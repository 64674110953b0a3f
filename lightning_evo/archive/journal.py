"""The journal: every event once more, as one JSON line each with its checksum, in a file that only grows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lightning_evo.archive.errors import ArchiveError, Damaged, translated_file
from lightning_evo.archive.events import Event
from lightning_evo.utils import __version__
from lightning_evo.utils.checksums import checksum_holds, with_checksum
from lightning_evo.utils.files import atomic_path

__all__ = ["Header", "Journal", "JournalState", "Tail", "encoded"]

JOURNAL_VERSION = 4
"""Raised when lines change. Up to version 3 they had no checksums."""

_SEALED = 4
"""The version from which on a line without a checksum counts as damaged."""

_BLOCK = 1 << 16

_BEGINNING = b'{"sequence":'
_NUMBERS = re.compile(rb'\{"sequence":(\d+),"after":(\d+),')
_NEEDED = {
    "journal": {"run", "created", "version"},
    "ask": {"candidate", "queued", "after"},
    "result": {"id", "result", "after"},
    "meta": {"values", "after"},
    "checkpoint": {"id", "checkpoint", "checkpoint_bytes", "after"},
}


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


@dataclass(frozen=True)
class JournalState:
    """All lines of a journal, each looked at.

    Args:
        header: The first line's content, ``None`` where it isn't whole.
        lines: How many there are, the header included and a line cut off at the end left out.
        damaged: How many of them are damaged, or don't follow the one before them.
        fault: The first of these, and where; empty where there is none.
        last: Sequence number of the last whole event; 0 where there is none.
        reached: The sequence number that the last line had at least, whole or not.
        sealed: Whether every line has a checksum.
        incomplete: Bytes of a line cut off at the end.
    """

    header: Header | None = None
    lines: int = 0
    damaged: int = 0
    fault: str = ""
    last: int = 0
    reached: int = 0
    sealed: bool = False
    incomplete: int = 0

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong but for, possibly, a line that was being written at the end."""
        return self.header is not None and not self.fault


class Journal:
    """The file ``journal.jsonl``: a header line, then one line per event.

    Each line names its own sequence number and, as ``after``, that of the line before it, so that a lost line shows; its
    last field is a checksum of the rest. Journals of earlier versions have none, and are read as they are.
    A line is in the kernel's hands when :meth:`append` returns: the death of the process doesn't lose it.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._size = 0
        self._last = 0
        self._checked = (
            True  # whether a line needs a checksum; False once the header was found to be an earlier version's
        )

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
        return self._header_of(line)

    def _header_of(self, line: bytes) -> Header:
        self._checked = False  # it is the header that says which version this is
        record = self._parsed(line, 0)
        version = record.get("version")
        if record["kind"] != "journal" or not isinstance(version, int):
            raise Damaged(f"{self.path}: damaged (its first line is not a journal's)")
        if version > JOURNAL_VERSION:
            raise ArchiveError(
                f"{self.path}: has journal version {version}; lightning-evo {__version__} knows versions up to "
                f"{JOURNAL_VERSION}. Upgrade it: pip install --upgrade lightning-evo"
            )
        self._checked = checksum_holds(line[:-1]) is not None
        if self._checked != (version >= _SEALED):
            raise Damaged(f"{self.path}: damaged (its first line is not as it was written)")
        return Header(record["run"], record["created"])

    def state(self) -> JournalState:
        """All lines looked at once: at about 500 MB/s where they have checksums.

        Raises:
            ArchiveError: If a later version wrote it, or it can't be read.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return JournalState(fault="it doesn't exist")
        except OSError as error:
            raise ArchiveError(f"{self.path}: cannot be read ({error.strerror})") from error
        header, fault, offset, incomplete = None, "", 0, 0
        lines = damaged = last = reached = 0
        with file:
            for line in file:
                if not line.endswith(b"\n"):
                    incomplete = len(line)
                    break
                lines += 1
                try:
                    if lines == 1:
                        header = self._header_of(line)
                    else:
                        sequence, after = self._numbers(line, offset)
                        if after != reached:
                            # What follows a damaged line is whole, if it doesn't skip more than that line.
                            damaged += not fault
                            fault = fault or f"events are missing before byte {offset}"
                        last = reached = sequence
                except Damaged as damage:
                    damaged += 1
                    # Half a line or rubbish is no event that was lost; whatever begins as one may be.
                    reached += lines > 1 and line.startswith(_BEGINNING)
                    fault = fault or str(damage).removeprefix(f"{self.path}: damaged (").removesuffix(")")
                offset += len(line)
        if not lines:
            fault = "it has no whole first line"
        return JournalState(header, lines, damaged, fault, last, reached, self._checked, incomplete)

    def _numbers(self, line: bytes, offset: int) -> tuple[int, int]:
        """An event's own sequence number and that of the one before, without reading more where there is a checksum."""
        if checksum_holds(line[:-1]) and (numbers := _NUMBERS.match(line)):
            return int(numbers[1]), int(numbers[2])
        record = self._parsed(line, offset)
        return record["sequence"], record["after"]

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
            skipped: Damaged | None = None
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    event = self._parsed(line, offset)
                except Damaged as damage:
                    if previous is not None and previous > after:
                        raise
                    previous, skipped = None, damage  # perhaps of an event that isn't asked for: the next one tells
                    offset += len(line)
                    continue
                if event["kind"] != "journal":
                    if event["after"] != previous if previous is not None else event["after"] > after:
                        raise skipped or Damaged(f"{self.path}: damaged (events are missing before byte {offset})")
                    previous, skipped = event["sequence"], None
                    if event["sequence"] > after:
                        yield event
                offset += len(line)
            if skipped is not None:
                raise skipped

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
        sealed = checksum_holds(line[:-1])
        if sealed is False or (sealed is None and self._checked):
            raise Damaged(f"{self.path}: damaged (the line at byte {offset} is not as it was written: {line[:40]!r})")
        try:
            record = json.loads(line)
            # True is an int, too.
            numbers = all(type(record[name]) is int for name in {"sequence", "after"} & record.keys())
            if numbers and record.keys() >= {"sequence", *_NEEDED[record["kind"]]}:
                record.pop("crc32", None)
                return record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        raise Damaged(f"{self.path}: damaged (the line at byte {offset} is not an event: {line[:40]!r})")

    # -- writing -------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Get ready to append; a line cut off at the end is removed."""
        self.close()
        tail = self.tail()
        with translated_file(self.path):
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
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
            file.write(with_checksum(encoded(first)) + b"\n")
            last = 0
            for event in events:
                file.write(_line(event, last))
                last = event["sequence"]
        self._checked = True

    def seal(self, header: Header) -> None:
        """Give every line of a whole journal a checksum, the events as they are."""
        self.rewrite(header, self.read())

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def encoded(record: Any) -> bytes:
    """A record as one line of JSON, NaN and infinities as Python's ``json`` writes them."""
    return json.dumps(record, separators=(",", ":")).encode()


def _line(event: Event, after: int) -> bytes:
    return with_checksum(encoded({"sequence": event["sequence"], "after": after, **event})) + b"\n"
