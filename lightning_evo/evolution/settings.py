"""Settings of a search besides its space and algorithm: budget, workers, and what happens at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import Literal

from lightning_evo.genome import Json

__all__ = ["Budget", "Final", "Workers", "seconds"]


MOST = 4096
"""Processes, threads and members of a stack that may be asked for: more are a slip, and would take the machine down."""

LONGEST = 1e9
"""Seconds, 31 years: clocks and timers overflow somewhere above."""


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
    # Text comes first: as a number, jsonargparse would take 1:00:00:00 for one in base 60.
    wall_time: str | float | None = None

    def __post_init__(self) -> None:
        if self.candidates is None and self.epochs is None and self.wall_time is None:
            raise ValueError("candidates, epochs, wall_time: no limit is set; set at least one")
        for name in ("candidates", "epochs"):
            limit = getattr(self, name)
            if limit is not None:
                _check_whole(name, limit)
                if limit <= 0:
                    raise ValueError(f"{name}: {limit!r} is not above 0")
        if self.wall_time is not None:
            seconds(self.wall_time, "wall_time")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, of ``candidates``, ``epochs``, ``seconds``."""
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
        preload: Modules that are imported once for all workers, as far as forks can inherit them, instead of by each of
            them. Default: those that the config names classes of. ``[]``: none.
        chdir: Run each candidate in its own directory, where files that it writes to its working directory don't meet
            those of others. Relative paths in the config mean what they mean without it.
    """

    slots: int | None = None
    devices_per_candidate: int = 1
    threads: int | None = None
    time_limit: str | float | None = None
    max_retries: int = 2
    recycle_after: int | None = None
    stack: int | Literal["auto"] | None = None
    chdir: bool = False
    preload: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("slots", "devices_per_candidate", "threads", "recycle_after"):
            number = getattr(self, name)
            if number is None and name != "devices_per_candidate":
                continue
            _check_whole(name, number)
            if number < 1:
                raise ValueError(f"{name}: {number!r} is not at least 1")
        for name in ("devices_per_candidate", "threads"):
            if (getattr(self, name) or 1) > MOST:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at most {MOST}, more than any machine has")
        _check_whole("max_retries", self.max_retries)
        if self.max_retries < 0:
            raise ValueError(f"max_retries: {self.max_retries!r} is not at least 0")
        if self.time_limit is not None:
            seconds(self.time_limit, "time_limit")
        if self.preload is not None:
            _check_modules("preload", self.preload)
        if not isinstance(self.chdir, bool):
            raise ValueError(f"chdir: {self.chdir!r} is not true or false")
        if self.stack is None:
            return
        if self.stack != "auto":
            if isinstance(self.stack, (bool, str)) or self.stack < 2:
                raise ValueError(f"stack: {self.stack!r} is not 'auto' or a number of at least 2")
            _check_whole("stack", self.stack)
            if self.stack > MOST:
                raise ValueError(f"stack: {self.stack!r} is not at most {MOST}, the candidates that one stack may have")
        if self.devices_per_candidate > 1:
            raise ValueError(
                f"stack: {self.stack} with devices_per_candidate {self.devices_per_candidate}: a stack trains several "
                "candidates on one device; leave one of the two out"
            )

    @property
    def time_limit_seconds(self) -> float | None:
        """``time_limit`` in seconds."""
        return None if self.time_limit is None else seconds(self.time_limit, "time_limit")


@dataclass(frozen=True)
class Final:
    """The treatment of the winner when the budget is spent.

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
        for name in ("retrain", "test"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: {getattr(self, name)!r} is not true or false")
        if not isinstance(self.overrides, Mapping):
            raise ValueError(f"overrides: {self.overrides!r} is not a mapping of config path to value")
        if self.overrides and not self.retrain:
            raise ValueError(f"overrides: {dict(self.overrides)} has no effect without retrain: true")


def seconds(duration: float | str, name: str) -> float:
    """A duration in seconds, given so or as ``[DD:]HH:MM:SS``.

    Raises:
        ValueError: If it is neither, or isn't above 0 and at most 1e9 s; the message names ``name``.

    >>> seconds("1:00:00:00", "wall_time")
    86400.0
    """
    found = _read_seconds(duration)
    if found is None:
        raise ValueError(f"{name}: {duration!r} is not a number of seconds or DD:HH:MM:SS")
    if not 0 < found <= LONGEST:
        raise ValueError(f"{name}: {duration!r} is not above 0 and at most {LONGEST:g} s")
    return found


def _read_seconds(duration: float | str) -> float | None:
    if isinstance(duration, bool):
        return None
    try:
        if not isinstance(duration, str):
            return float(duration)
        parts = duration.split(":")
        if len(parts) == 1:
            return float(duration)
        days, hours, minutes, rest = (float(part) for part in ["0"] * (4 - len(parts)) + parts)
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=rest).total_seconds()
    except OverflowError:
        return math.inf
    except (ValueError, TypeError):
        return None


def _check_modules(name: str, modules: object) -> None:
    if not isinstance(modules, (list, tuple)):
        raise ValueError(f"{name}: {modules!r} is not a list of modules' names")
    for module in modules:
        parts = module.split(".") if isinstance(module, str) else [""]
        if not all(part.isidentifier() for part in parts) or module == "__main__":
            raise ValueError(f"{name}: {module!r} is not the name of a module, such as 'package.module'")
        try:
            there = find_spec(module) is not None  # imports the package that it is in
        except ModuleNotFoundError:
            there = False
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise ValueError(f"{name}: {module!r} can't be imported: {reason}") from error
        if not there:
            raise ValueError(f"{name}: there is no module {module!r}")


def _check_whole(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"{name}: {number!r} is not a whole number")
