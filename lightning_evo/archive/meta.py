"""Metadata of a run as a whole, one dataclass per key of the archive's meta values that several rooms read.

What one room alone writes and reads has its dataclass there. The other keys hold plain values: ``seed``, ``budget`` (limits
by name), ``version`` (of this package), ``created`` and ``elapsed`` (seconds), ``end`` (why the search ended, empty while it
goes on), ``objectives``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from lightning_evo.archive.seals import SealRecord
from lightning_evo.genome.links import Link
from lightning_evo.genome.records import ExtraEntry
from lightning_evo.utils.records import known_fields

__all__ = [
    "FINAL_CHECKPOINT",
    "CheckpointUsage",
    "FinalOutcome",
    "FinalRequest",
    "OwnersRecord",
    "RetriedRecord",
    "SearchDescription",
    "read_meta",
]

FINAL_CHECKPOINT = "final/model.ckpt"
"""The winner's checkpoint, relative to the run's directory."""

E = TypeVar("E", bound=ExtraEntry)


def read_meta(meta: Mapping[str, Any], kind: type[E]) -> E | None:
    """Read what meta values hold under ``kind``'s key; ``None`` where there is nothing.

    >>> read_meta({"checkpoints": {"kept": 2, "bytes": 10, "peak_bytes": 30}}, CheckpointUsage)
    CheckpointUsage(kept=2, bytes=10, peak_bytes=30)
    """
    return kind.from_dict(meta[kind.key]) if meta.get(kind.key) is not None else None


@dataclass(frozen=True)
class SearchDescription:
    """Everything that decides which candidates come and how they fare; two searches are the same if theirs are equal.

    Args:
        evolution: The search's settings: ``space``, ``algorithm``, ``objectives``, ``fitness_epoch``, ``callbacks``,
            ``links``.
        trainable: What is evolved: ``config`` and ``cli``, or ``function``.
    """

    key: ClassVar[str] = "search"

    evolution: Mapping[str, Any] = field(default_factory=dict)
    trainable: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Mapping[str, Any]:
        """The description of each gene, by config path; empty where it isn't known."""
        space = self.evolution.get("space")
        return space if isinstance(space, Mapping) else {}

    @property
    def algorithm(self) -> Mapping[str, Any]:
        """The algorithm's ``class_path`` and ``init_args``; empty where it isn't known."""
        algorithm = self.evolution.get("algorithm")
        return algorithm if isinstance(algorithm, Mapping) else {}

    @property
    def links(self) -> tuple[Link, ...]:
        """Which values follow others."""
        written = self.evolution.get("links") or ()
        return tuple(Link(link["from"], link["to"], f"evolution.links[{i}]") for i, link in enumerate(written))

    @property
    def config(self) -> Mapping[str, Any] | None:
        """The config in which genes vary; ``None`` where a function is evolved."""
        return self.trainable.get("config")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"evolution": dict(self.evolution), **self.trainable}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(
            record.get("evolution") or {}, {name: value for name, value in record.items() if name != "evolution"}
        )


@dataclass(frozen=True)
class OwnersRecord:
    """The users who have run a search, told by keys that lie outside of its directory.

    Args:
        marks: The name of a user's key -> the mark, by that key, of the archive's description of the search.
    """

    key: ClassVar[str] = "owners"

    marks: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return dict(self.marks)

    @classmethod
    def from_dict(cls, record: Mapping[str, str]) -> Self:
        """Read what :meth:`to_dict` gave; anything else names no owner."""
        return cls(record if isinstance(record, Mapping) else {})


@dataclass(frozen=True)
class RetriedRecord:
    """The candidates whose failures were not to stand: they are trained again, and a new result replaces the old one.

    Args:
        places: Id -> the sequence number of the first result: where in the order of events a later one is told.
        replaced: Id -> the sequence number of the result that is to be replaced; one that is still there waits.
    """

    key: ClassVar[str] = "retried"

    places: Mapping[int, int] = field(default_factory=dict)
    replaced: Mapping[int, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {name: {str(id): at for id, at in known.items()} for name, known in vars(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, int]]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{name: {int(id): at for id, at in record[name].items()} for name in ("places", "replaced")})


@dataclass(frozen=True)
class CheckpointUsage:
    """The disk space of a run's checkpoints.

    Args:
        kept: How many there are.
        bytes: What they take now.
        peak_bytes: The most they took at any time.
    """

    key: ClassVar[str] = "checkpoints"

    kept: int = 0
    bytes: int = 0
    peak_bytes: int = 0

    def to_dict(self) -> dict[str, int]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


@dataclass(frozen=True)
class FinalRequest:
    """The requested treatment of the winner.

    Args:
        candidate: The winner's id.
        retrain: Whether to train it again, by other settings.
        test: Whether to test it.
        config: By which config.
    """

    candidate: int
    retrain: bool = False
    test: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FinalOutcome:
    """The winner as it was finished.

    Args:
        request: What was asked for.
        metrics: Of the test and, where it was retrained, of the training.
        tested: Whether it was tested.
        why_not: Why it wasn't.
        retrained: Whether it was trained again.
        packed: What is worth knowing of the exported files.
        seal: The hash of its checkpoint; ``None`` in archives of earlier versions.
    """

    key: ClassVar[str] = "final"

    request: FinalRequest
    metrics: Mapping[str, float] = field(default_factory=dict)
    tested: bool = False
    why_not: str = ""
    retrained: bool = False
    packed: str = ""
    seal: SealRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        seal = {} if self.seal is None else {self.seal.key: self.seal.to_dict()}
        known = {name: value for name, value in vars(self).items() if name != SealRecord.key}
        return {**known, **seal, "request": dict(vars(self.request)), "metrics": dict(self.metrics)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        request = FinalRequest(**known_fields(FinalRequest, record["request"]))
        seal = record.get(SealRecord.key)
        known = {**known_fields(cls, record), "request": request}
        return cls(**{**known, "seal": None if seal is None else SealRecord.from_dict(seal)})
