"""Config files as people write them: read within bounds, and refused where YAML would silently lose something."""

from __future__ import annotations

import codecs
import os
import re
import select
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

__all__ = ["ConfigFileError", "StrictLoader", "check_yaml", "load_yaml_strictly", "read_config_file"]

MAX_BYTES = 2 * 2**20
"""Size from which on a config file is taken for something else: parsing as much already takes seconds."""
MAX_DEPTH = 100
"""Levels of nesting, aliases included. Parsers recurse, and Python ends a recursion at 1000 calls."""
MAX_ALIASED = 100_000
"""Values that aliases may add to those that are written. A few lines can otherwise stand for billions."""
PATIENCE = 5.0
"""Seconds to wait for whoever writes to a pipe."""

if TYPE_CHECKING:
    from yaml import SafeLoader as _Loader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader is ten times as fast


class StrictLoader(_Loader):
    """Numbers as YAML 1.2 and jsonargparse know them: ``1e-3`` is one, ``1:00:00:00`` and ``2026-01-01`` are text."""


_FLOAT = (
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.[0-9_]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
)
_INT = r"[-+]?(?:0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)"
_REPLACED = {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"}
StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{_FLOAT}|\.(?:nan|NaN|NAN))$"), list("-+0123456789.")
)
StrictLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"{_INT}$"), list("-+0123456789"))


class ConfigFileError(yaml.YAMLError, ValueError):
    """A file or text that isn't taken as a config; the message is one line that says where and why."""


def read_config_file(path: str | Path) -> str:
    """The text of a config file, or of a pipe such as ``<(command)``; ``~`` is your home directory.

    Raises:
        ConfigFileError: If it can't be read, is larger than 2 MiB, isn't UTF-8 (with or without a byte order mark), or
            is a pipe to which nobody writes.
    """
    try:
        data = _bounded(os.path.expanduser(path))
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
        raise ConfigFileError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise ConfigFileError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a config file")
    for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            raise ConfigFileError(f"{path}: encoded as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(
            f"{path}: line {line}: the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _bounded(path: str) -> bytes:
    """The content as far as one byte beyond the limit."""
    # A pipe without a writer would block for ever, already at opening.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(0, "a directory, not a file")
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError(0, "neither a file nor a pipe")
        parts: list[bytes] = []
        end = time.monotonic() + PATIENCE
        while sum(map(len, parts)) <= MAX_BYTES:
            try:
                part = os.read(descriptor, MAX_BYTES + 1)
            except BlockingIOError:
                part = None
            if part:
                parts.append(part)
                continue
            if part is not None and (parts or stat.S_ISREG(mode)):
                break
            # Nobody writes yet, or nobody does any more.
            if time.monotonic() > end:
                raise OSError(0, f"a pipe to which nobody has written for {PATIENCE:.0f} s")
            select.select([descriptor], [], [], 0.05)
            time.sleep(0.01)
        return b"".join(parts)[: MAX_BYTES + 1]
    finally:
        os.close(descriptor)


@dataclass
class _Level:
    """A mapping or list that is being read.

    Args:
        line: Where it begins.
        anchor: Its name, if other places refer to it.
        keys: A mapping's keys so far -> their lines; ``None``: a list.
        values: How many keys and values there are in it so far, aliases expanded.
        depth: How deep what is in it is nested.
        is_value: Whether a value is to come next, not a key.
    """

    line: int
    anchor: str | None
    keys: dict[str, int] | None
    values: int = 1
    depth: int = 0
    is_value: bool = field(default=False)


def check_yaml(text: str) -> None:
    """Refuse YAML (or JSON) in which something would get lost or never end.

    That is: a mapping with a key twice (of which the last would count; ``<<`` may be repeated), an alias within what it
    refers to, aliases that stand for more than 100 000 values, and more than 100 levels of nesting.

    Raises:
        ConfigFileError: If so, or if it isn't YAML; the message begins with the line.

    >>> check_yaml("a: {b: 1, c: {b: 1}}")
    >>> check_yaml("lr: 0.1\\nwidth: 8\\nlr: 0.2")
    Traceback (most recent call last):
    lightning_evo.utils.config_files.ConfigFileError: line 3: the key 'lr' is already on line 1
    """
    if not any(mark in text for mark in ":{[\n&*-"):
        return  # a plain value
    try:
        for _ in _checked(text):
            pass
    except ConfigFileError:
        raise
    except yaml.YAMLError as error:
        raise ConfigFileError(_described(error, text)) from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise ConfigFileError(f"line {line}: the character U+{ord(text[error.start]):04X} is not text") from None


def load_yaml_strictly(text: str) -> Any:
    """Plain data of YAML text that a person wrote, after :func:`check_yaml`.

    Raises:
        ConfigFileError: If it is refused.

    >>> load_yaml_strictly("{lr: 1e-3, wall_time: 1:00:00:00}")
    {'lr': 0.001, 'wall_time': '1:00:00:00'}
    """
    check_yaml(text)
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigFileError(_described(error, text)) from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        # Of a number with too many digits, or a tag such as `!!bool` whose value is none, PyYAML says whatever happens.
        raise ConfigFileError(f"a value isn't what its tag says: {error}") from None


def _described(error: yaml.YAMLError, text: str) -> str:
    """One line, which begins with the line in the text."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{at}{error.problem or error.context}"
    if isinstance(error, yaml.reader.ReaderError):
        character = error.character if isinstance(error.character, int) else ord(error.character)
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the character U+{character:04X} is not allowed in YAML"
    return " ".join(str(error).split())


def _checked(text: str) -> Iterator[None]:
    anchors: dict[str, tuple[int, int]] = {}
    levels: list[_Level] = []
    written = 0
    for event in yaml.parse(text, Loader=_Loader):
        yield
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.NodeEvent):
            written += 1
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(levels) >= MAX_DEPTH:
                raise ConfigFileError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
            levels.append(_Level(line, event.anchor, {} if isinstance(event, yaml.MappingStartEvent) else None))
            continue
        if isinstance(event, yaml.ScalarEvent):
            anchor, values, depth = event.anchor, 1, 0
            if levels and levels[-1].keys is not None and not levels[-1].is_value:
                _add_key(levels[-1].keys, event, line)
        elif isinstance(event, yaml.AliasEvent):
            if any(level.anchor == event.anchor for level in levels):
                raise ConfigFileError(f"line {line}: *{event.anchor} stands within what it refers to")
            anchor = None
            values, depth = anchors.get(event.anchor or "", (1, 0))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            ended = levels.pop()
            anchor, values, depth, line = ended.anchor, ended.values, ended.depth + 1, ended.line
        else:
            continue
        if anchor is not None:
            anchors[anchor] = values, depth
        if values - written > MAX_ALIASED:
            raise ConfigFileError(f"line {line}: aliases stand for more than {MAX_ALIASED} values")
        if levels:
            outer = levels[-1]
            outer.values += values
            outer.depth = max(outer.depth, depth)
            outer.is_value = not outer.is_value
            if outer.values - written > MAX_ALIASED:
                raise ConfigFileError(f"line {line}: aliases stand for more than {MAX_ALIASED} values")
            if len(levels) + depth > MAX_DEPTH:
                raise ConfigFileError(f"line {line}: nested deeper than {MAX_DEPTH} levels")


def _add_key(keys: dict[str, int], event: yaml.ScalarEvent, line: int) -> None:
    if event.value == "<<" and event.implicit[0]:
        return  # several merges lose nothing
    if event.value in keys:
        raise ConfigFileError(f"line {line}: the key {event.value!r} is already on line {keys[event.value]}")
    keys[event.value] = line
