"""The results of winners on the test split, in a file that outlives whoever computed them: none is computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_evo.utils.checksums import checksum_holds, with_checksum
from lightning_evo.utils.files import write_atomically

__all__ = ["TESTS_FILE", "recorded_test", "remember_test"]

TESTS_FILE = "tested.json"
"""In the run's directory, beside the winner's own, which is emptied when the winner is made again."""


def recorded_test(directory: str, config: Mapping[str, Any]) -> dict[str, float] | None:
    """The metrics of a test that was made before; ``None`` where there was none, or its record is damaged.

    Args:
        directory: The winner's directory.
        config: The complete config of what was tested, its seed included.
    """
    return _read(_file(directory)).get(_name(config))


def remember_test(directory: str, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Keep the metrics of a test. Where they can't be written, the archive alone will hold them."""
    file = _file(directory)
    tests = {**_read(file), _name(config): dict(metrics)}
    with suppress(OSError):
        write_atomically(file, with_checksum(json.dumps({"tests": tests}).encode()))


def _file(directory: str) -> Path:
    return Path(directory).with_name(TESTS_FILE)


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        text = file.read_bytes()
    except OSError:
        return {}
    if not checksum_holds(text):
        return {}
    tests: dict[str, dict[str, float]] = json.loads(text)["tests"]
    return tests


def _name(config: Mapping[str, Any]) -> str:
    """What stands for a config in the file."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
