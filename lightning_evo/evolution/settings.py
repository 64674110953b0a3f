"""Settings of a search besides its space and algorithm: budget, workers, and what happens at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from lightning_evo.genome import Json

__all__ = ["Budget", "Final", "Workers", "seconds"]


@dataclass(frozen=True)
class Budget:
    """When to stop: the first limit that is reached ends the search. Running candidates are always completed.

    Args:
        candidates: Number of candidates, including duplicates that aren't trained again.
        epochs: Number of training epochs over all candidates.
        wall_time: Seconds, or ``DD:HH:MM:SS`` (or ``HH:MM:SS``), accumulated over interrupted and continued runs.

    >>> Budget(wall_time="01:30:00").seconds
    5400.0
    """

    candidates: int | None = None
    epochs: int | None = None
    wall_time: float | str | None = None

    def __post_init__(self) -> None:
        limits = {"candidates": self.candidates, "epochs": self.epochs, "wall_time": self.seconds}
        if all(limit is None for limit in limits.values()):
            raise ValueError("no limit is set; set at least one of candidates, epochs, wall_time")
        for name, limit in limits.items():
            if limit is not None and limit <= 0:
                raise ValueError(f"{name} {limit} is not above 0")

    @property
    def limits(self) -> dict[str, float]:
        """What is limited: ``candidates``, ``epochs``, ``seconds``."""
        limits = {"candidates": self.candidates, "epochs": self.epochs, "seconds": self.seconds}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def seconds(self) -> float | None:
        """``wall_time`` in seconds."""
        return None if self.wall_time is None else seconds(self.wall_time, "wall_time")


@dataclass(frozen=True)
class Workers:
    """Where candidates train.

    Args:
        slots: Number of candidates that train at once. Default: on GPUs one per ``devices_per_candidate`` devices; on
            CPU one per core this process may use.
        devices_per_candidate: Devices (on CPU: processes) that train one candidate together with DDP.
        threads: CPU threads per candidate. Default: ``OMP_NUM_THREADS`` if set, otherwise the cores divided evenly
            among the slots.
        time_limit: Seconds (or ``HH:MM:SS``) after which a candidate is killed and counts as failed. Default: none.
        max_retries: How often a candidate is restarted after its worker process died.
        recycle_after: Replace a worker process after this many candidates. Default: never.
        stack: Train up to this many candidates together, as one batched computation, if they differ only in numbers
            that don't change the network's structure (see :mod:`lightning_evo.evolution.stacking`). ``auto``: up to 16.
            This many candidates are bred per free slot, before the results of the others are known. Default: train each
            candidate separately.
    """

    slots: int | None = None
    devices_per_candidate: int = 1
    threads: int | None = None
    time_limit: float | str | None = None
    max_retries: int = 2
    recycle_after: int | None = None
    stack: int | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        positive = ("slots", "devices_per_candidate", "threads", "recycle_after")
        for name in positive:
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} {number} is not at least 1")
        if self.max_retries < 0:
            raise ValueError(f"max_retries {self.max_retries} is below 0")
        if self.time_limit_seconds is not None and self.time_limit_seconds <= 0:
            raise ValueError(f"time_limit {self.time_limit} is not above 0")
        if self.stack is None:
            return
        if self.stack != "auto" and (isinstance(self.stack, str) or self.stack < 2):
            raise ValueError(f"stack {self.stack} is neither 'auto' nor a number of at least 2")
        if self.devices_per_candidate > 1:
            raise ValueError(
                f"stack {self.stack} with devices_per_candidate {self.devices_per_candidate}: a stack trains several "
                "candidates on one device; leave one of the two out"
            )

    @property
    def time_limit_seconds(self) -> float | None:
        """``time_limit`` in seconds."""
        return None if self.time_limit is None else seconds(self.time_limit, "time_limit")


@dataclass(frozen=True)
class Final:
    """What happens with the winner when the budget is spent.

    The winner is the best candidate of the first objective (with several objectives: of the Pareto front). It is written
    to ``<directory>/final/`` as ``config.yaml`` and ``model.ckpt``.

    Args:
        retrain: Train it again from scratch, with ``overrides``, instead of using its checkpoint.
        test: Test it, once, on the test split (if there is one), which the search itself never uses.
        overrides: Config path -> value for retraining: more epochs, a larger part of the data.
    """

    retrain: bool = False
    test: bool = True
    overrides: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.overrides and not self.retrain:
            raise ValueError(f"overrides {dict(self.overrides)} have no effect without retrain: true")


def seconds(duration: float | str, name: str) -> float:
    """A duration in seconds, given so or as ``[DD:]HH:MM:SS``.

    Raises:
        ValueError: If it is neither; the message names ``name``.

    >>> seconds("1:00:00:00", "wall_time")
    86400.0
    """
    if not isinstance(duration, str):
        return float(duration)
    parts = duration.split(":")
    try:
        if len(parts) == 1:
            return float(duration)
        days, hours, minutes, rest = (float(part) for part in ["0"] * (4 - len(parts)) + parts)
    except ValueError:
        raise ValueError(f"{name} {duration!r} is neither a number of seconds nor DD:HH:MM:SS") from None
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=rest).total_seconds()
