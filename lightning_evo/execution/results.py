"""A job's result as ``result.json`` in its directory, where it outlives the process that made it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

from lightning_evo.genome import COMPLETED, FAILED, STOPPED, Result
from lightning_evo.utils.checksums import checksum_holds, with_checksum
from lightning_evo.utils.files import open_unlinked, write_atomically

__all__ = [
    "RESULT_FILE",
    "ReplacedWorker",
    "decode_result",
    "encode_result",
    "find_result",
    "read_result",
    "write_result",
]

RESULT_FILE = "result.json"

_STATUSES = (COMPLETED, STOPPED, FAILED)
_LARGEST = 64 << 20
"""Bytes of the largest file that is taken for a result: about a million epochs."""


@dataclass(frozen=True)
class ReplacedWorker:
    """In ``Result.extra``: that the worker was replaced after the job, and why.

    Args:
        left: What the job left behind that can't be put back: kind of state -> what is known of it (may be empty).
    """

    key: ClassVar[str] = "replaced_worker"

    left: Mapping[str, str]

    def __str__(self) -> str:
        return ", ".join(f"{kind} ({what})" if what else kind for kind, what in self.left.items())

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return dict(self.left)

    @classmethod
    def from_dict(cls, record: Mapping[str, str]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(dict(record))


@dataclass(frozen=True)
class ImportedByWorkers:
    """In ``Result.extra`` of a worker's first job: modules that each worker imports by itself, and why.

    Args:
        reasons: Module -> what importing it does that no fork may inherit.
    """

    key: ClassVar[str] = "imported_by_workers"

    reasons: Mapping[str, str]

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return dict(self.reasons)

    @classmethod
    def from_dict(cls, record: Mapping[str, str]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(dict(record))


def encode_result(result: Result) -> str:
    """The result as JSON text, as it can be stored (:meth:`Result.to_json <lightning_evo.genome.Result.to_json>`)."""
    if result.status not in _STATUSES:
        result = Result.failure(ValueError(f"status: {result.status!r} is not one of {', '.join(_STATUSES)}"))
    return result.to_json()


def decode_result(text: str) -> Result:
    """Read what :func:`encode_result` gave.

    Raises:
        ValueError: If the text is no result.
    """
    record = json.loads(text)
    if not isinstance(record, dict) or record.get("status") not in _STATUSES:
        raise ValueError(f"not a result: {text[:80]!r}")
    try:
        return Result.from_dict(record)
    except TypeError as error:
        raise ValueError(f"not a result of this version: {error}") from error


def write_result(directory: str | Path, text: str) -> None:
    """Write ``result.json`` as a whole or not at all, with its directory's name and a checksum.

    Raises:
        OSError: If that fails.
    """
    named = f'{text[:-1]}, "directory": {json.dumps(Path(directory).name)}}}'
    write_atomically(Path(directory, RESULT_FILE), with_checksum(named.encode()))


def read_result(directory: str | Path) -> Result | None:
    """The result that a worker left in a candidate's directory; ``None`` where there is none or it is damaged.

    A controller that was killed adopts it, instead of running the candidate again.
    """
    return find_result(directory)[0]


def find_result(directory: str | Path) -> tuple[Result | None, str]:
    """The result in a candidate's directory, and what is wrong with the file where there is one that can't be used.

    Files of earlier versions have no checksum: of them what can be wrong is checked, as of all.
    """
    path = Path(directory, RESULT_FILE)
    try:
        if path.is_symlink() or not path.is_file():
            return None, "it is no file" if path.exists() or path.is_symlink() else ""
        if path.stat().st_size > _LARGEST:
            return None, f"it has {path.stat().st_size:,} bytes"
        with open_unlinked(path, "rb") as file:
            text = file.read()
    except OSError as error:
        return None, f"it can't be read ({error.strerror})"
    if checksum_holds(text) is False:
        return None, "it is not as it was written: its checksum is another"
    try:
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError(f"it holds a {type(record).__name__}")
        record.pop("crc32", None)
        name = record.pop("directory", Path(directory).name)
        if name != Path(directory).name:
            raise ValueError(f"it belongs to {name!r}")
        _check(record)
        return Result.from_dict(record), ""
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        return None, str(error)[:200] or type(error).__name__


# -- what a result may hold ----------------------------------------------------------------------------------------------


def _check(record: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a record can't be a result's."""
    status = record.get("status")
    _need(status in _STATUSES, "status", status)
    fitness = record.get("fitness")
    if status == FAILED:
        _need(isinstance(record.get("error_type"), str), "error_type", record.get("error_type"))
    else:
        _need(isinstance(fitness, list) and fitness, "fitness", fitness)
    _need(fitness is None or (isinstance(fitness, list) and all(map(_orders, fitness))), "fitness", fitness)
    for name in ("metrics", "cost"):
        _need(_numbers(record.get(name, {})), name, record.get(name))
    curve = record.get("curve", [])
    _need(isinstance(curve, list) and all(_numbers(point) for point in curve), "curve", curve)
    _need(isinstance(record.get("extra", {}), dict), "extra", record.get("extra"))
    _need(isinstance(record.get("fatal", False), bool), "fatal", record.get("fatal"))
    for name in ("error", "error_type"):
        _need(isinstance(record.get(name), str | None), name, record.get(name))
    for name in ("started", "ended"):
        value = record.get(name)
        _need(value is None or (_is_number(value) and math.isfinite(value)), name, value)
    for name in ("slot", "checkpoint_bytes"):
        _need(record.get(name) is None or _counts(record[name]), name, record.get(name))
    _need(_counts(record.get("attempts", 1)), "attempts", record.get("attempts"))
    checkpoint = record.get("checkpoint")
    _need(checkpoint is None or (isinstance(checkpoint, str) and _inside(checkpoint)), "checkpoint", checkpoint)


def _need(condition: object, name: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"{name} is {str(value)[:60]!r}")


def _is_number(value: Any) -> bool:
    """Whether a value is a number that can be computed with; NaN and infinities are."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1023)


def _orders(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, bool) and not math.isnan(value)


def _numbers(values: Any) -> bool:
    return isinstance(values, dict) and all(map(_is_number, values.values()))


def _counts(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _inside(path: str) -> bool:
    """Whether a path stays in the directory it is relative to."""
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
