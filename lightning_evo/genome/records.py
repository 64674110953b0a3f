"""Plain data that crosses the borders of rooms: objectives, candidates and results."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

from lightning_evo.genome.genome import Genome
from lightning_evo.genome.representation import html_table, listed, shown
from lightning_evo.utils.records import known_fields
from lightning_evo.utils.seeds import derive_seed
from lightning_evo.utils.text import bounded, first_line_of, message_of, storable, storable_data, traceback_of

__all__ = [
    "COMPLETED",
    "FAILED",
    "MAX_CURVE",
    "MAX_ERROR",
    "MAX_ERROR_TYPE",
    "MAX_EXTRA",
    "MAX_METRICS",
    "MAX_NAME",
    "POSITION",
    "STOPPED",
    "Candidate",
    "ExtraEntry",
    "LeftOutRecord",
    "Objective",
    "Prediction",
    "Result",
    "Segment",
    "StackRecord",
    "Status",
    "UncountedFlopsRecord",
    "derive_seed",
    "evaluations",
    "known_fields",
    "position_of",
]

Status = Literal["completed", "stopped", "failed"]
COMPLETED: Status = "completed"
STOPPED: Status = "stopped"
FAILED: Status = "failed"

MAX_ERROR = 64 * 1024
"""Characters of an error's text that a result keeps: its head and its tail."""
MAX_ERROR_TYPE = 1000
"""Characters of the short description of an error."""
MAX_NAME = 500
"""Characters of a metric's name."""
MAX_METRICS = 2000
"""Metrics of one candidate."""
MAX_CURVE = 1_000_000
"""Numbers in one candidate's curve, unless so many epochs have two names each."""
POSITION = frozenset({"epoch", "step"})
"""What a point of a learning curve has besides metrics: its place in the training."""
MAX_EXTRA = 4 * 1024 * 1024
"""Characters of JSON under one key of ``Result.extra``."""


@dataclass(frozen=True)
class Objective:
    """A metric or cost to optimize.

    Args:
        monitor: A metric the module logs (``val_acc``), or a measured cost: ``cost/params``, ``cost/flops``,
            ``cost/training_flops``, ``cost/seconds``, ``cost/peak_memory``, ``cost/epochs``, ``cost/samples_per_second``,
            ``cost/waiting``, ``cost/utilisation``.
        mode: ``max`` or ``min``.
    """

    monitor: str
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise ValueError(f"mode: {self.mode!r} is not 'max' or 'min'")
        if not self.monitor:
            raise ValueError(
                "monitor: '' is not a metric's name: name one that the module logs, or a cost such as cost/params"
            )
        if len(self.monitor) > MAX_NAME or storable(self.monitor) != self.monitor:
            shortened = bounded(storable(self.monitor), 100)
            raise ValueError(
                f"monitor: {shortened!r} is not a metric's name: give at most {MAX_NAME} characters of Unicode text"
            )

    @property
    def weight(self) -> float:
        """DEAP's fitness weight: +1.0 to maximize, -1.0 to minimize."""
        return 1.0 if self.mode == "max" else -1.0

    @property
    def worst(self) -> float:
        """The fitness value no candidate can be worse than."""
        return -math.inf * self.weight

    @property
    def logged(self) -> bool:
        """Whether it is a metric that the module logs, not a cost."""
        return not self.monitor.startswith("cost/")


