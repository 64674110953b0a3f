"""Proof that a candidate's checkpoint is the one it left, and of who made it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning_evo.genome import Result
from lightning_evo.utils.files import OutsideError, digest_of, inside
from lightning_evo.utils.ownership import is_own, mark
from lightning_evo.utils.records import known_fields

__all__ = ["CHECKPOINTS", "CONFIG_FILE", "SealRecord", "StoredCheckpoint", "sealed"]

CONFIG_FILE = "config.yaml"

CHECKPOINTS = "checkpoints"
"""The directory, in a candidate's, of what the checkpoint callbacks of its config save."""
"""A candidate's config, in its directory."""


@dataclass(frozen=True)
class SealRecord:
    """The hash of a candidate's checkpoint, as its result holds it, and of the config beside it.

    Args:
        digest: The hash of the checkpoint, after its name and a colon.
        config: The same of the config; empty where there is none.
        mark: That the user whose key made it trained this candidate, for these hashes alone.
    """

    key: ClassVar[str] = "seal"

    digest: str
    config: str = ""
    mark: str = ""

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """The seal of a checkpoint that this process, or one that it trusts, has just written."""
        config = checkpoint.with_name(CONFIG_FILE)
        return cls(digest_of(checkpoint), digest_of(config) if config.is_file() else "").marked()

    @property
    def is_own(self) -> bool:
        """Whether this user made what it is the seal of."""
        return is_own(self._content, self.mark)

    def marked(self) -> Self:
        """The same as this user's own."""
        return replace(self, mark=mark(self._content))

    @property
    def _content(self) -> str:
        return f"{self.digest} {self.config}"

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave; anything else is the seal of no checkpoint."""
        known = known_fields(cls, record) if isinstance(record, Mapping) else {}
        return cls(**{"digest": "", **{name: value for name, value in known.items() if isinstance(value, str)}})


def sealed(result: Result, checkpoint: Path) -> Result:
    """A result that came from training it, with the seal of its checkpoint under this user's key.

    Args:
        result: The result. One that was sealed in another place, as by a worker on another machine, is marked anew.
        checkpoint: Where its checkpoint lies.
    """
    seal = result.entry(SealRecord)
    if seal is not None and seal.is_own:
        return result
    seal = SealRecord.of(checkpoint) if seal is None else seal.marked()
    return replace(result, extra={**result.extra, seal.key: seal.to_dict()})


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in a run's directory, with what is known of it.

    Args:
        path: Its path, relative to the run's directory.
        bytes: Its size, where it is known.
        seal: Its hash; ``None`` in results of earlier versions.
    """

    path: str
    bytes: int | None = None
    seal: SealRecord | None = None

    @classmethod
    def of(cls, result: Result) -> Self | None:
        """That of a recorded result; ``None`` where it has none."""
        if result.checkpoint is None:
            return None
        return cls(result.checkpoint, result.checkpoint_bytes, result.entry(SealRecord))

    @property
    def is_own(self) -> bool:
        """Whether this user made it, if it is whole."""
        return self.seal is not None and self.seal.is_own

    def fault(self, directory: Path) -> str:
        """What is wrong with it (``is gone``, ``is damaged``); empty if it is what the candidate left.

        Where there is no hash, its size is compared, and the checksums that the file itself holds.

        Args:
            directory: The run's.
        """
        try:
            path = inside(directory, self.path)
        except OutsideError as error:
            return f"is left alone ({error})"
        try:
            if not path.is_file():
                return "is gone"
            if self.bytes is not None and path.stat().st_size != self.bytes:
                return "is damaged"
            whole = _checksums_hold(path) if self.seal is None else digest_of(path) == self.seal.digest
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if whole else "is damaged"


def _checksums_hold(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError):
        return False
