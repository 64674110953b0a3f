"""What does Weights & Biases have of a search by now? A small file beside the runs, written whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_evo.reporting.writing import written_whole

__all__ = ["KEPT", "STATE", "SWEEP", "WandbState", "search_token"]

STATE = "lightning-evo.json"
"""The file's name, in the directory of the runs."""

SWEEP = "sweep.yaml"
"""The sweep's config, beside it."""

KEPT = "-kept"
"""What follows the id of a run that was begun at the server in vain, and then in a file."""

_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def search_token(*parts: object) -> str:
    """Eight letters and digits that stand for one search: the beginning of its runs' ids, and its sweep's id offline.

    >>> len(search_token("net", 3, 1.75e9)), search_token("a") == search_token("b")
    (8, False)
    """
    number = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
    return "".join(_LETTERS[number // 36**i % 36] for i in range(8))


class WandbState:
    """What was reported where. The archive is the truth: without this file everything is reported once more.

    Args:
        directory: Where the runs' own directories lie.
        token: The search's, from :func:`search_token`; what another search has left there is passed over.
        place: Which server and project; what was reported elsewhere is passed over.

    Attributes:
        sweep: The sweep's id.
        own: Whether that id is an own one, which no server has heard of.
        uploaded: Ids of the candidates that the server has all of.
        kept: Ids of those whose run is whole in a file here, and not uploaded.
        searched: Where the search's run was last written: ``online``, ``offline``, or not at all.
    """

    def __init__(self, directory: Path, token: str, place: str) -> None:
        self.directory, self.token, self.place = directory, token, place
        known = self._read()
        self.resumed = bool(known)
        self.sweep: str | None = known.get("sweep")
        self.own: bool = known.get("own", False)
        self.uploaded = _Ids(known.get("uploaded", ()))
        self.kept = _Ids(known.get("kept", ()))
        self.searched: str | None = known.get("searched")

    def save(self) -> None:
        """Write the file: a kill leaves the old one or the new one."""
        content = {
            "search": self.token,
            "place": self.place,
            "sweep": self.sweep,
            "own": self.own,
            "uploaded": self.uploaded.ranges(),
            "kept": self.kept.ranges(),
            "searched": self.searched,
        }
        with written_whole(self.directory / STATE, "W&B's state", overwrite=True) as part:
            part.write_text(json.dumps(content))

    def name(self, candidate: int) -> str:
        """A candidate's run's id."""
        return f"{self.token}-{candidate:06d}"

    @property
    def search_name(self) -> str:
        """The id of the search's own run."""
        return f"{self.token}-search"

    def drop(self, name: str) -> None:
        """Delete the directories of a run, given by its id."""
        for path in self.directory.glob(f"*run-*-{name}*"):
            rest = path.name.rpartition(name)[2]
            if rest in ("", KEPT) or rest.removeprefix("-").isdigit():  # W&B counts where a name is there already
                shutil.rmtree(path, ignore_errors=True)

    def drop_unfinished(self) -> None:
        """Delete what an earlier run left of candidates whose end it didn't report: they are written anew, whole."""
        for path in self.directory.glob(f"*run-*-{self.token}-*"):
            candidate = path.name.rpartition(f"{self.token}-")[2].partition("-")[0]
            if candidate.isdigit() and int(candidate) not in self.uploaded and int(candidate) not in self.kept:
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        path = self.directory / STATE
        try:
            known = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return known if known.get("search") == self.token and known.get("place") == self.place else {}


class _Ids(set[int]):
    """Ids, nearly all of them next to each other."""

    def __init__(self, ranges: Iterable[Iterable[int]] = ()) -> None:
        super().__init__(id for first, last in ranges for id in range(first, last + 1))

    def ranges(self) -> list[list[int]]:
        """First and last of each row of successive ids."""
        ranges: list[list[int]] = []
        for id in sorted(self):
            if ranges and ranges[-1][1] == id - 1:
                ranges[-1][1] = id
            else:
                ranges.append([id, id])
        return ranges