def evaluations(curve: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> list[Mapping[str, float]]:
    """The points of a learning curve that have a value of every objective which is a logged metric.

    >>> evaluations([{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "acc": 0.5}], [Objective("acc")])
    [{'epoch': 1, 'loss': 1.0, 'acc': 0.5}]
    """
    monitors = [objective.monitor for objective in objectives if objective.logged]
    return [point for point in curve if all(monitor in point for monitor in monitors)]


def position_of(point: Mapping[str, float]) -> int:
    """Where a point of a learning curve is in its training: its step, or where it has none its epoch."""
    return int(point.get("step", point["epoch"]))


@dataclass(frozen=True)
class Prediction:
    """The prediction for a candidate before training.

    Args:
        mean: The predicted fitness, one value per objective, in the objectives' own units.
        std: Its uncertainty, a standard deviation per objective.
        used: Whether the candidate was chosen by it; ``False`` for unfiltered candidates.
        results: Number of results the predictor was fitted to.
        proxies: Zero-cost proxies of the untrained network, by name; one that could not be measured is missing.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    used: bool = False
    results: int = 0
    proxies: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold; :meth:`from_dict` reads it."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "used": self.used,
            "results": self.results,
            "proxies": dict(self.proxies),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Prediction:
        """Read what :meth:`to_dict` gave."""
        return cls(**{**record, "mean": tuple(record["mean"]), "std": tuple(record["std"])})


@dataclass(frozen=True)
class Segment:
    """The epochs of a longer training that a candidate trains.

    Args:
        start: Epochs trained before it: 0 for a new training, otherwise it continues the training of the candidate it
            inherits from, with its complete state.
        end: Epochs trained when it ends.

    Raises:
        ValueError: If it has no epochs.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"segment from {self.start} to {self.end}: give 0 <= start < end")


@dataclass(frozen=True)
class Candidate:
    """A genome with its place in the search.

    Args:
        id: Number of the candidate, from 0 in the order of asking.
        genome: The values of the genes.
        parents: Ids of the candidates it was bred from, none if it was sampled.
        generation: 0 for the initial population, else one more than its oldest generation of parents.
        seed: Seed of its training; derived from the run's seed and ``id`` alone.
        origin: The operation that made it (``sample``, ``mutate``, ``mate``, ``mate+mutate``, ...).
        inherits: Id of the candidate whose weights it starts from, or whose training it continues, if any.
        duplicate_of: Id of the earlier candidate with the same phenotype; such a candidate isn't trained but gets that
            one's result.
        prediction: The prediction before training, if any.
        segment: The epochs it trains, if it isn't a whole training.
    """

    id: int
    genome: Genome
    parents: tuple[int, ...] = ()
    generation: int = 0
    seed: int = 0
    origin: str = "sample"
    inherits: int | None = None
    duplicate_of: int | None = None
    prediction: Prediction | None = None
    segment: Segment | None = None

    def __repr__(self) -> str:
        """What it is in a line: the genome under short names, then what isn't as usual; all of it: ``vars(candidate)``.

        >>> Candidate(7, Genome({"model.init_args.lr": 0.01}), parents=(2, 3), generation=1, origin="mutate")
        Candidate(7, {lr: 0.01}, parents=(2, 3), generation=1, origin='mutate')
        """
        return f"Candidate({', '.join([str(self.id), listed(self.genome), *_unusual(self, _OF_CANDIDATE)])})"

    def _repr_html_(self) -> str:
        about = [(name, getattr(self, name)) for name in _OF_CANDIDATE]
        rows = [(path, value) for path, value in (*about, *self.genome.items()) if value not in (None, ())]
        return html_table([], rows, f"Candidate {self.id}")


class ExtraEntry(Protocol):
    """What is stored under one key of ``Result.extra``: a dataclass in the room that writes it.

    Attributes:
        key: The key.
    """

    key: ClassVar[str]

    def to_dict(self) -> Any:
        """As JSON."""
        ...

    @classmethod
    def from_dict(cls, record: Any) -> Self:
        """Read what :meth:`to_dict` gave, or what it gave in an earlier version."""
        ...


E = TypeVar("E", bound=ExtraEntry)


