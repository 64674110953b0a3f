"""The state of a search's upload to Weights & Biases: a small file beside the runs, written atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_evo.utils.files import write_atomically

__all__ = ["LOCAL_SUFFIX", "STATE_FILE", "SWEEP_FILE", "WandbState", "search_token"]

STATE_FILE = "lightning-evo.json"
"""The file's name, in the directory of the runs."""

SWEEP_FILE = "sweep.yaml"
"""The sweep's config, in the same directory."""

LOCAL_SUFFIX = "-kept"
"""Follows the id of a run that could not be started on the server and was then written to a file."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class WandbState:
    """The reported part of a search. The archive is the truth: without this file everything is reported again.

    Args:
        directory: The directory that holds the runs' directories.
        token: The search's token, from :func:`search_token`; state of another search is ignored.
        destination: Server and project; what was reported to another destination is ignored.

    Attributes:
        resumed: Whether there was usable state.
        sweep: The sweep's id.
        local_sweep: Whether that id was made up here and no server knows it.
        uploaded: Ids of the candidates whose runs the server has completely.
        local: Ids of the candidates whose runs are complete in a local file and not uploaded.
        search_run: Where the search's own run was last written: ``online``, ``offline`` or ``None``.
    """

    def __init__(self, directory: Path, token: str, destination: str) -> None:
        self.directory, self.token, self.destination = directory, token, destination
        stored = self._read()
        self.resumed = bool(stored)
        self.sweep: str | None = stored.get("sweep")
        self.local_sweep: bool = stored.get("own", False)
        self.uploaded = _Ids(stored.get("uploaded", ()))
        self.local = _Ids(stored.get("kept", ()))
        self.search_run: str | None = stored.get("searched")
        self._replaced: dict[str, int] = stored.get("replaced", {})

    def save(self) -> None:
        """Write the file; after a kill, either the old or the new one is there."""
        content = {
            "search": self.token,
            "place": self.destination,
            "sweep": self.sweep,
            "own": self.local_sweep,
            "uploaded": self.uploaded.ranges(),
            "kept": self.local.ranges(),
            "searched": self.search_run,
            "replaced": self._replaced,
        }
        path = self.directory / STATE_FILE
        try:
            write_atomically(path, json.dumps(content))
        except OSError as error:
            raise ValueError(f"W&B's state {path}: cannot write the file ({error.strerror})") from error

    def run_id(self, candidate: int) -> str:
        """The id of a candidate's run."""
        return f"{self.token}-{candidate:06d}"

    @property
    def search_run_id(self) -> str:
        """The id of the search's own run."""
        return f"{self.token}-search"

    def report_again(self, replaced: Mapping[int, int]) -> None:
        """Take candidates whose failure a new result replaces for not reported, once for each replacement.

        Args:
            replaced: Candidate -> the number of the result that is replaced.
        """
        for id, number in replaced.items():
            if self._replaced.get(str(id)) != number:
                self.uploaded.discard(id)
                self.local.discard(id)
                self._replaced[str(id)] = number

    def delete_run(self, run_id: str) -> None:
        """Delete the local directories of a run."""
        for path in self.directory.glob(f"*run-*-{run_id}*"):
            rest = path.name.rpartition(run_id)[2]
            if rest in ("", LOCAL_SUFFIX) or rest.removeprefix("-").isdigit():  # W&B numbers directories of one name
                shutil.rmtree(path, ignore_errors=True)

    def delete_unfinished_runs(self) -> None:
        """Delete the directories of candidates whose end was not reported: their runs are written again."""
        for path in self.directory.glob(f"*run-*-{self.token}-*"):
            candidate = path.name.rpartition(f"{self.token}-")[2].partition("-")[0]
            if candidate.isdigit() and int(candidate) not in self.uploaded and int(candidate) not in self.local:
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        path = self.directory / STATE_FILE
        try:
            stored = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        ours = stored.get("search") == self.token and stored.get("place") == self.destination
        return stored if ours else {}


def search_token(*parts: object) -> str:
    """Eight digits and letters that identify a search: the prefix of its runs' ids, and its sweep's id while offline.

    >>> len(search_token("net", 3, 1.75e9)), search_token("a") == search_token("b")
    (8, False)
    """
    number = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    return "".join(_DIGITS[number // 36**i % 36] for i in range(8))


class _Ids(set[int]):
    """A set of ids that is stored as ranges, because most ids are consecutive."""

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        super().__init__(id for first, last in ranges for id in range(first, last + 1))

    def ranges(self) -> list[list[int]]:
        """First and last id of each range of consecutive ids."""
        ranges: list[list[int]] = []
        for id in sorted(self):
            if ranges and ranges[-1][1] == id - 1:
                ranges[-1][1] = id
            else:
                ranges.append([id, id])
        return ranges
