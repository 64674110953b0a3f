"""A job's result as ``result.json`` in its directory, where it outlives the process that made it."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_evo.genome import COMPLETED, FAILED, STOPPED, Result
from lightning_evo.utils.files import write_atomically

__all__ = ["RESULT_FILE", "decode_result", "encode_result", "read_result", "write_result"]

RESULT_FILE = "result.json"

_STATUSES = (COMPLETED, STOPPED, FAILED)


def encode_result(result: Result) -> str:
    """The result as JSON text, as it can be stored (:meth:`Result.storable <lightning_evo.genome.Result.storable>`)."""
    if result.status not in _STATUSES:
        result = Result.failure(ValueError(f"status {result.status!r} is none of {', '.join(_STATUSES)}"))
    return json.dumps(result.storable().to_dict())


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
    """Write ``result.json`` as a whole or not at all; raises ``OSError`` where that fails."""
    write_atomically(Path(directory, RESULT_FILE), text)


def read_result(directory: str | Path) -> Result | None:
    """The result that a worker left in a candidate's directory; ``None`` where there is none or it is damaged.

    A controller that was killed adopts it, instead of running the candidate again.
    """
    try:
        return decode_result(Path(directory, RESULT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
