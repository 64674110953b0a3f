"""The records that callbacks leave in ``Result.extra``, one dataclass per key. No torch here: reports read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lightning_evo.utils.records import known_fields

__all__ = [
    "AveragingRecord",
    "Choice",
    "ContinuationRecord",
    "EarlyFitnessRecord",
    "FastTrainingRecord",
    "FitnessInterval",
    "GrownStep",
    "GrowthRecord",
    "InheritanceRecord",
]


@dataclass(frozen=True)
class FitnessInterval:
    """The predicted end of a training by one objective, with its central 90 % interval.

    Args:
        mean: The mean of the prediction.
        std: Its standard deviation.
        median: Its median.
        low: The 5th percentile.
        high: The 95th percentile.
    """

    mean: float
    std: float
    median: float
    low: float
    high: float

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read a mapping of the fields; what an earlier version didn't write is the middle of the interval."""
        low, high = record["low"], record["high"]
        middle = (low + high) / 2
        return cls(
            record.get("mean", middle), record.get("std", 0.0), record.get("median", middle), float(low), float(high)
        )


@dataclass(frozen=True)
class EarlyFitnessRecord:
    """What :class:`~lightning_evo.callbacks.EarlyFitnessPrediction` predicted and decided.

    Args:
        horizon: Evaluations of the whole training: moments at which every monitored metric was logged.
        control: Whether the candidate was trained to its end whatever was predicted.
        stopped_at: The evaluation (from 0) after which it was stopped; ``None`` where it wasn't.
        would_stop_at: The evaluation after which a control would have been stopped; ``None`` where it wouldn't.
        bar: The fitness to beat, with one objective; ``None`` where there was none yet.
        front: The fitness of the Pareto front to join, with several objectives; ``None`` where nothing was stopped.
        predicted: The prediction at that evaluation, by objective.
        policy: The policy's class.
        delta: The callback's ``delta``; ``None`` where a policy was given.
        probability: P(the final fitness beats the bar, or joins the front) at the last decision; ``None``: unknown.
        decisions: One row per decision: evaluation, probability, and where a prediction was made its median, low and high.
        reason: Why the last decision was as it was.
        share: The share of the whole training that was done at the last decision; ``None``: an earlier version's record.
        epochs: Epochs of the whole training; ``None`` where an epoch has no known end.
    """

    key: ClassVar[str] = "early_fitness"

    horizon: int
    control: bool = False
    stopped_at: int | None = None
    would_stop_at: int | None = None
    bar: float | None = None
    front: Sequence[Sequence[float]] | None = None
    predicted: Mapping[str, FitnessInterval] = field(default_factory=dict)
    policy: str = ""
    delta: float | None = None
    probability: float | None = None
    decisions: Sequence[Sequence[float | None]] = ()
    reason: str = ""
    share: float | None = None
    epochs: float | None = None

    @property
    def decided_at(self) -> int | None:
        """The evaluation after which the training was stopped, or would have been; ``None`` where neither."""
        return self.would_stop_at if self.stopped_at is None else self.stopped_at

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "policy": self.policy,
            "delta": self.delta,
            "control": self.control,
            "horizon": self.horizon,
            "stopped_at": self.stopped_at,
            "would_stop_at": self.would_stop_at,
            "probability": self.probability,
            "bar": self.bar,
            "front": None if self.front is None else [list(point) for point in self.front],
            "predicted": {monitor: dict(vars(interval)) for monitor, interval in self.predicted.items()},
            "decisions": [list(row) for row in self.decisions],
            "reason": self.reason,
            **{name: known for name in ("share", "epochs") if (known := getattr(self, name)) is not None},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        predicted = {monitor: FitnessInterval.from_dict(one) for monitor, one in record.get("predicted", {}).items()}
        return cls(**{**known_fields(cls, record), "predicted": predicted})


