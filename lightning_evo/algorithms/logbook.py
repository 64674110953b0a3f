"""The logbook: DEAP's statistics of every objective over the population."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy
from deap import tools

from lightning_evo.algorithms.individual import Individual
from lightning_evo.genome import Objective

__all__ = ["make_logbook", "no_statistics"]

STATISTICS: dict[str, Callable[..., float]] = {
    "min": numpy.min,
    "mean": numpy.mean,
    "max": numpy.max,
    "std": numpy.std,
}


def make_logbook(monitors: list[str]) -> tuple[tools.Logbook, tools.MultiStatistics]:
    """Make an empty logbook with a chapter per objective, and the statistics that compile its records."""
    logbook = tools.Logbook()
    logbook.header = ["gen", "nevals", "failed", "diversity", *monitors]
    statistics = tools.MultiStatistics()
    for i, monitor in enumerate(monitors):
        statistics[monitor] = tools.Statistics(partial(_value, i))
        logbook.chapters[monitor].header = list(STATISTICS)
    for name, function in STATISTICS.items():
        statistics.register(name, function)
    return logbook, statistics


def _value(objective: int, individual: Individual) -> float:
    return individual.fitness.values[objective]


def no_statistics(objectives: Sequence[Objective]) -> dict[str, dict[str, float]]:
    """The statistics of an empty population: all NaN."""
    return {objective.monitor: dict.fromkeys(STATISTICS, math.nan) for objective in objectives}