@dataclass(frozen=True)
class Result:
    """How a candidate ended.

    Args:
        status: ``completed``, ``stopped`` (early; its fitness is predicted) or ``failed``.
        fitness: One value per objective, in order; ``None`` if it failed.
        metrics: All metrics logged at the evaluation that the fitness is of.
        curve: One mapping per epoch: ``epoch`` (from 0) and every metric logged in it. Where validations are scheduled
            within epochs: one per validation and end of an epoch, with ``step`` (optimizer steps so far) too. Points that
            have every objective are the evaluations (:func:`evaluations`).
        cost: ``params``, ``flops`` (per training sample, forward and backward), ``training_flops`` (of all of them),
            ``seconds``, ``peak_memory`` (bytes), ``epochs``, ``samples_per_second``, ``waiting`` (for data) and
            ``utilisation`` (shares of the time).
        checkpoint: Path of the Lightning checkpoint: from training relative to the candidate's directory, in the archive
            relative to the run's.
        checkpoint_bytes: Its size, for detecting damage.
        error: Traceback or reason, if it failed.
        error_type: Short description of the error, equal for equal failures (the exception's class and message).
        fatal: Whether the failure is the machine's, not this candidate's (full disk), so that the search must stop.
        started: When training began, in seconds since the epoch.
        ended: When it ended.
        slot: Slot in which it ran.
        attempts: How often it was started (more than once if a worker died).
        extra: Additional data from callbacks: JSON by name.
    """

    status: Status
    fitness: tuple[float, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    checkpoint: str | None = None
    checkpoint_bytes: int | None = None
    error: str | None = None
    error_type: str | None = None
    fatal: bool = False
    started: float | None = None
    ended: float | None = None
    slot: int | None = None
    attempts: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """What it is in a line: how it ended, and the size of what is long; all of it: ``result.to_dict()``.

        >>> Result("completed", (0.9,), {"val_acc": 0.9}, curve=[{"epoch": 0, "val_acc": 0.9}], cost={"seconds": 1.5})
        Result('completed', fitness=(0.9,), metrics={val_acc: 0.9}, cost={seconds: 1.5}, epochs in curve: 1)
        """
        parts = [repr(self.status), *([] if self.fitness is None else [f"fitness={self.fitness}"])]
        parts += [f"{name}={listed(getattr(self, name))}" for name in ("metrics", "cost") if getattr(self, name)]
        parts += [f"epochs in curve: {len(self.curve)}"] if self.curve else []
        parts += [f"error_type={shown(self.error_type, 100)!r}"] if self.error_type else []
        parts += ["fatal=True"] if self.fatal else []
        return f"Result({', '.join([*parts, *(['extra: ' + ', '.join(self.extra)] if self.extra else [])])})"

    def _repr_html_(self) -> str:
        about = [(name, getattr(self, name)) for name in ("fitness", "error_type", "checkpoint", "slot", "attempts")]
        measured = [(f"cost/{name}", value) for name, value in self.cost.items()]
        rows = [*about, *self.metrics.items(), *measured, ("epochs in curve", len(self.curve))]
        rows += [("extra", ", ".join(self.extra))]
        return html_table([], [(name, value) for name, value in rows if value not in (None, "")], str(self.status))

    def entry(self, kind: type[E]) -> E | None:
        """Read what ``extra`` holds under ``kind``'s key; ``None`` where there is nothing."""
        return kind.from_dict(self.extra[kind.key]) if kind.key in self.extra else None

    @classmethod
    def failure(cls, error: BaseException, **known: Any) -> Result:
        """The failed result of an exception: its traceback as text, and whether it is the machine's fault (full disk).

        Args:
            error: What was raised. No reference to it, nor to anything its frames hold, is kept.
            known: Other fields already known, such as the curve so far.
        """
        return cls(
            FAILED,
            error=bounded(storable(bounded(traceback_of(error), MAX_ERROR)), MAX_ERROR),
            error_type=bounded(storable(bounded(first_line_of(error), MAX_ERROR_TYPE)), MAX_ERROR_TYPE),
            fatal=_is_full_disk(error),
            **known,
        )

    def storable(self) -> Result:
        """Return this result as it can be stored: itself, or where that is needed a copy with valid and bounded text.

        Lone surrogates and NUL become readable escapes. Of a long error the head and the tail are kept, of very many metrics
        and very long curves the first names, and no entry of ``extra`` that is larger than ``MAX_EXTRA``; what was left out
        is counted in a :class:`LeftOutRecord`. A result that isn't plain data becomes a failed one.
        """
        try:
            return self if _is_storable(self) else self._made_storable()
        except Exception as error:  # whatever an odd object within the result raises
            return self._not_plain(error)

    def to_json(self) -> str:
        """This result as JSON text, as it can be stored (:meth:`storable`)."""
        result = self.storable()
        try:
            return json.dumps(result.to_dict())
        except Exception as error:
            return json.dumps(self._not_plain(error).to_dict())

    def _not_plain(self, error: Exception) -> Result:
        known = {"slot": self.slot, "attempts": self.attempts, "started": self.started, "ended": self.ended}
        return Result.failure(TypeError(f"the result is not plain data: {message_of(error)}"), **known)

    def _made_storable(self) -> Result:
        metrics, dropped = _first_names(self.metrics, MAX_METRICS)
        names = dict.fromkeys(name for point in self.curve for name in point)
        allowed = min(MAX_METRICS + 1, max(2, MAX_CURVE // max(1, len(self.curve))))
        of_curve, dropped_of_curve = _first_names(names, allowed)
        extra, large = _small_entries(self.extra)
        left_out = LeftOutRecord(dropped, dropped_of_curve, large)
        if left_out.anything:
            earlier = self.entry(LeftOutRecord) if isinstance(extra.get(LeftOutRecord.key), Mapping) else None
            extra[LeftOutRecord.key] = left_out.added_to(earlier).to_dict()
        return replace(
            self,
            metrics={storable(bounded(name, MAX_NAME)): self.metrics[name] for name in metrics},
            curve=tuple(_point(point, of_curve) for point in self.curve),
            cost=storable_data(self.cost),
            error=None if self.error is None else bounded(storable(self.error), MAX_ERROR),
            error_type=None if self.error_type is None else bounded(storable(self.error_type), MAX_ERROR_TYPE),
            extra=extra,
        )

    def to_dict(self) -> dict[str, Any]:
        """As a mapping that JSON can hold (NaN and infinities included, as Python's json writes them)."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        record["fitness"] = None if self.fitness is None else list(self.fitness)
        record["curve"] = [dict(point) for point in self.curve]
        for name in ("metrics", "cost", "extra"):
            record[name] = dict(record[name])
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Result:
        """Read what :meth:`to_dict` gave; unknown keys of a later version are refused by name (``TypeError``)."""
        fitness = record.get("fitness")
        return cls(**{**record, "fitness": None if fitness is None else tuple(fitness)})


@dataclass(frozen=True)
class StackRecord:
    """The stack in which a candidate trained, as its result holds it.

    Args:
        id: The stack's id: that of its first candidate.
        size: Candidates in it.
        lowering: How it was computed: ``stack`` (as one computation), ``loop`` (one candidate after the other), or
            ``alone`` where the candidate was to train in a stack and didn't.
        reason: Why; empty where it needs none.
        position: The candidate's place in it, from 0.
    """

    key: ClassVar[str] = "stack"

    id: int
    size: int
    lowering: str
    reason: str = ""
    position: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


@dataclass(frozen=True)
class UncountedFlopsRecord:
    """Operations that ``cost/flops`` leaves out, because no formula is known of them.

    Args:
        calls: How often each ran in the training step that was counted.

    >>> print(UncountedFlopsRecord({"aten::linalg_qr": 2}))
    cost/flops leaves out aten::linalg_qr (2 calls per step): torch.utils.flop_counter.register_flop_formula adds a formula
    """

    key: ClassVar[str] = "uncounted_flops"

    calls: Mapping[str, int]

    def __str__(self) -> str:
        named = [f"{name} ({count} call{'s' * (count != 1)} per step)" for name, count in self.calls.items()]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        said = f"cost/flops leaves out {', '.join(named[:_NAMED])}{more}"
        return f"{said}: torch.utils.flop_counter.register_flop_formula adds a formula"

    def to_dict(self) -> dict[str, int]:
        """As JSON: calls by name."""
        return dict(self.calls)

    @classmethod
    def from_dict(cls, record: Mapping[str, int]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(dict(record))


_NAMED = 5


@dataclass(frozen=True)
class LeftOutRecord:
    """The parts left out of a result because it was too large.

    Args:
        metrics: How many metrics.
        curve: How many names of the curve.
        extra: The entries of ``extra`` that were too large: key -> characters of JSON.
    """

    key: ClassVar[str] = "left_out"

    metrics: int = 0
    curve: int = 0
    extra: Mapping[str, int] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether something was left out."""
        return bool(self.metrics or self.curve or self.extra)

    def added_to(self, earlier: LeftOutRecord | None) -> LeftOutRecord:
        """Return what was left out here and earlier."""
        if earlier is None:
            return self
        return LeftOutRecord(
            self.metrics + earlier.metrics, self.curve + earlier.curve, {**earlier.extra, **self.extra}
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"metrics": self.metrics, "curve": self.curve, "extra": dict(self.extra)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        return cls(**known_fields(cls, record))


_OF_CANDIDATE = ("parents", "generation", "origin", "inherits", "duplicate_of", "segment")
"""What is worth a word of a candidate, where it isn't the default; a prediction, which is long, is not."""


def _unusual(record: Candidate, names: Sequence[str]) -> list[str]:
    defaults = {each.name: each.default for each in fields(record)}
    values = {name: getattr(record, name) for name in names}
    return [f"{name}={value!r}" for name, value in values.items() if value != defaults[name]]


_UNSTORABLE = re.compile(r"\\u(?:d[89a-f]|0000)")
"""In JSON: NUL, and surrogates, which are all there is of a character beyond the first plane, or stand alone."""


def _is_storable(result: Result) -> bool:
    """Whether a result needs no change; without looking at each of its numbers, of which there may be many."""
    names = set(result.metrics).union(result.cost, *result.curve)
    if len(result.metrics) > MAX_METRICS or (len(names) * len(result.curve) > MAX_CURVE and len(names) > 2):
        return False
    texts = ((result.error or "", MAX_ERROR), (result.error_type or "", MAX_ERROR_TYPE))
    if not all(_fits(text, longest) for text, longest in (*texts, *((name, MAX_NAME) for name in names))):
        return False
    if not result.extra:
        return True
    extra = json.dumps(dict(result.extra))
    return not _UNSTORABLE.search(extra) and (len(extra) <= MAX_EXTRA or not _small_entries(result.extra)[1])


def _fits(text: str, longest: int) -> bool:
    return len(text) <= longest and "\0" not in text and (text.isascii() or storable(text) == text)


def _first_names(names: Iterable[str], count: int) -> tuple[list[str], int]:
    """The first names, and how many there are besides."""
    found = list(names)
    return found[:count], max(0, len(found) - count)


def _point(point: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {storable(bounded(name, MAX_NAME)): point[name] for name in names if name in point}


def _small_entries(extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The entries that are not too large, and the size of the others."""
    kept, large = {}, {}
    for key, value in extra.items():
        size = len(json.dumps(value))
        if size > MAX_EXTRA:
            large[bounded(storable(key), MAX_NAME)] = size
        else:
            kept[bounded(storable(key), MAX_NAME)] = storable_data(value)
    return kept, large


def _is_full_disk(error: BaseException) -> bool:
    try:
        return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    except Exception:
        return False  # an errno of the user's own making