@dataclass(frozen=True)
class InheritanceRecord:
    """What :class:`~lightning_evo.callbacks.WeightInheritance` took over from a parent.

    Args:
        parent: Id of the candidate whose weights these were; ``None`` where training began from scratch.
        asked: Id of the candidate that the search asked for; ``None`` outside a search.
        why: Why it wasn't that one, or nobody; empty where all went as asked.
        copied: Tensors taken over whole, by name.
        sliced: Tensors of which a part was taken over.
        identity: Tensors of new layers that compute the identity.
        fresh: Tensors that kept their initial weights.
        optimizer: ``kept``, ``none``, or ``fresh: ...`` with the reason.
        preserving: Whether the child computes what its parent computed; ``None`` where nothing was inherited.
        why_not: Why it doesn't.
    """

    key: ClassVar[str] = "inheritance"

    parent: int | None
    asked: int | None = None
    why: str = ""
    copied: Sequence[str] = ()
    sliced: Sequence[str] = ()
    identity: Sequence[str] = ()
    fresh: Sequence[str] = ()
    optimizer: str = "none"
    preserving: bool | None = None
    why_not: Sequence[str] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors became what."""
        return {name: len(getattr(self, name)) for name in ("copied", "sliced", "identity", "fresh")}

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "from": self.parent,
            "asked": self.asked,
            "why": self.why,
            "copied": list(self.copied),
            "sliced": list(self.sliced),
            "identity": list(self.identity),
            "fresh": list(self.fresh),
            "optimizer": self.optimizer,
            **({} if self.preserving is None else {"preserving": self.preserving, "why_not": list(self.why_not)}),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**known_fields(cls, record), "parent": record.get("from")})


@dataclass(frozen=True)
class ContinuationRecord:
    """Which part of a longer training :class:`~lightning_evo.callbacks.Continuation` trained.

    Args:
        parent: Id of the candidate whose training was continued; ``None`` where it began from scratch.
        asked: Id of the candidate that the search asked for.
        why: Why it wasn't that one, or nobody; empty where all went as asked.
        start: Epochs trained before.
        end: Epochs trained altogether.
        changed: Settings of optimizers that were changed when the training was taken up.
    """

    key: ClassVar[str] = "continuation"

    parent: int | None
    asked: int | None = None
    why: str = ""
    start: int | None = None
    end: int | None = None
    changed: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "from": self.parent,
            "asked": self.asked,
            "why": self.why,
            "start": self.start,
            "end": self.end,
            "changed": list(self.changed),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**known_fields(cls, record), "parent": record.get("from")})


@dataclass(frozen=True)
class GrownStep:
    """A step of growth that a training took.

    Args:
        operation: What was done.
        layer: The layer it was done to.
        settings: Whatever else decides the structure, in absolute numbers.
        epoch: At the start of which epoch (from 0); ``None``: before training.
        source: ``initial``, ``parent`` or ``trigger``.
        before: Parameters before.
        after: Parameters afterwards.
        preserving: Whether the network computed the same afterwards.
        why: Why it was taken.
        notes: What else is worth knowing.
    """

    operation: str
    layer: str
    settings: Mapping[str, Any]
    epoch: int | None
    source: str
    before: int
    after: int
    preserving: bool
    why: str
    notes: Sequence[str] = ()

    @property
    def structure(self) -> tuple[str, str, Mapping[str, Any]]:
        """What decides the structure: equal where two candidates took the same step."""
        return self.operation, self.layer, self.settings

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "epoch": self.epoch,
            "source": self.source,
            "operation": self.operation,
            "layer": self.layer,
            "settings": dict(self.settings),
            "before": self.before,
            "after": self.after,
            "preserving": self.preserving,
            "why": self.why,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**{"source": "", "settings": {}, **known_fields(cls, record)})


@dataclass(frozen=True)
class GrowthRecord:
    """The steps that :class:`~lightning_evo.callbacks.StructuralGrowth` took, in their order."""

    key: ClassVar[str] = "growth"

    steps: Sequence[GrownStep]

    def to_dict(self) -> list[dict[str, Any]]:
        """As JSON: a list of steps."""
        return [step.to_dict() for step in self.steps]

    @classmethod
    def from_dict(cls, record: Sequence[Mapping[str, Any]]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls([GrownStep.from_dict(step) for step in record])


@dataclass(frozen=True)
class AveragingRecord:
    """What :class:`~lightning_evo.callbacks.SwarmAveraging` averaged.

    Args:
        method: The method; ``None`` where only a soup was made.
        size: Particles in the swarm.
        averagings: How often weights were averaged.
        rejected: How often an average was rejected, as it was worse.
        soup: The soup made at the end, as JSON; ``None`` where none was.
    """

    key: ClassVar[str] = "averaging"

    method: str | None
    size: int
    averagings: int
    rejected: int
    soup: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        done = {name: value for name, value in vars(self).items() if name != "soup"}
        return {**done, **({"soup": dict(self.soup)} if self.soup else {})}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


@dataclass(frozen=True)
class Choice:
    """What was decided about one setting.

    Args:
        on: Whether it is used.
        why: The reason, a short sentence without a period.
        value: The value, for settings that aren't just on or off.
    """

    on: bool
    why: str
    value: str = ""


@dataclass(frozen=True)
class FastTrainingRecord:
    """What :class:`~lightning_evo.callbacks.FastTraining` decided, by the name of its argument."""

    key: ClassVar[str] = "fast"

    choices: Mapping[str, Choice]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: a mapping per choice."""
        return {name: dict(vars(choice)) for name, choice in self.choices.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Mapping[str, Any]]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls({name: Choice(**known_fields(Choice, choice)) for name, choice in record.items()})
